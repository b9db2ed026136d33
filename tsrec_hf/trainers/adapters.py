"""
LoRA and QLoRA for recommenders: PEFT's adapters, and beside them the SID rows of the embeddings.

An adapter holds what it trains: all SID rows (`trainable_token_indices`) and the matrices of LoRA. The rest is its
base, which must be a recommender's checkpoint. A backbone with new SID rows is none until it is saved, so trainers
save it to `BASE_FOLDER` of their output folder and name it in `adapter_config.json`.
"""

import logging
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL_TARGETS
from transformers import TrainingArguments
from transformers.utils import find_adapter_config_file
from trl import ModelConfig, get_peft_config, get_quantization_config

from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer

from .sid_rows import count_sid_row_parameters, sid_matrices, sid_rows_only, sid_token_ids


logger = logging.getLogger(__name__)

# With an underscore, so that `push_to_hub` of a trainer leaves it out: an adapter travels without its base.
BASE_FOLDER = "_base"


def lora_config(model: TSRecForCausalLM, tokenizer: TSRecTokenizer, model_args: ModelConfig) -> LoraConfig | None:
    r"""
    The adapters that TRL's command line options ask for, with the SID rows among what is trained.

    Args:
        model ([`TSRecForCausalLM`]):
            The recommender, before PEFT wraps it.
        tokenizer ([`TSRecTokenizer`]):
            Says which rows are SID tokens.
        model_args ([`~trl.ModelConfig`]):
            `use_peft`, `lora_r`, `lora_target_modules`, ... Without target modules those that PEFT knows for the
            backbone's architecture, or all linear layers where it knows none.

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
    config = get_peft_config(model_args)
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
        config.target_modules = set(known) if known else "all-linear"
    config.trainable_token_indices = rows
    config.revision = model_args.model_revision
    return config


def quantize(
    model: TSRecForCausalLM, tokenizer: TSRecTokenizer, model_args: ModelConfig, args: TrainingArguments
) -> TSRecForCausalLM:
    r"""
    Loads a recommender anew with quantised weights, if TRL's command line options ask for them.

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
        save_base(model, tokenizer, args) if _is_in_memory_only(model) else model.name_or_path,
        revision=model_args.model_revision,
        dtype=model.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=config,
    )


def load_recommender(
    name_or_path: str | Path, revision: str | None = None, **from_pretrained_kwargs
) -> tuple[TSRecForCausalLM, TSRecTokenizer]:
    r"""
    A recommender and its tokenizer, from a checkpoint or from an adapter, which is merged into its base.

    `TSRecForCausalLM.from_pretrained`, `AutoPeftModelForCausalLM` and `pipeline("recommendation")` read an adapter as
    well, and leave it beside its base: every forward pass then copies the embeddings to put the SID rows in.

    Args:
        name_or_path (`str` or `Path`):
            Folder or Hub id of a checkpoint or of an adapter.
        revision (`str`, *optional*):
            Branch, tag or commit on the Hub.
        from_pretrained_kwargs (*optional*):
            As [`~TSRecForCausalLM.from_pretrained`]'s: `dtype`, `attn_implementation`, ...

    Returns:
        `tuple`: [`TSRecForCausalLM`] without adapters, and [`TSRecTokenizer`].

    Raises:
        `FileNotFoundError`: an adapter whose base is a folder that is not here. `ValueError`: a plain language model,
        an adapter that names no base.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf import load_recommender

    >>> folder = tempfile.mkdtemp()
    >>> model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    (...)
    >>> loaded, its_tokenizer = load_recommender(folder)
    >>> loaded.recommend(its_tokenizer, [["hammer"]], top_k=2) == model.recommend(tokenizer, [["hammer"]], top_k=2)
    True
    ```
    """
    hub = {} if revision is None else {"revision": revision}
    tokenizer = TSRecTokenizer.from_pretrained(name_or_path, **hub)
    if find_adapter_config_file(str(name_or_path), **hub) is None:
        return TSRecForCausalLM.from_pretrained(name_or_path, **hub, **from_pretrained_kwargs), tokenizer
    config = PeftConfig.from_pretrained(str(name_or_path), **hub)
    base = config.base_model_name_or_path
    if not base:
        raise ValueError(
            f"Expected adapter_config.json of {str(name_or_path)!r} to name its base, but found {base!r}. Set "
            "`base_model_name_or_path` there to the recommender's folder or Hub id."
        )
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise FileNotFoundError(
            f"Expected the base of the adapter {str(name_or_path)!r} in {base!r}, as its adapter_config.json says, "
            "but there is no such folder. Copy it there, or name where it is now, a folder or a Hub id, as "
            "`base_model_name_or_path` in adapter_config.json."
        )
    model = TSRecForCausalLM.from_pretrained(base, revision=config.revision, **from_pretrained_kwargs)
    model = PeftModel.from_pretrained(model, str(name_or_path), **hub).merge_and_unload()
    _forget_origin(model)
    return model, tokenizer


