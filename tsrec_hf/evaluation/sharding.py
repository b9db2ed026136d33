"""Recommendations for many users, shared among the processes of a distributed run."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from tsrec_hf.models.checking_tsrec import checks_types


T = TypeVar("T")


@checks_types
def recommend_distributed(
    recommend: Callable[[list[Sequence[str]]], Sequence[T]], histories: Sequence[Sequence[str]]
) -> list[T]:
    r"""
    Shares the histories among the processes, and gathers what each recommends.

    Process `i` of `n` recommends for the histories `i`, `i + n`, `i + 2n`, ..., so that long and short histories
    spread evenly over the processes. Every process has to call it, with the same histories; `recommend` is called
    once in each, with an empty list where there are more processes than histories.

    Args:
        recommend (`Callable`):
            Takes a list of histories and returns one list of recommendations for each, in their order. What it
            returns is pickled to reach the other processes.
        histories (`Sequence[Sequence[str]]`):
            Item ids per user, oldest first: all users, in every process.

    Returns:
        `list`: What `recommend` returned for every history, in the order of `histories`, whole in every process.

    Example:

    ```python
    >>> from tsrec_hf.evaluation import recommend_distributed

    >>> recommend_distributed(lambda share: [history[::-1] for history in share], [["1", "2"], ["3"]])
    [['2', '1'], ['3']]
    ```
    """
    # Without an accelerator, processes find each other only if the state is told that they run on CPUs. Where
    # `Accelerator` or `TrainingArguments` has set the state up, the argument has no effect.
    state = PartialState(cpu=not torch.accelerator.is_available())
    histories = list(histories)  # a pandas column would be indexed by its labels
    positions = range(state.process_index, len(histories), state.num_processes)
    recommended = recommend([histories[position] for position in positions])
    if len(recommended) != len(positions):
        raise ValueError(
            f"Expected one list of recommendations for each of {len(positions)} histories, but found "
            f"{len(recommended)}. Return a list, empty if need be, for every history."
        )
    gathered: list[tuple[int, T]] = gather_object(list(zip(positions, recommended)))
    return [lists for _, lists in sorted(gathered, key=lambda numbered: numbered[0])]
