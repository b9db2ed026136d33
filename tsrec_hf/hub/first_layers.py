"""A backbone without its upper layers and without rare tokens, for quick trials on small machines."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tsrec_hf.models.checking_tsrec import checks_types


@checks_types
def save_first_layers(
    name_or_path: str | Path,
    directory: str | Path,
    num_layers: int | None = None,
    num_tokens: int | None = None,
    **kwargs,
) -> Path:
    r"""
    Writes a language model that keeps only the first layers, and the first tokens, of another one.

    What is left is not a good language model, but trains in a fraction of the time: a pipeline can be tried with it,
    and ways to train can be compared. The folder takes the backbone's place in `from_backbone`. Weights are float32;
    those of a GGUF file become a plain checkpoint.

    In a small model the vocabulary is what costs: 49,152 rows of SmolLM2-135M are as many weights as eight of its
    layers, and its logits as much arithmetic. A byte-pair encoding numbers its tokens in the order in which it merges
    them, so that the first ones are an encoding of their own: every text can still be written, in shorter pieces.

    Args:
        name_or_path (`str` or `Path`):
            Hub id or folder of the language model.
        directory (`str` or `Path`):
            Folder to write to; made if it is absent.
        num_layers (`int`, *optional*):
            Layers to keep; `None` keeps all.
        num_tokens (`int`, *optional*):
            Tokens to keep, those of the lowest ids; `None` keeps all.
        kwargs (*optional*):
            Passed to both `from_pretrained`, such as `gguf_file` or `revision`.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: more layers than the model has, or none; `num_tokens` that leave out a special token or a byte,
        or a tokenizer that is no byte-level byte-pair encoding.

    Example:

    ```python
    >>> import tempfile
    >>> from transformers import AutoConfig
    >>> from tsrec_hf.hub import save_first_layers

    >>> whole, small = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> tokenizer.save_pretrained(whole)  # doctest: +ELLIPSIS
    (...)
    >>> model.backbone.save_pretrained(whole)  # Any language model; here one of two layers.
    >>> AutoConfig.from_pretrained(save_first_layers(whole, small, 1)).num_hidden_layers
    1
    ```
    """
    whole = AutoModelForCausalLM.from_pretrained(name_or_path, dtype=torch.float32, **kwargs)
    config = whole.config
    total = config.num_hidden_layers
    kept = total if num_layers is None else num_layers
    if not 1 <= kept <= total:
        raise ValueError(
            f"Expected 1 to {total} layers to keep, which is what {name_or_path} has, but found {num_layers}. Pass "
            "`None` to keep all."
        )
    # The weights are no longer those of a quantised file: a model that says so could not be saved.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.num_hidden_layers = kept
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:kept]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # Not strict, since the upper layers' weights have no place; but no place may be left without a weight.
    missing = model.load_state_dict(whole.state_dict(), strict=False).missing_keys
    if missing:
        raise ValueError(
            f"Expected {name_or_path} to hold all weights of its first {kept} layers, but {missing[:3]} are missing. "
            "Pass a checkpoint that is whole."
        )
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, **kwargs)
    if num_tokens is not None:
        tokenizer = _first_tokens(tokenizer, num_tokens)
        model.resize_token_embeddings(num_tokens)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return Path(directory)


def _first_tokens(tokenizer: PreTrainedTokenizerBase, num_tokens: int) -> PreTrainedTokenizerFast:
    """A byte-level byte-pair encoding that stops merging where its tokens would have an id of `num_tokens` or more."""
    backend = tokenizer.backend_tokenizer if isinstance(tokenizer, PreTrainedTokenizerFast) else None
    state = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    vocabulary, merges = state["model"].get("vocab"), state["model"].get("merges")
    if state["model"].get("type") != "BPE" or state["model"].get("byte_fallback") or not merges:
        raise ValueError(
            "Expected a byte-level byte-pair encoding, whose first tokens are an encoding of their own, but found "
            f"`{type(tokenizer).__name__}` of another kind. Leave `num_tokens` out to keep all tokens."
        )
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    merged = {left + right for left, right in pairs}
    # Without these a text, or what a template puts around it, could not be written.
    needed = [index for token, index in vocabulary.items() if token not in merged]
    needed += [token["id"] for token in state["added_tokens"]]
    least, most = max(needed) + 1, len(vocabulary)
    if not least <= num_tokens <= most:
        raise ValueError(
            f"Expected `num_tokens` of {least}, which holds every byte and special token, to {most}, but found "
            f"{num_tokens}. Pass a number between, or `None` to keep all."
        )
    kept = {token: index for token, index in vocabulary.items() if index < num_tokens}
    state["model"]["vocab"] = kept
    state["model"]["merges"] = [pair for pair in pairs if {*pair, "".join(pair)} <= kept.keys()]
    special = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **special)
