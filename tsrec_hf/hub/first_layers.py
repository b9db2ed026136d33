"""A backbone without its upper layers, for quick trials on small machines."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def save_first_layers(
    name_or_path: str | Path, directory: str | Path, num_layers: int | None = None, **kwargs
) -> Path:
    r"""
    Writes a language model that keeps only the first layers of another one, with its tokenizer.

    What is left is not a good language model, but trains in a fraction of the time: a pipeline can be tried with it,
    and ways to train can be compared. The folder takes the backbone's place in `from_backbone`. Weights are float32;
    those of a GGUF file become a plain checkpoint.

    Args:
        name_or_path (`str` or `Path`):
            Hub id or folder of the language model.
        directory (`str` or `Path`):
            Folder to write to; made if it is absent.
        num_layers (`int`, *optional*):
            Layers to keep; `None` keeps all.
        kwargs (*optional*):
            Passed to both `from_pretrained`, such as `gguf_file` or `revision`.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: more layers than the model has, or none.

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
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(name_or_path, **kwargs).save_pretrained(directory)
    return Path(directory)
