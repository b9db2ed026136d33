"""Adapters that PEFT would train or merge into another model than the one they were trained as."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from tsrec_hf.models import TSRecForCausalLM


# Initialisations of LoRA that take a part of the base's weights out: without adapters it is another model.
CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def check_adapter(model: PeftModel) -> None:
    """
    Checks adapters of a recommender, whoever configured them.

    Args:
        model ([`~peft.PeftModel`]):
            The recommender with its adapters.

    Raises:
        `ValueError`: adapters on one of two tied matrices, which a merge would put into both; trained rows beside an
        output head with a bias, which PEFT drops, or in embeddings that do more than look rows up.
    """
    recommender = cast(TSRecForCausalLM, model.get_base_model())
    inputs, outputs = cast(Any, recommender.get_input_embeddings()), cast(Any, recommender.get_output_embeddings())
    if recommender.config.tie_word_embeddings:
        for name, module in (("input embeddings", inputs), ("output head", outputs)):
            if isinstance(module, BaseTunerLayer):
                raise ValueError(
                    f"Expected adapters that leave the {name} alone, which are one matrix with the "
                    f"{'output head' if module is inputs else 'input embeddings'}: merged, an adapter of one would "
                    "change both. Leave them out of `target_modules`, and name the SID rows in "
                    "`trainable_token_indices`, as `lora_config` does."
                )
    head = getattr(outputs, "original_module", outputs)
    has_rows = any(isinstance(module, TrainableTokensLayer) for module in model.modules())
    if has_rows and getattr(head, "bias", None) is not None:
        raise ValueError(
            "Expected an output head without bias, but found one that has it, which PEFT 0.21 drops where it trains "
            "rows of a head. Leave `trainable_token_indices` out, or train without adapters."
        )
    changed = next((layer for module in (inputs, outputs) for layer in _layers_that_differ(module)), None)
    if changed is not None:
        raise ValueError(
            f"Expected embeddings and an output head that PEFT 0.21 can train rows of, but it does without what "
            f"`{type(changed.base_layer).__name__}` does besides, so that all tokens would be read otherwise. Leave "
            "`trainable_token_indices` out, or train without adapters."
        )


@torch.no_grad()
def _layers_that_differ(module: nn.Module) -> Iterator[TrainableTokensLayer]:
    """Layers with trained rows that give other results for the rows that are not trained."""
    for layer in module.modules():
        if not isinstance(layer, TrainableTokensLayer) or layer.merged:
            continue
        base = cast(Any, layer.base_layer)
        trained = {row for rows in layer.token_indices.values() for row in rows}
        num_rows = min(len(base.weight), len(trained) + 8)
        others = torch.tensor([row for row in range(num_rows) if row not in trained], dtype=torch.long)
        device, dtype = next(iter(layer.trainable_tokens_delta.values())).device, base.weight.dtype
        if isinstance(base, nn.Embedding):
            ours, theirs = (one(others.to(device)) for one in (base, layer))
        else:
            hidden = torch.linspace(-1, 1, base.weight.shape[1], device=device, dtype=dtype)
            ours, theirs = (one(hidden)[others.to(device)] for one in (base, layer))
        if not torch.allclose(ours.float(), theirs.float(), rtol=1e-2, atol=1e-4):
            yield layer


def changes_the_base(model: PeftModel) -> str | None:
    """How adapters were initialised, if that took a part of the base's weights out."""
    for config in model.peft_config.values():
        init = str(getattr(config, "init_lora_weights", "")).lower()
        if init.startswith(CHANGE_THE_BASE):
            return init
    return None
