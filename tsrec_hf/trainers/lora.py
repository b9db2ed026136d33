"""
LoRA and QLoRA for recommenders: PEFT's adapters, and beside them the SID rows of the embeddings.

An adapter holds what it trains: all SID rows (`trainable_token_indices`) and the matrices of LoRA. The rest is its
base, which must be a recommender's checkpoint. A backbone with new SID rows is not a checkpoint until it is saved, so
trainers save it to `BASE_FOLDER` of their output folder and name it in `adapter_config.json`.
"""

from pathlib import Path
from typing import cast

from peft import LoraConfig, PeftConfig
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL_TARGETS
from torch import nn
from transformers import TrainingArguments
from trl import ModelConfig, get_peft_config, get_quantization_config

from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types

from .sid_rows import sid_matrices, sid_token_ids


# With an underscore, so that `push_to_hub` of a trainer leaves it out: an adapter travels without its base.
BASE_FOLDER = "_base"
# Attribute of a recommender whose weights a trainer has changed since they were loaded or saved.
TRAINED_IN_MEMORY = "_trained_in_memory"


@checks_types
def lora_config(model: TSRecForCausalLM, tokenizer: TSRecTokenizer, model_args: ModelConfig) -> LoraConfig | None:
    r"""
    Makes PEFT's configuration of TRL's command line options, with the SID rows among what is trained.

    Args:
        model ([`TSRecForCausalLM`]):
            The recommender, before PEFT wraps it.
        tokenizer ([`TSRecTokenizer`]):
            Says which rows are SID tokens.
        model_args ([`~trl.ModelConfig`]):
            `use_peft`, `lora_r`, `lora_target_modules`, ... The target modules default to those that PEFT knows for
            the backbone's architecture, or to all linear layers where it knows none.

    Returns:
        `LoraConfig`, or `None` without `use_peft`. Its `trainable_token_indices` name the SID rows of the input
        embeddings and, where the head is untied, those of the head; all other rows stay as they are.

    Raises:
        `ValueError`: quantised weights without adapters, embeddings that are to be trained as a whole, an output head
        with a bias.

    Example:

    ```python
    >>> from trl import ModelConfig
    >>> from tsrec_hf import lora_config

    >>> config = lora_config(model, tokenizer, ModelConfig(use_peft=True, lora_r=8))
    >>> sorted(config.target_modules), list(config.trainable_token_indices)
    (['q_proj', 'v_proj'], ['backbone.model.embed_tokens'])
    ```
    """
    config = cast(LoraConfig | None, get_peft_config(model_args))  # what it makes, whatever it says
    if config is None:
        if model_args.load_in_4bit or model_args.load_in_8bit:
            raise ValueError(
                "Expected adapters with quantised weights, which cannot be trained themselves, but found "
                "`--load_in_4bit` or `--load_in_8bit` without `--use_peft`. Add `--use_peft`."
            )
        return None
    if model.get_output_embeddings().bias is not None:
        raise ValueError(
            "Expected an output head without bias, but found one that has it, which PEFT 0.21 drops where it trains "
            "rows of a head. Train without `--use_peft`."
        )
    names = {id(module): name for name, module in model.named_modules()}
    rows = {names[id(module)]: sid_token_ids(tokenizer).tolist() for module in sid_matrices(model)}
    whole = [name for name in config.modules_to_save or [] if any(matrix.endswith(name) for matrix in rows)]
    if whole:
        raise ValueError(
            f"Expected `lora_modules_to_save` without the embeddings, but found {whole}: the SID rows are trained "
            f"already, and all other rows would change as well. Leave {whole} out."
        )
    if config.target_modules is None and config.target_parameters is None:
        # PEFT would look for the wrapper's own architecture, which it does not know.
        known = USUAL_TARGETS.get(model.config.get_text_config().model_type)
        config.target_modules = sorted(known) if known else "all-linear"
        if not known and config.exclude_modules is None:
            # Routers that return more than a product, which PEFT takes for a linear layer by their base class.
            own = type(model.backbone).__module__
            linear = [(name, type(part)) for name, part in model.named_modules() if isinstance(part, nn.Linear)]
            config.exclude_modules = [name for name, kind in linear if kind.__module__ == own] or None
    config.trainable_token_indices = rows
    config.revision = model_args.model_revision
    return config


