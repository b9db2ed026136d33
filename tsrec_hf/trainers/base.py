"""
What all trainers of a recommender share: the recommender inside its wrappers, the adapter, the checks at the start,
and two collaborators that are given what they need, the recommendation metrics and the model card.

Which private methods of TRL and transformers are overridden here, and why, stands in `hooks.py`.
"""

import importlib.util
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from datasets import Dataset, IterableDataset
from huggingface_hub import ModelCard
from peft import PeftConfig, PeftModel
from torch import nn

from tsrec_hf.hub import plot_loss, plot_run
from tsrec_hf.hub.adapter_checks import changes_the_base, check_adapter
from tsrec_hf.models import TSRecConfig, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models.replacing_tsrec import replaced

from .arguments import RecommenderArguments
from .backbone_checks import check_decodes, has_aux_loss
from .checkpointing import CheckpointingTrainer
from .finite import FiniteTrainer
from .grpo_config import TSRecGRPOConfig
from .learning_checks import check_in_memory, check_steps, check_trained_weights
from .lora import TRAINED_IN_MEMORY, is_in_memory_only, name_of, save_base
from .model_card import RunCard, TrainedPart, training_stage
from .peft_shims import (
    copied_rows,
    copy_rows_to_reference,
    count_adapter_rows,
    keep_rows_in_float32,
    leave_4bit_weights_unpacked,
    row_layers,
)
from .recommendation_metrics import RecommendationMetrics, metrics_of_sets, user_sample
from .sft_config import TSRecSFTConfig
from .sharding import as_saved, whole_copy
from .sid_rows import count_sid_row_parameters, sid_rows_only


logger = logging.getLogger(__name__)

CARD_FILE = "README.md"
PICTURE = "training.png"
# Of an evaluation, where it has them.
PLOTTED = ("hr@10", "ndcg@10")

Arguments = TypeVar("Arguments", bound=RecommenderArguments)


def checked_arguments(args: Any, kind: type[Arguments], output_dir: str) -> Arguments:
    """The settings of a trainer, or the defaults; raises `TypeError` for those of another class."""
    args = kind(output_dir) if args is None else args  # type: ignore[arg-type]  # `output_dir` is the first
    if not isinstance(args, kind):
        raise TypeError(f"Expected `args` to be a `{kind.__name__}`, but found `{type(args).__name__}`.")
    return args


def checked_tokenizer(tokenizer: TSRecTokenizer | None, model: Any) -> TSRecTokenizer:
    """The tokenizer of a trainer, or that of the checkpoint; raises `ValueError` where there is neither."""
    if tokenizer is not None:
        return tokenizer
    if not isinstance(model, str):
        raise ValueError("Expected `processing_class`, the recommender's `TSRecTokenizer`, beside a loaded model.")
    return TSRecTokenizer.from_pretrained(model)


