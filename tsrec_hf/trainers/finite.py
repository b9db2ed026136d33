"""Numbers that are not numbers: where they stand in settings, losses, gradients, rewards and weights."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer

from .checkpoints import last_whole


# An infinite limit of the gradient's norm is a usual way to have none.
MAY_BE_INFINITE = ("max_grad_norm",)


def check_finite_settings(args: Any) -> None:
    """Raises `ValueError` for a setting that is, or holds, NaN or an infinite number."""
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        for number in _numbers(value):
            infinite = math.isinf(number) and field.name in MAY_BE_INFINITE
            if not math.isfinite(number) and not infinite:
                raise ValueError(
                    f"Expected `{field.name}` with finite numbers, but found {value!r}. Set it to a number, or leave "
                    "it at its default."
                )


def _numbers(value: Any) -> Iterable[float]:
    """The numbers in a setting: itself, or those of a list or dict."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)


def first_not_finite(model: nn.Module) -> str | None:
    """Name of the first parameter with a weight that is NaN or infinite; of shards, this process's count."""
    for name, parameter in model.named_parameters():
        weights = parameter.detach()
        local = weights.to_local() if hasattr(weights, "to_local") else weights
        if local.is_floating_point() and not torch.isfinite(local).all():
            return name
    return None


def not_finite_error(what: str, step: int, run_dir: str) -> FloatingPointError:
    """
    The error that stops a run.

    Args:
        what (`str`):
            What is no number, and which task, reward or weight it belongs to.
        step (`int`):
            The step that found it.
        run_dir (`str`):
            Folder of the run's checkpoints, of which the last good one is named.
    """
    checkpoint, _ = last_whole(run_dir)
    good = "There is no checkpoint before it" if checkpoint is None else f"The last good checkpoint is {checkpoint}"
    what = what.rstrip(".")
    return FloatingPointError(
        f"Training stopped at step {step}: {what}. {good}; nothing was saved over it. Lower `learning_rate`, or look "
        "at the rows and rewards of that step."
    )


class FiniteTrainer(Trainer):
    """
    A trainer's part that stops at numbers that are not numbers. `Trainer` itself leaves them out of the logged loss
    and goes on, to weights that are all NaN.
    """

    _finite_losses = True

    def _not_finite(self, what: str) -> FloatingPointError:
        """The error for the step that is being made."""
        return not_finite_error(what, self.state.global_step + 1, str(self.args.output_dir))

    def _suspects(self) -> str:
        """What a loss that is no number belongs to, as far as it is known."""
        return ""

    def training_step(self, model, inputs, num_items_in_batch=None):
        """As the parent's; keeps in mind whether the loss is a number."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._finite_losses &= bool(torch.isfinite(loss).all())
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        finite = torch.tensor(float(self._finite_losses), device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            # All stop at the same step: a process that waits for one that has stopped would wait for good.
            finite = self.accelerator.reduce(finite, reduction="mean")
        self._finite_losses = True
        if finite < 1:
            raise self._not_finite(f"the loss is no finite number{self._suspects()}")
        # A scaler of float16 finds infinite gradients itself, and leaves the step out.
        scaled = self.accelerator.scaler is not None and self.accelerator.scaler.is_enabled()
        if norm is not None and not scaled and not math.isfinite(norm):
            raise self._not_finite(f"the gradient has the norm {float(norm)}, while the loss is finite")
        return norm

    def check_finite_weights(self) -> None:
        """Raises `FloatingPointError` for weights that must not be saved."""
        name = first_not_finite(cast(nn.Module, self.model))
        if name is not None:
            raise not_finite_error(
                f"{name} holds weights that are no finite numbers", self.state.global_step, str(self.args.output_dir)
            )
