"""The loss of each task, in the logs of training and in the metrics of an evaluation."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator


class TaskLosses:
    """
    Adds up the losses of each task, before weights, and the task's share of the label tokens.

    In training both are parts of a whole step, over all its batches and processes, so that the shares of a step add up
    to 1. In evaluation they are parts of the batch, counted once per row, as `Trainer` averages the loss.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            Gathers what the processes found.
        names (`Sequence[str]`):
            The tasks, in the order of the collator's `task_ids`.
    """

    def __init__(self, accelerator: Accelerator, names: Sequence[str]):
        self.accelerator, self.names = accelerator, tuple(names)
        self._not_finite: set[int] = set()
        self._sums = {mode: self._zeros() for mode in ("train", "eval")}

    def _zeros(self) -> torch.Tensor:
        """Sums of each task's losses and of its shares of the label tokens, of shape `(2, tasks)`."""
        return torch.zeros(2, len(self.names), dtype=torch.float64)

    def clear(self, mode: str) -> None:
        """Forgets what was added since the last metrics."""
        self._sums[mode] = self._zeros()

    def not_finite(self) -> list[str]:
        """The tasks that had rows whose loss is no finite number."""
        return [self.names[task] for task in sorted(self._not_finite)]

    @torch.no_grad()
    def add(self, mode: str, outputs: Any, task_ids: torch.Tensor, num_items_in_batch: torch.Tensor | int | None):
        """
        Adds a batch.

        Args:
            mode (`str`):
                `"train"` or `"eval"`.
            outputs (`FusedCausalLMOutput`):
                What TRL's fused head returns: `log_probs` and `label_mask` of shape `(batch, length)`.
            task_ids (`torch.Tensor` of shape `(batch,)`):
                Positions in the names.
            num_items_in_batch (`int`, *optional*):
                Label tokens of the whole step; those of the batch where absent.
        """
        losses = -outputs.log_probs.float().sum(dim=-1)  # (batch,)
        tokens = outputs.label_mask.float().sum(dim=-1)  # (batch,)
        # Indexed additions in float64 on the CPU: three numbers a row.
        rows = torch.stack([losses, tokens]).cpu().double()  # (2, batch)
        self._not_finite.update(task_ids.cpu()[~rows[0].isfinite()].tolist())
        divisor = float(tokens.sum() if num_items_in_batch is None else num_items_in_batch)
        parts = self._zeros().index_add_(1, task_ids.cpu(), rows) / divisor  # (2, tasks)
        if mode == "eval":
            # `gather_for_metrics` leaves out the rows that a distributed sampler repeats to fill up the last batch.
            parts = parts.float().to(self.accelerator.device).repeat(len(tokens), 1, 1)  # (batch, 2, tasks)
            parts = self.accelerator.gather_for_metrics(parts).sum(dim=0).cpu()
        self._sums[mode] += parts

    def metrics(self, mode: str) -> dict[str, float]:
        """`loss/<task>` and `share/<task>` of what was added since the last call."""
        sums = self._sums[mode]
        self.clear(mode)
        if mode == "train":
            # Evaluation gathered its rows from all processes already.
            sums = self.accelerator.reduce(sums.float().to(self.accelerator.device), reduction="sum").cpu()
        # All shares together count the steps, or the rows of an evaluation, that were added since the last log.
        losses, shares = (sums / sums[1].sum()).tolist()
        metrics = {}
        for task, loss, share in zip(self.names, losses, shares):
            if share > 0:
                metrics[f"loss/{task}"] = loss / share
                metrics[f"share/{task}"] = share
        return metrics