def save_base(model: TSRecForCausalLM, tokenizer: TSRecTokenizer, args: TrainingArguments) -> str:
    """
    Saves a recommender that adapters are about to be trained on, and makes it the base that they name.

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
    folder = str(Path(args.output_dir, BASE_FOLDER).resolve())
    if args.process_index == 0:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    args.distributed_state.wait_for_everyone()
    model.config._name_or_path = model.name_or_path = folder
    model._trained_in_memory = False
    return folder


def _is_in_memory_only(model: TSRecForCausalLM) -> bool:
    """Whether the checkpoint that a recommender names, if any, has other weights."""
    return not model.name_or_path or getattr(model, "_trained_in_memory", False)


def _forget_origin(model: TSRecForCausalLM) -> None:
    """Marks a recommender as made in memory: the checkpoint that it came from is another model now."""
    model.config._name_or_path = model.name_or_path = ""


class TrainablePartMixin:
    """
    For trainers of a recommender: what is trained, all parameters, the SID rows alone (`freeze_backbone`) or adapters
    of PEFT, and what each of them needs so that nothing is lost.
    """

    def _before_adapters(self, model, args, tokenizer: TSRecTokenizer, peft_config: PeftConfig | None) -> None:
        """Before TRL wraps the model by PEFT."""
        self._trained_rows: dict[str, torch.Tensor] = {}
        if isinstance(model, PeftModel):
            self._trained_rows = {
                f"{name}.{adapter}": rows.detach().clone()
                for name, layer in _row_layers(model)
                for adapter, rows in layer.trainable_tokens_delta.items()
            }
        elif peft_config is not None and isinstance(model, TSRecForCausalLM) and _is_in_memory_only(model):
            logger.info(
                f"The base of the adapters exists in memory only: saved to {save_base(model, tokenizer, args)}."
            )

    def _after_adapters(self) -> None:
        """Once TRL has wrapped the model."""
        model = self.accelerator.unwrap_model(self.model)
        if self.args.freeze_backbone:
            self._check_freezing(model)
        if not isinstance(model, PeftModel):
            return
        if self.is_fsdp_enabled and _row_layers(model):
            raise ValueError(
                "PEFT 0.21 puts the trained SID rows into whole matrices, but FSDP cuts matrices into shards. Train "
                "adapters on one process, several (DDP) or with ZeRO-2."
            )
        self._keep_rows_in_float32(model)
        self._copy_rows_to_reference(model)
        if getattr(model, "is_loaded_in_4bit", False):
            _leave_4bit_weights_unpacked(model)
        base = self._adapter.base_model_name_or_path
        if self.args.push_to_hub and Path(base or "").is_dir():
            logger.warning(
                f"The adapters' base is the local folder {base!r}, which whoever loads them from the Hub does not "
                "have. Push it, `TSRecForCausalLM.from_pretrained(...).push_to_hub(...)` and its tokenizer, and train "
                "from there, or name it as `base_model_name_or_path` in adapter_config.json."
            )

    def _check_freezing(self, model) -> None:
        if isinstance(model, PeftModel):
            raise ValueError(
                "`freeze_backbone=True` trains rows of the recommender itself, which PEFT's adapters would not save. "
                "Train them before adding adapters, or with them: `lora_config` names them among what is trained."
            )
        if self.is_fsdp_enabled or (self.is_deepspeed_enabled and self.args.deepspeed_plugin.zero_stage == 3):
            raise ValueError(
                "`freeze_backbone=True` keeps rows of whole matrices as they are, but FSDP and ZeRO-3 cut matrices "
                "into shards. Train on one process, several (DDP) or with ZeRO-2, or use LoRA (`--use_peft`)."
            )

    def _keep_rows_in_float32(self, model: PeftModel) -> None:
        """
        Gives the SID rows the values back that they had before TRL cast them.

        TRL 1.16 casts all that is trained on quantised weights to bfloat16. Steps of a usual learning rate are smaller
        than bfloat16 can tell apart in an embedding, and its rows would start rounded. To be removed when TRL leaves
        `trainable_tokens_delta` alone, as it does the magnitudes of DoRA.
        """
        for name, layer in _row_layers(model):
            for adapter, rows in layer.trainable_tokens_delta.items():
                start = layer.trainable_tokens_original[adapter]
                rows.data = self._trained_rows.get(f"{name}.{adapter}", start).to(
                    rows.device, torch.float32, copy=True
                )
        self._trained_rows = {}

    @staticmethod
    def _copy_rows_to_reference(model: PeftModel) -> None:
        """
        Copies the SID rows of an adapter that goes on training to the reference of GRPO.

        TRL 1.16 copies the adapter's parameters by names that have `.default.` inside; those of SID rows end in it, so
        that the reference would have the base's rows. To be removed when TRL copies them.
        """
        for _, layer in _row_layers(model):
            if "ref" in layer.trainable_tokens_delta:
                layer.trainable_tokens_delta["ref"].data.copy_(layer.trainable_tokens_delta["default"])

    def train(self, *args, **kwargs):
        """As the parent's; with `freeze_backbone` all but the SID rows stay as they are."""
        self.recommender._trained_in_memory = True  # an interrupted run changes weights as well
        if not self.args.freeze_backbone:
            return super().train(*args, **kwargs)
        with sid_rows_only(self.recommender, self.processing_class):
            return super().train(*args, **kwargs)

    def _num_trainable_parameters(self) -> int:
        if self.args.freeze_backbone:
            return count_sid_row_parameters(self.recommender, self.processing_class)
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def describe_trainable(self) -> str:
        """How many parameters are trained, and which."""
        model = self.accelerator.unwrap_model(self.model)
        trained, total = self._num_trainable_parameters(), sum(p.numel() for p in model.parameters())
        part = "SID rows" if self.args.freeze_backbone else "all"
        if isinstance(model, PeftModel):
            # Two weights of four bits are stored as one number, which PEFT knows.
            total = model.get_nb_trainable_parameters()[1]
            rows = sum(
                delta.numel()
                for _, layer in _row_layers(model)
                for delta in layer.trainable_tokens_delta.values()
                if delta.requires_grad
            )
            part = f"{_name_of(self._adapter)}: {trained - rows:,}; SID rows: {rows:,}"
        return f"Trainable parameters: {trained:,} of {total:,} ({part})"