class RecommenderTrainer(CheckpointingTrainer, FiniteTrainer):
    """
    Base of the trainers; one of TRL's trainers stands behind it among the bases.

    Args:
        model ([`TSRecForCausalLM`], [`~peft.PeftModel`] or `str`):
            What TRL's trainer takes.
        args ([`TSRecSFTConfig`] or [`TSRecGRPOConfig`]):
            Settings.
        processing_class ([`TSRecTokenizer`]):
            The recommender's tokenizer.
        eval_interactions (`Dataset` or `dict`, *optional*):
            Rows that are recommended for at each evaluation; by name where `eval_dataset` is a dict.
        card_facts (`dict`, *optional*):
            What the model card should tell and the trainer cannot know.
        kwargs (*optional*):
            As TRL's trainer's.

    Attributes:
        recommendation_metrics ([`RecommendationMetrics`], `dict` or `None`):
            Adds HR and NDCG to the metrics of an evaluation; by name where `eval_interactions` has names.
        card ([`RunCard`]):
            Writes the model card.
    """

    METHOD = ""

    _rows_of: Callable[[Dataset, TSRecTokenizer], Dataset]  # makes rows for the loss of interactions
    _measured: RecommendationMetrics | None = None  # what the evaluation that runs recommends for
    aux_loss_enabled: bool  # TRL's: whether the loss of a mixture of experts' routers is added
    args: TSRecSFTConfig | TSRecGRPOConfig
    model: nn.Module
    processing_class: TSRecTokenizer
    train_dataset: Dataset | IterableDataset | None

    def __init__(
        self,
        model: Any,
        args: TSRecSFTConfig | TSRecGRPOConfig,
        processing_class: TSRecTokenizer,
        eval_interactions: Dataset | Mapping[str, Dataset] | None = None,
        card_facts: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        check_in_memory(model)
        self._given_rows = kwargs.get("eval_dataset")
        rows = copied_rows(model)
        if kwargs.get("peft_config") is not None and isinstance(model, TSRecForCausalLM) and is_in_memory_only(model):
            folder = save_base(model, processing_class, args)
            logger.info(f"The base of the adapters exists in memory only: saved to {folder}.")
        super().__init__(model=model, args=args, processing_class=processing_class, **kwargs)
        self.recommender.check_tokenizer(processing_class)
        self.recommender.tokenizer = processing_class
        check_decodes(self.recommender, processing_class)
        if self.aux_loss_enabled and not has_aux_loss(self.recommender, args):
            self.aux_loss_enabled = self.recommender.config.get_text_config().output_router_logits = False
        self._check_trained_part()
        if isinstance(self._unwrapped, PeftModel):
            keep_rows_in_float32(self._unwrapped, rows)
            copy_rows_to_reference(self._unwrapped)
            leave_4bit_weights_unpacked(self._unwrapped)
        self.recommendation_metrics = metrics_of_sets(eval_interactions, self.eval_dataset, processing_class, args)
        self.card = RunCard(cast(TSRecConfig, self.recommender.config), processing_class.sid_index, args, card_facts)

    # The recommender

    @property
    def _unwrapped(self) -> nn.Module:
        """The model without what a distributed launcher wrapped around it: a recommender, or PEFT's model of one."""
        return cast(nn.Module, self.accelerator.unwrap_model(self.model))

    @property
    def recommender(self) -> TSRecForCausalLM:
        """The model without what PEFT or a distributed launcher wrapped around it."""
        model = self._unwrapped
        return cast(TSRecForCausalLM, model.get_base_model() if isinstance(model, PeftModel) else model)

    def searchable(self) -> TSRecForCausalLM:
        """The recommender as a search can use it: itself, or a whole copy where FSDP cut its weights into shards."""
        return whole_copy(self.recommender) if self.is_fsdp_enabled else self.recommender

    # What is trained

    @property
    def adapter(self) -> PeftConfig | None:
        """Configuration of the adapters that PEFT trains."""
        model = self._unwrapped
        return next(iter(model.peft_config.values())) if isinstance(model, PeftModel) else None

    @property
    def trained_part(self) -> TrainedPart:
        """Which parameters are trained, and how many."""
        if self.args.freeze_backbone:
            return TrainedPart("sid rows", count_sid_row_parameters(self.recommender, self.processing_class))
        trained = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        if self.adapter is None:
            return TrainedPart("all", trained)
        with_rows = getattr(self.adapter, "trainable_token_indices", None)
        return TrainedPart("adapters and sid rows" if with_rows else "adapters", trained, self.adapter)

    def describe_trainable(self) -> str:
        """How many parameters are trained, and which."""
        part, model = self.trained_part, self._unwrapped
        total = sum(parameter.numel() for parameter in model.parameters())
        name = "SID rows" if self.args.freeze_backbone else "all"
        if isinstance(model, PeftModel) and part.adapter is not None:
            # Two weights of four bits are stored as one number, which PEFT knows.
            total = model.get_nb_trainable_parameters()[1]
            rows = count_adapter_rows(model)
            name = f"{name_of(part.adapter)}: {part.num_parameters - rows:,}; SID rows: {rows:,}"
        return f"Trainable parameters: {part.num_parameters:,} of {total:,} ({name})"

    def _check_trained_part(self) -> None:
        model, args = self._unwrapped, self.args
        if args.freeze_backbone and isinstance(model, PeftModel):
            raise ValueError(
                "`freeze_backbone=True` trains rows of the recommender itself, which PEFT's adapters would not save. "
                "Train them before adding adapters, or with them: `lora_config` names them among what is trained."
            )
        decays = {group.get("weight_decay", 0.0) for group in getattr(self.optimizer, "param_groups", ())} - {0.0}
        if args.freeze_backbone and decays:
            raise ValueError(
                "`freeze_backbone=True` keeps all other rows as they are, but the optimizer's "
                f"weight_decay={max(decays)} would shrink them. Make it with `weight_decay=0.0`."
            )
        zero_stage = cast(Any, args.deepspeed_plugin).zero_stage if self.is_deepspeed_enabled else None
        if args.freeze_backbone and (self.is_fsdp_enabled or zero_stage == 3):
            raise ValueError(
                "`freeze_backbone=True` keeps rows of whole matrices as they are, but FSDP and ZeRO-3 cut matrices "
                "into shards. Train on one process, several (DDP) or with ZeRO-2, or use LoRA (`--use_peft`)."
            )
        if not isinstance(model, PeftModel):
            return
        check_adapter(model)
        init = changes_the_base(model)
        if init is not None and getattr(args, "beta", 0.0) != 0.0:
            raise ValueError(
                f"`init_lora_weights={init!r}` takes a part of the recommender's weights out of it, so that the "
                "reference, which is the recommender without adapters, would be another model. Set "
                "`init_lora_weights=True`, or `beta=0`."
            )
        if self.is_fsdp_enabled and any(row_layers(model)):
            raise ValueError(
                "PEFT 0.21 puts the trained SID rows into whole matrices, but FSDP cuts matrices into shards. Train "
                "adapters on one process, several (DDP) or with ZeRO-2."
            )
        base = cast(PeftConfig, self.adapter).base_model_name_or_path
        if args.push_to_hub and Path(base or "").is_dir():
            logger.warning(
                f"The adapters' base is the local folder {base!r}, which whoever loads them from the Hub does not "
                "have. Push it, `TSRecForCausalLM.from_pretrained(...).push_to_hub(...)` and its tokenizer, and train "
                "from there, or name it as `base_model_name_or_path` in adapter_config.json."
            )

    # Training and evaluation

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """
        As the parent's; with `freeze_backbone` all but the SID rows stay as they are. The model carries the card of
        the run afterwards.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint's folder; `True`, `"true"` or `"last"` for the newest whole one in the output folder.
            args, kwargs (*optional*):
                As the parent's.

        Raises:
            `ValueError`: a run that cannot learn; a checkpoint that is not whole or of another catalogue.
            `FloatingPointError`: a loss, gradient, reward or weight that is no finite number.
        """
        check_steps(self.args)
        if not self.args.freeze_backbone:
            check_trained_weights(self._unwrapped, self.card.earlier_facts)
        checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
        if checkpoint is None:
            self.check_finite_weights()
        self._forget_evaluation()
        setattr(self.recommender, TRAINED_IN_MEMORY, True)  # an interrupted run changes weights as well
        if self.args.freeze_backbone:
            with sid_rows_only(self.recommender, self.processing_class):
                output = super().train(checkpoint, *args, **kwargs)
        else:
            output = super().train(checkpoint, *args, **kwargs)
        self.check_finite_weights()
        if self.args.load_best_model_at_end and self.state.best_global_step == 0:
            logger.warning(
                f"No checkpoint was better than the start in {self.args.metric_for_best_model} "
                f"({self.state.best_metric:.4f}): the model is the start again. Keep the earlier recommender, or "
                "change the rate, the rewards or the data."
            )
        self._keep_card()
        return output

    def _forget_evaluation(self) -> None:
        """
        Lets a model that several processes evaluated before its training be wrapped for it.

        Accelerate 1.15 marks what it prepared for an evaluation as prepared, and gives it back as it is when a
        training wants it in DDP: each of several processes would then follow its own gradients. Can go when
        `Accelerator.prepare_model` tells the two apart.
        """
        if self.accelerator.num_processes == 1 or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return
        state = vars(self.model)
        if self.model_wrapped is self.model and state.pop("_is_accelerate_prepared", False):
            self.accelerator._models.remove(self.model)
            if "_original_forward" in state:  # wrapped for mixed precision, which is done again
                self.model.forward = state.pop("_original_forward")

    def evaluate(
        self,
        eval_dataset=None,
        ignore_keys=None,
        metric_key_prefix: str = "eval",
        eval_interactions: Dataset | None = None,
    ) -> dict[str, float]:
        """
        As the parent's, with the metrics of the recommendations where the interactions of the rows are known: those of
        the trainer's own evaluation, or `eval_interactions`. The model's card holds what was found.

        Args:
            eval_dataset, ignore_keys, metric_key_prefix (*optional*):
                As the parent's. Rows of another split are measured by their loss alone.
            eval_interactions (`Dataset`, *optional*):
                Interactions of another split, `history` and `target`: `eval_num_users` of them are recommended for,
                and the rows are made of them where `eval_dataset` is absent.
        """
        if isinstance(eval_dataset, Mapping) and eval_interactions is None:
            # Before TRL prepares the rows anew, by which they would no longer be known.
            metrics: dict[str, float] = {}
            for name, rows in eval_dataset.items():
                metrics |= self.evaluate(rows, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        before = self._measured
        if eval_interactions is not None:
            self._check_evaluated_apart(eval_dataset, eval_interactions)
            self._measured = RecommendationMetrics(eval_interactions, self.processing_class, self.args)
            if eval_dataset is None:
                sample = user_sample(eval_interactions, self.args.eval_num_users)
                eval_dataset = self._rows_of(sample, self.processing_class)
        else:
            self._measured = self._metrics_of(eval_dataset)
        try:
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self._measured = before
        if not self.is_in_train:
            self._keep_card()
        return metrics

    def _check_evaluated_apart(self, eval_dataset: Any, eval_interactions: Any) -> None:
        """Raises `ValueError` where interactions of a call cannot be recommended for."""
        for name, given in (("rows", eval_dataset), ("interactions", eval_interactions)):
            if isinstance(given, Mapping):
                raise ValueError(
                    f"Expected one set of {name} in a call with `eval_interactions`, but found {list(given)}. Call "
                    "`evaluate` once for each, or give the trainer both by name."
                )
        if self.args.eval_num_users == 0:
            raise ValueError(
                "Expected `eval_num_users` above 0 beside `eval_interactions`, but found eval_num_users=0, which "
                "recommends for nobody. Change it in the settings."
            )

    def _metrics_of(self, eval_dataset: Any) -> RecommendationMetrics | None:
        """The recommendations that belong to rows, or to a name in a dict of them; none for rows of others."""
        metrics = self.recommendation_metrics
        known = (self.eval_dataset, self._given_rows)  # TRL's preparation makes other objects of the rows
        if not isinstance(metrics, dict):
            return metrics if eval_dataset is None or any(eval_dataset is rows for rows in known) else None
        names = [
            name
            for rows_by_name in known
            for name, rows in cast(dict, rows_by_name).items()
            if (eval_dataset == name if isinstance(eval_dataset, str) else eval_dataset is rows)
        ]
        return metrics.get(names[0]) if names else None

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """As the parent's, with the metrics of the recommendations."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        metrics = cast(dict, output.metrics)
        loss = metrics.get(f"{metric_key_prefix}_loss", 0.0)
        if self.is_in_train and not math.isfinite(loss):
            raise self._not_finite(f"{metric_key_prefix}_loss is {loss}")
        if self._measured is not None:
            found = self._measured.measure(self.searchable(), self.state.global_step)
            metrics.update({f"{metric_key_prefix}_{name}": found[name] for name in found})
        return output

    # Checkpoints and their card

    def model_card(self, name: str | None = None, **card_data) -> ModelCard:
        """
        The card as it stands now.

        Args:
            name (`str`, *optional*):
                Heading. Defaults to the name of the repository, or of the output folder.
            card_data (*optional*):
                Metadata, beside those of `card_facts`.
        """
        self._record_facts()
        # Which evaluation is that of the weights as they are.
        best_is_loaded = self.args.load_best_model_at_end and not self.is_in_train
        step = self.state.best_global_step if best_is_loaded else None
        step = self.state.global_step if step is None else step
        tags = [*(getattr(self, "_tag_names", None) or []), *card_data.pop("tags", [])]
        return self.card.build(
            name,
            self.hub_model_id or self.args.hub_model_id,
            self.adapter,
            self.card.evaluation(self.recommendation_metrics, step),
            tags,
            **card_data,
        )

    def create_model_card(  # type: ignore[override]  # TRL's arguments, not those of `Trainer`
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        directory: str | Path | None = None,
        **card_data,
    ) -> None:
        """
        Writes the card to the output folder.

        Args:
            model_name (`str`, *optional*):
                Heading of the card.
            dataset_name (`str`, *optional*):
                Hub id of the data set.
            tags (`str` or `list[str]`, *optional*):
                Tags beside the card's own.
            directory (`str` or `Path`, *optional*):
                Another folder to write to.
            card_data (*optional*):
                Metadata: `license`, `language`, ...
        """
        if not self.is_world_process_zero():
            return
        if dataset_name is not None:
            card_data["datasets"] = dataset_name
        card_data["tags"] = [tags] if isinstance(tags, str) else list(tags or [])
        folder = Path(directory or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        card = self.model_card(model_name, **card_data)
        # The model itself has no picture beside it.
        self.recommender.model_card = str(card)
        picture = self._plot(folder)
        if picture is not None:
            card = self.model_card(model_name, picture=picture, **card_data)
        with replaced(folder / CARD_FILE) as part:
            card.save(part)

    def _plot(self, folder: Path) -> str | None:
        """Draws the run into a folder: losses, by task too, and the last evaluation beside baselines."""
        log = self.state.log_history
        if not any("loss" in entry for entry in log):
            return None
        if importlib.util.find_spec("matplotlib") is None:
            logger.info(
                'No plot of the run: `pip install ".[plots]"` in a clone of the repository installs matplotlib.'
            )
            return None
        evaluations = self.card.evaluation(self.recommendation_metrics)
        results = evaluations[0]["results"] if evaluations else {}
        metrics = [name for name in PLOTTED if all(name in found["all"] for found in results.values())]
        if results and metrics:
            plot_run(log, results, folder / PICTURE, title=folder.resolve().name, metrics=metrics)
        else:
            plot_loss(log, folder / PICTURE, title=folder.resolve().name)
        return PICTURE

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the parent's, with the card beside the weights; raises `FloatingPointError` for weights that diverged."""
        self.check_finite_weights()
        self._record_facts()  # first: they are in the configuration that is saved
        super().save_model(output_dir, _internal_call)
        if not _internal_call:
            # Last: PEFT writes a card of its own beside adapters.
            self.create_model_card(directory=output_dir)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.is_fsdp_enabled:
            return super()._save(output_dir, state_dict)
        with as_saved(self.recommender):
            super()._save(output_dir, state_dict)

    def _record_facts(self) -> None:
        """Puts what is known into the configuration that is saved."""
        rewards: list[str] | None = getattr(self, "reward_func_names", None)
        stage = training_stage(self.METHOD, self.args, self.state, self.trained_part, self.train_dataset, rewards)
        self.card.record(stage)

    def _keep_card(self) -> None:
        """Records the facts, and keeps the card on the model, which may be pushed."""
        if self.is_world_process_zero():
            self.recommender.model_card = str(self.model_card())
        else:
            self._record_facts()
