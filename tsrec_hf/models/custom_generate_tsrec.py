"""
Tree decoding for `model.generate(custom_generate="user/repository", trust_remote_code=True)`: transformers looks for
the function `generate` in a repository's `custom_generate/generate.py`, which is this file.
"""

from typing import Any

import torch

from .generate_tsrec import tsrec_generate


def generate(model: Any, inputs: torch.Tensor | None = None, input_ids: torch.Tensor | None = None, **kwargs: Any):
    """Token ids of the most probable SIDs that exist, as [`tsrec_generate`]; prompts may also stand first."""
    prompts = inputs if input_ids is None else input_ids
    if prompts is None:
        raise ValueError("Expected prompts as `input_ids`, but found none. Pass what the tokenizer gave: `**inputs`.")
    return tsrec_generate(model, prompts, **kwargs)
