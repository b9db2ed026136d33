"""Reading recommenders: checkpoints, adapters (merged into their base), and backbones that are to become one."""

from pathlib import Path
from typing import Any, Literal

from peft import PeftConfig, PeftModel
from peft.utils import CONFIG_NAME
from transformers import AutoConfig
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import cached_file

from tsrec_hf.models import SIDIndex, TSRecConfig, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.downloading_tsrec import read_checkpoint
from tsrec_hf.semantics import TokenSemantics

from .adapter_checks import check_adapter


ADAPTER = "adapter"
RECOMMENDERS = (TSRecConfig.model_type, ADAPTER)


@checks_types
def load_recommender(
    name_or_path: str | Path,
    revision: str | None = None,
    sid_index: SIDIndex | None = None,
    subfolder: str = "",
    **from_pretrained_kwargs,
) -> tuple[TSRecForCausalLM, TSRecTokenizer]:
    r"""
    Loads a recommender and its tokenizer, from a checkpoint or from an adapter, which is merged into its base.

    `TSRecForCausalLM.from_pretrained`, `AutoPeftModelForCausalLM` and `pipeline("recommendation")` read an adapter as
    well, and leave it beside its base: every forward pass then copies the embeddings to put the SID rows in.

    Args:
        name_or_path (`str` or `Path`):
            Folder or Hub id of a checkpoint or of an adapter.
        revision (`str`, *optional*):
            Branch, tag or commit on the Hub.
        sid_index ([`SIDIndex`], *optional*):
            The catalogue that the recommender must have been trained on, or one that grew out of it, which its
            tokenizer then has.
        subfolder (`str`, *optional*):
            Folder in `name_or_path`. PEFT keeps an adapter of another name than "default" in a folder of that name: a
            single one is found, and the tokenizer is read from beside it.
        from_pretrained_kwargs (*optional*):
            As [`~TSRecForCausalLM.from_pretrained`]'s: `dtype`, `attn_implementation`, ...

    Returns:
        `tuple`: [`TSRecForCausalLM`] without adapters, and [`TSRecTokenizer`].

    Raises:
        `FileNotFoundError`: an adapter whose base is a folder that is not here. `ValueError`: a plain language model,
        an adapter that names no base, a folder of several adapters, a recommender of another catalogue than
        `sid_index`.

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
    source = _source(name_or_path, revision, subfolder)
    model_type = _model_type(name_or_path, source)
    if model_type not in RECOMMENDERS:
        raise ValueError(
            f"Expected a recommender, but {str(name_or_path)!r} is a model of type {model_type!r}. Fine-tune it by "
            "`examples/sft.py` and pass the folder that it writes."
        )
    tokenizer = _tokenizer_of(name_or_path, source, model_type)
    if sid_index is not None and not sid_index.fits(tokenizer.sid_index.fingerprint):
        raise ValueError(
            f"The checkpoint {str(name_or_path)!r} holds {tokenizer.sid_index}, but the data have another index: "
            f"{sid_index}. Pass the data that the checkpoint was trained on, or start from a backbone."
        )
    if sid_index is not None and sid_index.fingerprint != tokenizer.sid_index.fingerprint:
        tokenizer = tokenizer.with_sid_index(sid_index)
    elif sid_index is not None and sid_index.delisted is not None:
        # Items that came and went since: the catalogue is the same, what must not be given again is not.
        tokenizer.sid_index = tokenizer.sid_index._replace(delisted=sid_index.delisted)
    if model_type != ADAPTER:
        model = TSRecForCausalLM.from_pretrained(name_or_path, **source, **from_pretrained_kwargs)
        model.tokenizer = tokenizer
        return model, tokenizer
    config = PeftConfig.from_pretrained(str(name_or_path), **source)
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
    adapted = PeftModel.from_pretrained(model, str(name_or_path), **source)
    check_adapter(adapted)
    model = adapted.merge_and_unload()  # type: ignore[operator]
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)  # PEFT froze the base: trained further, nothing would be learned
    # The checkpoint that the base came from is another model now.
    model.config._name_or_path = model.name_or_path = ""
    model.tokenizer = tokenizer
    return model, tokenizer


def load_or_start_recommender(
    name_or_path: str | Path,
    sid_index: SIDIndex,
    semantics: TokenSemantics | None = None,
    sa_init_kwargs: dict[str, Any] | None = None,
    max_history: int = 10,
    revision: str | None = None,
    gguf_file: str | None = None,
    existing_tokens: Literal["error", "keep"] = "error",
    subfolder: str = "",
    **from_pretrained_kwargs,
) -> tuple[TSRecForCausalLM, TSRecTokenizer]:
    r"""
    Loads what fine-tuning starts from: a recommender of this catalogue as it is, or a backbone with new SID rows.

    Args:
        name_or_path (`str` or `Path`):
            Folder or Hub id of a recommender, of an adapter, or of a backbone.
        sid_index ([`SIDIndex`]):
            The catalogue.
        semantics ([`TokenSemantics`], *optional*):
            Keywords of every SID token, from which SA-Init makes the new rows of a backbone.
        sa_init_kwargs (`dict`, *optional*):
            Arguments of [`initialize_sid_embeddings`]; without `semantics` they are not used.
        max_history (`int`, *optional*, defaults to `10`):
            Longest history of the prompts of a backbone; a recommender knows its own.
        revision (`str`, *optional*):
            Branch, tag or commit on the Hub.
        gguf_file (`str`, *optional*):
            File in `name_or_path`, for GGUF backbones.
        existing_tokens (`str`, *optional*, defaults to `"error"`):
            As in [`TSRecTokenizer.from_backbone`]. Rows that are kept are not initialised by `semantics`.
        subfolder (`str`, *optional*):
            Folder in `name_or_path`; a backbone's tokenizer is read from there as well.
        from_pretrained_kwargs (*optional*):
            `dtype`, `attn_implementation`, ...

    Returns:
        `tuple`: [`TSRecForCausalLM`] without adapters, and [`TSRecTokenizer`].

    Raises:
        `ValueError`: a recommender of another catalogue, and what [`load_recommender`] and
        [`TSRecForCausalLM.from_backbone`] raise.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf.hub import load_or_start_recommender

    >>> folder = tempfile.mkdtemp()
    >>> model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    (...)
    >>> loaded, _ = load_or_start_recommender(folder, sid_index)
    >>> loaded.config.sid_index_fingerprint == sid_index.fingerprint
    True
    ```
    """
    source = _source(name_or_path, revision, subfolder)
    if gguf_file is not None:
        source["gguf_file"] = gguf_file
    elif _model_type(name_or_path, source) in RECOMMENDERS:
        return load_recommender(name_or_path, revision, sid_index, subfolder, **from_pretrained_kwargs)
    tokenizer = TSRecTokenizer.from_backbone(
        name_or_path, sid_index, max_history=max_history, existing_tokens=existing_tokens, **source
    )
    if tokenizer.kept_token_ids:
        semantics = None
    kwargs = None if semantics is None else sa_init_kwargs
    model = TSRecForCausalLM.from_backbone(
        name_or_path, tokenizer, semantics, kwargs, **source, **from_pretrained_kwargs
    )
    return model, tokenizer


def is_recommender(name_or_path: str | Path, revision: str | None = None) -> bool:
    """Whether a folder or Hub id holds a recommender's checkpoint or an adapter, rather than a language model."""
    return _model_type(name_or_path, _source(name_or_path, revision)) in RECOMMENDERS


def _source(name_or_path: str | Path, revision: str | None, subfolder: str = "") -> dict[str, Any]:
    """The arguments by which libraries find a checkpoint or adapter, where they are not the usual ones."""
    if not subfolder and not any(Path(name_or_path, name).is_file() for name in ("config.json", CONFIG_NAME)):
        named = sorted(path.parent.name for path in Path(name_or_path).glob(f"*/{CONFIG_NAME}"))
        if len(named) > 1:
            raise ValueError(
                f"Expected a checkpoint or an adapter in {str(name_or_path)!r}, but found {len(named)} adapters: "
                f"{named}. Name the one to load: `load_recommender({str(name_or_path)!r}, subfolder={named[0]!r})`."
            )
        subfolder = named[0] if named else ""
    return {name: value for name, value in {"revision": revision, "subfolder": subfolder}.items() if value}


def _tokenizer_of(name_or_path: str | Path, source: dict[str, Any], model_type: str) -> TSRecTokenizer:
    """The tokenizer of a checkpoint or adapter; that of an adapter with a name stands in the folder above."""
    if model_type == ADAPTER and "subfolder" in source:
        beside = cached_file(
            str(name_or_path), TOKENIZER_CONFIG_FILE, **source, _raise_exceptions_for_missing_entries=False
        )
        source = source if beside is not None else {k: v for k, v in source.items() if k != "subfolder"}
    elif (
        model_type == ADAPTER
        and Path(name_or_path).is_dir()
        and not Path(name_or_path, TOKENIZER_CONFIG_FILE).is_file()
    ):
        name_or_path = Path(name_or_path).resolve().parent
    return TSRecTokenizer.from_pretrained(name_or_path, **source)


def _model_type(name_or_path: str | Path, source: dict[str, Any]) -> str:
    """Type of model in the configuration, or `ADAPTER`, which has a configuration of its own."""
    # transformers' own `find_adapter_config_file` overlooks the subfolder of a folder on disk before 5.23.
    found = cached_file(
        str(name_or_path),
        CONFIG_NAME,
        **source,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is not None:
        return ADAPTER
    return read_checkpoint(AutoConfig.from_pretrained, name_or_path, "config.json", **source).model_type
