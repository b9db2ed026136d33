"""
How well semantic IDs predict what is taken next, measured without training a recommender (after FORGE, arXiv
2509.20904, which finds such measures to rank SIDs as training does).

Items that follow each other in users' histories are counted by the prefixes of their SIDs. A good prefix has few
likely successors: among its most frequent ones are those of histories that were not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np


if TYPE_CHECKING:
    from datasets import Dataset

NUM_SUCCESSORS = 10


def item_transitions(interactions: Dataset | Sequence[Mapping[str, Any]], item_ids: Sequence[str]) -> np.ndarray:
    r"""
    Pairs of items that were taken one after the other.

    Args:
        interactions (`datasets.Dataset` or a sequence of dicts):
            Rows with `history` (item ids, oldest first) and `target`, one an interaction; only the last item of the
            history makes a pair with the target.
        item_ids (`Sequence[str]`):
            All items, in the order that the pairs refer to.

    Returns:
        `np.ndarray` of shape `(pairs, 2)`: int64 positions in `item_ids`, the earlier item first.

    Raises:
        `ValueError`: an interaction with an item that is not among `item_ids`.

    Example:

    ```python
    >>> from tsrec_hf.sids import item_transitions

    >>> item_transitions([{"history": ["a", "b"], "target": "c"}, {"history": [], "target": "a"}], ["a", "b", "c"])
    array([[1, 2]])
    ```
    """
    position_of = {item_id: position for position, item_id in enumerate(item_ids)}
    if hasattr(interactions, "column_names"):
        table = cast("Dataset", interactions)
        histories, targets = table["history"][:], table["target"][:]
    else:
        histories, targets = ([row[name] for row in interactions] for name in ("history", "target"))
    pairs = [(history[-1], target) for history, target in zip(histories, targets) if history]
    unknown = next((item_id for pair in pairs for item_id in pair if item_id not in position_of), None)
    if unknown is not None:
        raise ValueError(
            f"Expected interactions of the {len(position_of)} items in `item_ids`, found item {unknown!r}. Pass the "
            "interactions and the items of one data set."
        )
    positions = [(position_of[earlier], position_of[later]) for earlier, later in pairs]
    return np.array(positions, dtype=np.int64).reshape(-1, 2)


def next_prefix_hits(
    prefixes: np.ndarray, counted: np.ndarray, tested: np.ndarray, num_successors: int = NUM_SUCCESSORS
) -> float:
    r"""
    Share of transitions whose next prefix is among the most frequent successors of the prefix before.

    Args:
        prefixes (`np.ndarray` of shape `(items,)`):
            Number of each item's prefix.
        counted (`np.ndarray` of shape `(pairs, 2)`):
            Transitions that the successors are counted from, as [`item_transitions`] returns them.
        tested (`np.ndarray` of shape `(pairs, 2)`):
            Other transitions, those that are predicted.
        num_successors (`int`, *optional*, defaults to `10`):
            Number of successors that each prefix predicts.

    Returns:
        `float`: The share; NaN without transitions to test.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.sids.transitions import next_prefix_hits

    >>> prefixes = np.array([0, 1, 1, 2])
    >>> counted = np.array([[0, 1], [0, 2], [0, 3]])  # after prefix 0: prefix 1 twice, prefix 2 once
    >>> next_prefix_hits(prefixes, counted, tested=np.array([[0, 2], [0, 3]]), num_successors=1)
    0.5
    ```
    """
    if len(tested) == 0:
        return float("nan")
    number = int(prefixes.max()) + 1
    keys, counts = np.unique(prefixes[counted[:, 0]] * number + prefixes[counted[:, 1]], return_counts=True)
    sources = keys // number
    order = np.lexsort((keys, -counts, sources))  # successors of a source together, the most frequent first
    rank = np.arange(len(keys)) - np.searchsorted(sources, sources)  # `sources` is sorted, before as after
    predicted = keys[order][rank < num_successors]
    asked = prefixes[tested[:, 0]] * number + prefixes[tested[:, 1]]
    return float(np.isin(asked, predicted).mean())