def quantize(
    model: TSRecForCausalLM, tokenizer: TSRecTokenizer, model_args: ModelConfig, args: TrainingArguments
) -> TSRecForCausalLM:
    r"""
    Loads a recommender again with quantised weights, if TRL's command line options ask for them.

    Args:
        model ([`TSRecForCausalLM`]):
            The recommender with full weights. One that was made or trained in memory is saved first, as the base of
            adapters.
        tokenizer ([`TSRecTokenizer`]):
            Its tokenizer.
        model_args ([`~trl.ModelConfig`]):
            `load_in_4bit`, `load_in_8bit`, `bnb_4bit_quant_type`, ...
        args ([`~transformers.TrainingArguments`]):
            Of the run that adapters are to be trained in.

    Returns:
        [`TSRecForCausalLM`]: `model` itself without quantisation. Embeddings and output head are never quantised.

    Example:

    ```python
    >>> import tempfile
    >>> from trl import ModelConfig
    >>> from tsrec_hf import TSRecSFTConfig
    >>> from tsrec_hf.trainers import quantize

    >>> args = TSRecSFTConfig(tempfile.mkdtemp(), bf16=False)
    >>> quantized = quantize(model, tokenizer, ModelConfig(load_in_8bit=True, use_peft=True), args)
    >>> type(quantized.backbone.model.layers[0].mlp.up_proj).__name__
    'Linear8bitLt'
    ```
    """
    config = get_quantization_config(model_args)
    if config is None:
        return model
    return TSRecForCausalLM.from_pretrained(
        save_base(model, tokenizer, args) if is_in_memory_only(model) else model.name_or_path,
        revision=model_args.model_revision,
        dtype=model.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=config,
    )


def save_base(model: TSRecForCausalLM, tokenizer: TSRecTokenizer, args: TrainingArguments) -> str:
    """
    Saves a recommender as the base of adapters that are about to be trained, and makes it the one that they name.

    Args:
        model ([`TSRecForCausalLM`]):
            The recommender, before PEFT wraps it and with its weights as they are.
        tokenizer ([`TSRecTokenizer`]):
            Its tokenizer.
        args ([`~transformers.TrainingArguments`]):
            Of the run whose output folder it goes to.

    Returns:
        `str`: The folder.
    """
    # Absolute: adapters are read from other working directories as well.
    folder = str(Path(str(args.output_dir), BASE_FOLDER).resolve())
    if args.process_index == 0:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    args.distributed_state.wait_for_everyone()
    model.config._name_or_path = model.name_or_path = folder
    setattr(model, TRAINED_IN_MEMORY, False)
    return folder


def is_in_memory_only(model: TSRecForCausalLM) -> bool:
    """Whether a recommender's weights are in no checkpoint: it names none, or was trained since it was loaded."""
    return not model.name_or_path or getattr(model, TRAINED_IN_MEMORY, False)


def name_of(config: PeftConfig) -> str:
    """The kind of adapters and, for LoRA, the modules that have them."""
    if not isinstance(config, LoraConfig) or not config.target_modules:
        return str(getattr(config.peft_type, "value", config.peft_type))
    if isinstance(config.target_modules, str):
        return f"LoRA on {config.target_modules}"
    excluded = config.exclude_modules if isinstance(config.exclude_modules, (list, set)) else ()
    targets, left_out = ({name.rsplit(".", 1)[-1] for name in names} for names in (config.target_modules, excluded))
    return f"LoRA on {', '.join(sorted(targets - left_out))}"