def _name_of(config: PeftConfig) -> str:
    """The kind of adapters and, for LoRA, where they are."""
    if not isinstance(config, LoraConfig) or not config.target_modules:
        return config.peft_type.value
    if isinstance(config.target_modules, str):
        return f"LoRA on {config.target_modules}"
    return f"LoRA on {', '.join(sorted({name.rsplit('.', 1)[-1] for name in config.target_modules}))}"


def _row_layers(model: PeftModel) -> list[tuple[str, TrainableTokensLayer]]:
    """The layers that hold trained rows; a tied head shares those of the input embeddings."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, TrainableTokensLayer) and module.tied_adapter is None
    ]


def _leave_4bit_weights_unpacked(model: PeftModel) -> None:
    """
    Keeps 4-bit weights on a CPU in the layout that can be trained.

    bitsandbytes 0.50 rearranges them for CPUs with AVX512-BF16 at the first pass in evaluation mode, for good, and the
    kernel for that layout has no gradient: after the first evaluation or rollout nothing below a layer would learn. To
    be removed when it rearranges them back for training.
    """
    from bitsandbytes.nn import Linear4bit  # not before a model is quantised: the import takes a second

    for module in model.modules():
        if isinstance(module, Linear4bit):
            if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
                raise ValueError(
                    "Expected 4-bit weights as they were loaded, but this model has been used in evaluation mode on a "
                    "CPU, for which bitsandbytes rearranged its weights so that they cannot be trained. Load it anew."
                )
            module.support_avx512bf16_for_cpu = False
