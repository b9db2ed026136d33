"""
The rewards of a step, computed once.

TRL calls each reward function with a batch and keeps the sums. Advantages of tokens need the levels of the same
rewards, and dynamic sampling needs them before TRL does: functions are wrapped so that TRL's call fills in what both
read, or gets what dynamic sampling has computed already.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from trl.trainer.utils import is_async_callable

from tsrec_hf.models import TSRecTokenizer
from tsrec_hf.rewards import Reward, RewardOnCodes, summed
from tsrec_hf.rewards.adapter import plain_rewards


logger = logging.getLogger(__name__)


@dataclass
class RewardCall:
    """
    What one call of a reward function gave.

    Attributes:
        values: For each completion a number, one for each level, or `None`.
        extra_logs: Columns for TRL's table of completions, and what the function wrote into them.
        metrics: Names and values that the function logged.
    """

    values: list[Reward] = field(default_factory=list)
    extra_logs: list[tuple[str, list]] = field(default_factory=list)
    metrics: list[tuple[str, float]] = field(default_factory=list)


class StepReward:
    """
    A reward function as TRL takes it, which remembers its last call.

    Args:
        function (`Callable`):
            A synchronous reward function of TRL's form, or a [`RewardOnCodes`].

    Attributes:
        values (`list`):
            The rewards that TRL got last, level by level where the function gave them so.
        num_generations (`int` or `None`):
            Completions of a group, for functions that rank them.
    """

    def __init__(self, function: Callable):
        self.function = function
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.values: list[Reward] = []
        self.num_generations: int | None = None
        self._told_of_nan = False
        self._known: list[RewardCall] | None = None

    def compute(self, completion_ids: Sequence[Sequence[int]], num_generations: int, **batch) -> RewardCall:
        """Calls the function for one group, and keeps what it logs for later."""
        call = RewardCall()
        batch["log_extra"] = lambda column, values: call.extra_logs.append((column, list(values)))
        batch["log_metric"] = lambda name, value: call.metrics.append((name, value))
        call.values = self._values(completion_ids, num_generations, **batch)
        if len(call.values) != len(completion_ids):
            raise ValueError(
                f"Expected the reward {self.__name__!r} to give a reward for each of {len(completion_ids)} "
                f"completions, but found {len(call.values)}. Return a list, with `None` where it does not apply."
            )
        return call

    def hand_over(self, calls: list[RewardCall]) -> None:
        """Lets TRL's next call find these, the groups of its batch in their order."""
        self._known = calls

    def __call__(self, *, completion_ids, log_extra, log_metric, **batch) -> list[float | None]:
        """Called by TRL."""
        if self._known is None:
            logs = {"log_extra": log_extra, "log_metric": log_metric}
            self.values = self._values(completion_ids, self.num_generations, **batch, **logs)
        else:
            calls, self._known = self._known, None
            self.values = [value for call in calls for value in call.values]
            for call in calls:
                for column, values in call.extra_logs:
                    log_extra(column, values)
                for name, value in call.metrics:
                    log_metric(name, value)
        return [summed(value) for value in self.values]

    def _values(self, completion_ids, num_generations: int | None, **batch) -> list[Reward]:
        if isinstance(self.function, RewardOnCodes):
            columns = {name: value for name, value in batch.items() if name not in ("prompts", "completions")}
            values = self.function.values(completion_ids, num_generations, **columns)
        else:
            values = plain_rewards(self.function(completion_ids=completion_ids, **batch))
            if not isinstance(values, list):
                raise TypeError(
                    f"Expected the reward {self.__name__!r} to give a reward for each of {len(completion_ids)} "
                    f"completions, but found `{type(values).__name__}`. Return a list, with `None` where it does not "
                    "apply."
                )
        self._check_finite(values, completion_ids)
        return values

    def _check_finite(self, values: Sequence[Reward], completion_ids: Sequence[Sequence[int]]) -> None:
        """Raises `FloatingPointError` for infinite rewards; NaN is TRL's word for "does not apply", which is told."""
        for place, value in enumerate(values):
            if value is None or np.isfinite(value).all():
                continue
            if np.isinf(value).any():
                raise FloatingPointError(
                    f"Expected finite numbers from the reward {self.__name__!r}, or `None` where it does not apply, "
                    f"but found {value} for the completion {list(completion_ids[place])}."
                )
            if not self._told_of_nan:
                self._told_of_nan = True
                logger.warning(
                    f"The reward {self.__name__!r} gave {value} for the completion {list(completion_ids[place])}: NaN "
                    "counts as a reward that does not apply. Return `None` to say so."
                )


def as_step_reward(function: Any, tokenizer: TSRecTokenizer) -> Any:
    """
    Wraps what can be computed once: all but reward models (or their names) and asynchronous functions. Raises
    `ValueError` for an asynchronous function of codes, which TRL would call without them.
    """
    if is_async_callable(function) and RewardOnCodes.applies_to(function):
        name = getattr(function, "__name__", type(function).__name__)
        raise ValueError(
            f"Expected the reward {name!r} of codes or items to be an ordinary function, but found an asynchronous "
            "one. Take `completion_ids` and read them with `CompletionReader`, or drop `async`."
        )
    if isinstance(function, (str, nn.Module)) or is_async_callable(function):
        return function
    return StepReward(RewardOnCodes(function, tokenizer) if RewardOnCodes.applies_to(function) else function)


def weighted_rewards(
    values: Sequence[Sequence[Reward]], weights: Sequence[float], num_levels: int | None = None
) -> torch.Tensor:
    """
    Adds up the rewards of several functions.

    Args:
        values (`Sequence` of `Sequence`):
            For each function, its rewards for the same completions.
        weights (`Sequence[float]`):
            Weight of each function.
        num_levels (`int`, *optional*):
            Gives rewards of each level: those without levels count at every one. Sums of the levels where absent.

    Returns:
        `torch.Tensor` of shape `(completions, levels)`, or `(completions, 1)`: NaN for completions to which no reward
        applies.
    """
    columns = num_levels or 1
    total = torch.zeros(len(values[0]), columns, dtype=torch.float64)
    scored = torch.zeros(len(values[0]), dtype=torch.bool)
    for rewards, weight in zip(values, weights):
        for row, reward in enumerate(rewards):
            whole = summed(reward)
            if whole is None or np.isnan(whole):
                continue
            scored[row] = True
            has_levels = num_levels is not None and np.ndim(reward) == 1  # type: ignore[arg-type]
            total[row] += weight * torch.as_tensor(reward if has_levels else whole, dtype=torch.float64)
    return total.masked_fill(~scored.unsqueeze(-1), torch.nan)


def have_signal(rewards: torch.Tensor) -> bool:
    """
    Whether a group's rewards, `(completions, levels)` or `(completions, 1)`, differ at some level: where they are all
    equal, all advantages are 0.
    """
    scored = rewards[~rewards.isnan().any(dim=1)]
    return len(scored) > 0 and bool((scored.amax(dim=0) - scored.amin(dim=0) > 1e-6).any())
