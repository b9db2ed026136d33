"""Checks at the start of training: a run that cannot learn is refused, with what to change."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pyarrow.compute as pc
from datasets import Dataset
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import TrainingArguments

from .peft_shims import row_layers


IGNORED = -100


def check_steps(args: TrainingArguments) -> None:
    """Raises `ValueError` for settings that ask for no step."""
    if args.max_steps == 0 or (args.max_steps < 0 and args.num_train_epochs <= 0):
        raise ValueError(
            f"Expected at least one training step, but found max_steps={args.max_steps} and "
            f"num_train_epochs={args.num_train_epochs:g}. Set one of them above 0."
        )


def check_in_memory(model: Any) -> None:
    """Raises `ValueError` for weights that a device map has offloaded, which accelerate fetches and forgets."""
    if not isinstance(model, nn.Module) or getattr(model, "hf_device_map", None) is None:
        return
    offloaded = sum(parameter.is_meta for parameter in model.parameters())
    if offloaded:
        raise ValueError(
            f"Expected weights in memory, which training changes, but {offloaded} are offloaded to the CPU or a disk, "
            "as the `device_map` says. Load the recommender without `device_map`; `--use_peft --load_in_4bit` needs "
            "a quarter of the memory."
        )


def check_trained_weights(model: nn.Module, run_facts: Mapping[str, Any] | None) -> None:
    """
    Raises `ValueError` where no weight is trained, or adapters leave SID rows as they are that were never trained.

    Args:
        model (`nn.Module`):
            The recommender, or PEFT's model of it.
        run_facts (`dict`, *optional*):
            What the recommender's configuration tells of earlier training.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        remedy = (
            "Load the adapter by `PeftModel.from_pretrained(model, folder, is_trainable=True)`."
            if isinstance(model, PeftModel)
            else "Call `model.requires_grad_(True)`."
        )
        raise ValueError(f"Expected weights that are trained, but all of this model's are frozen. {remedy}")
    if isinstance(model, PeftModel) and not trains_sid_rows(model) and not (run_facts or {}).get("stages"):
        raise ValueError(
            "Expected adapters that train the SID rows of the embeddings, since this recommender's were never "
            "trained, but the `LoraConfig` leaves them as they are. Name them in its `trainable_token_indices`, as "
            "`lora_config(model, tokenizer, ModelConfig(use_peft=True))` does."
        )


def trains_sid_rows(model: PeftModel) -> bool:
    """Whether adapters change rows of the embeddings: by rows of their own, by copies of the matrix, or by LoRA."""
    embeddings = cast(Any, model.get_base_model()).get_input_embeddings()
    return any(row_layers(model)) or isinstance(embeddings, (ModulesToSaveWrapper, BaseTunerLayer))


def check_has_rows(rows: Any, name: str) -> None:
    """Raises `ValueError` for a data set without rows."""
    if isinstance(rows, Dataset) and len(rows) == 0:
        raise ValueError(
            f"Expected a {name} dataset with rows, but found none. Pass a split and tasks that have some."
        )


def check_labels(rows: Dataset, name: str) -> None:
    """Raises `ValueError` for rows of which no token has a label."""
    labels = rows.with_format("arrow")["labels"][:]
    if not pc.any(pc.not_equal(pc.list_flatten(labels), IGNORED)).as_py():
        raise ValueError(
            f"Expected rows with labels in the {name} dataset, but every label of all {len(rows)} rows is {IGNORED}, "
            "which no loss counts. Build the rows with `build_sequence_rows` or `build_sft_mixture`."
        )


def check_whole_batches(num_rows: int, args: TrainingArguments) -> None:
    """Raises `ValueError` where `dataloader_drop_last` would drop all rows there are."""
    batch = args.per_device_train_batch_size * args.world_size
    if args.dataloader_drop_last and num_rows < batch:
        raise ValueError(
            f"Expected at least one batch of {batch} rows, but found {num_rows}, all of which "
            "`dataloader_drop_last=True` would drop. Set it to False, or `per_device_train_batch_size` to "
            f"{max(num_rows // args.world_size, 1)} or less."
        )


def check_generation_batch(num_prompts: int, batch: int, num_generations: int) -> None:
    """Raises `ValueError` for fewer prompts than one generation of GRPO takes (`batch`)."""
    if num_prompts < batch:
        raise ValueError(
            f"Expected at least {batch} prompts, which one generation batch of {batch * num_generations} completions "
            f"takes with num_generations={num_generations}, but found {num_prompts}: no step could be made. Set "
            "`per_device_train_batch_size`, `steps_per_generation` or `gradient_accumulation_steps` lower, so that "
            f"`generation_batch_size` is {num_prompts * num_generations} or less, or pass more prompts."
        )


def check_reward_weights(weights: Sequence[float] | None) -> None:
    """Raises `ValueError` where all weights are 0, so that nothing is rewarded."""
    if weights and not any(weights):
        raise ValueError(
            f"Expected a reward that counts, but all `reward_weights` are 0: {list(weights)}. Leave them out, or "
            "weigh one above 0."
        )
