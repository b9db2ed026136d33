"""
Shims for the SID rows of adapters and for quantised weights: each mends what one version of a library does to them,
and says when it can go.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.trainable_tokens import TrainableTokensLayer


def row_layers(model: PeftModel) -> Iterator[tuple[str, TrainableTokensLayer]]:
    """The layers that hold trained rows, by name; a tied head shares those of the input embeddings."""
    for name, module in model.named_modules():
        if isinstance(module, TrainableTokensLayer) and module.tied_adapter is None:
            yield name, module


def count_adapter_rows(model: PeftModel) -> int:
    """Number of trained parameters in the rows of adapters."""
    deltas = (delta for _, layer in row_layers(model) for delta in layer.trainable_tokens_delta.values())
    return sum(delta.numel() for delta in deltas if delta.requires_grad)


def copied_rows(model: Any) -> dict[str, torch.Tensor]:
    """The trained rows of a model that has adapters already, for [`keep_rows_in_float32`]; empty for any other."""
    if not isinstance(model, PeftModel):
        return {}
    return {
        f"{name}.{adapter}": rows.detach().clone()
        for name, layer in row_layers(model)
        for adapter, rows in layer.trainable_tokens_delta.items()
    }


def keep_rows_in_float32(model: PeftModel, before: dict[str, torch.Tensor]) -> None:
    """
    Gives the SID rows the values back that they had before TRL cast them: those of `before`, or the base's.

    TRL 1.16 casts all that is trained on quantised weights to bfloat16. Steps of a usual learning rate are smaller
    than bfloat16 can resolve in an embedding, and its rows would start rounded. To be removed when TRL leaves
    `trainable_tokens_delta` alone, as it does the magnitudes of DoRA.
    """
    for name, layer in row_layers(model):
        for adapter, rows in layer.trainable_tokens_delta.items():
            start = layer.trainable_tokens_original[adapter]
            rows.data = before.get(f"{name}.{adapter}", start).to(rows.device, torch.float32, copy=True)


def copy_rows_to_reference(model: PeftModel) -> None:
    """
    Copies the SID rows of an adapter whose training goes on to the reference of GRPO.

    TRL 1.16 copies the adapter's parameters by names that have `.default.` inside; those of SID rows end in it, so
    that the reference would have the base's rows. To be removed when TRL copies them.
    """
    for _, layer in row_layers(model):
        if "ref" in layer.trainable_tokens_delta:
            layer.trainable_tokens_delta["ref"].data.copy_(layer.trainable_tokens_delta["default"])


def leave_4bit_weights_unpacked(model: PeftModel) -> None:
    """
    Keeps 4-bit weights on a CPU in the layout that can be trained.

    bitsandbytes 0.50 rearranges them for CPUs with AVX512-BF16 at the first forward pass in evaluation mode, for good,
    and the kernel for that layout has no gradient: after the first evaluation or rollout nothing below a layer would
    learn. To be removed when it rearranges them back for training.
    """
    if not getattr(model, "is_loaded_in_4bit", False):
        return
    from bitsandbytes.nn import Linear4bit  # not before a model is quantised: the import takes a second

    for module in model.modules():
        if isinstance(module, Linear4bit):
            if getattr(cast(Any, module.weight).quant_state, "packing_format_for_cpu", False):
                raise ValueError(
                    "Expected 4-bit weights as they were loaded, but this model has been used in evaluation mode on a "
                    "CPU, for which bitsandbytes rearranged its weights so that they cannot be trained. Load it anew."
                )
            cast(Any, module).support_avx512bf16_for_cpu = False
