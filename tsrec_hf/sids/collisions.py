"""
Resolve collisions of semantic IDs: keep them, number the items of a SID by an extra level, or move items to free SIDs.

A moved item keeps the longest prefix possible. Items that share a prefix are similar, and that is what a recommender
generalises by, so a wrong last code costs little and a wrong first code much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tsrec_hf.models.checking_tsrec import checks_types

from .checks import checked_codes
from .quantizer import Quantizer


POLICIES = ("reassign", "sinkhorn", "suffix", "keep")


@checks_types
def resolve_collisions(
    codes: np.ndarray,
    embeddings: np.ndarray,
    quantizer: Quantizer,
    policy: str = "reassign",
    taken: np.ndarray | None = None,
) -> np.ndarray:
    r"""
    Give every item a SID of its own, by reassigning codes or by an extra level.

    Args:
        codes (`np.ndarray` of shape `(items, levels)`):
            The output of `quantizer.encode(embeddings)`.
        embeddings (`np.ndarray` of shape `(items, dim)`):
            The items' embeddings.
        quantizer ([`Quantizer`]):
            The quantiser that made the codes.
        policy (`str`, *optional*, defaults to `"reassign"`):
            - `"reassign"`: of the items with one SID, the nearest to its centroid keeps it. Every other item moves to
              the nearest free last code; if none is free, to the nearest code of the level above that has room below
              it, and so on. Only colliding items move.
            - `"sinkhorn"`: if items collide, all items of their prefix (the codes before the last) are assigned to
              distinct last codes of least total distance: the transport problem that LC-Rec solves approximately by
              Sinkhorn's algorithm, solved exactly. Items in excess of the free codes move as in `"reassign"`.
            - `"suffix"`: an extra level numbers the items of a SID, 0 for the first. No code changes.
            - `"keep"`: the codes stay as they are.
        taken (`np.ndarray` of shape `(others, levels)`, *optional*):
            SIDs of existing items when these items are new: existing items keep them, and no new item gets one. With
            `"suffix"`, as wide as the result.

    Returns:
        `np.ndarray` of shape `(items, levels)`, or `(items, levels + 1)` for `"suffix"`: int32 codes.

    Raises:
        `ValueError`: an unknown policy, arrays of other shapes, more items than SIDs.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.sids import ResidualKMeans, resolve_collisions

    >>> embeddings = np.array([[0.0], [0.1], [4.0], [10.0], [14.0]])
    >>> quantizer = ResidualKMeans([2, 2]).fit(embeddings)
    >>> codes = quantizer.encode(embeddings)
    >>> bool((codes[0] == codes[1]).all())
    True
    >>> resolved = resolve_collisions(codes, embeddings, quantizer, policy="suffix")
    >>> resolved[:, 2].tolist()
    [0, 1, 0, 0, 0]
    >>> new = np.array([[10.2]])
    >>> new_codes = resolve_collisions(quantizer.encode(new), new, quantizer, policy="suffix", taken=resolved)
    >>> new_codes[0, :2].tolist() == codes[3].tolist(), new_codes[0, 2].item()
    (True, 1)
    ```
    """
    codes = np.asarray(codes)
    taken = _check(codes, embeddings, quantizer, policy, taken)
    codes = np.array(codes, dtype=np.int32)
    if policy == "keep":
        return codes
    if policy == "suffix":
        return _with_suffix(codes, taken)
    occupied = _Occupied(quantizer.level_sizes, taken)
    if len(codes) + occupied.count(()) > occupied.capacities[0]:
        raise ValueError(
            f"Expected at most {occupied.capacities[0]} items, one a SID of the level sizes {quantizer.level_sizes}, "
            f'found {len(codes) + occupied.count(())}. Use larger levels, or `policy="suffix"`.'
        )
    settle = _keep_nearest if policy == "reassign" else _assign_last_codes
    # One after another, since each takes a SID that the next might have taken. Items without collision have settled
    # before, so that none of them is displaced.
    for row in settle(codes, embeddings, quantizer, occupied):
        codes[row] = _nearest_free(codes[row], embeddings[row : row + 1], quantizer, occupied)
        occupied.add(codes[row : row + 1])
    return codes


class _Occupied:
    """
    The SIDs in use, and how many of them each prefix has.

    The counts of prefixes tell in one look-up whether a prefix has a free SID below it, so a search for one never
    enters a full part of the tree and never goes back.
    """

    def __init__(self, level_sizes: Sequence[int], codes: np.ndarray) -> None:
        # Number of SIDs below a prefix of 0, 1, ..., all codes, in Python's integers: eight levels of 256 exceed 2^63.
        self.capacities = [1]
        for size in reversed(level_sizes):
            self.capacities.insert(0, self.capacities[0] * int(size))
        self._counts: Counter[tuple[int, ...]] = Counter()
        self.add(np.unique(codes, axis=0))

    def add(self, codes: np.ndarray) -> None:
        """Mark free, distinct SIDs of shape `(n, levels)` as taken."""
        self._counts[()] += len(codes)
        for depth in range(1, codes.shape[1] + 1):
            prefixes, counts = np.unique(codes[:, :depth], axis=0, return_counts=True)
            self._counts.update(dict(zip(map(tuple, prefixes.tolist()), counts.tolist())))

    def count(self, prefix: tuple[int, ...]) -> int:
        return self._counts[prefix]

    def has_room(self, prefix: tuple[int, ...]) -> bool:
        return self._counts[prefix] < self.capacities[len(prefix)]


def _keep_nearest(codes: np.ndarray, embeddings: np.ndarray, quantizer: Quantizer, occupied: _Occupied) -> list[int]:
    """
    Let the nearest item of each SID keep it; rows of the others, the nearest to their SID first.

    The nearest keeps it because it is described best by it, and the nearest of the others choose first because they
    have most to lose: for an item far from its centroid, the next centroid is about as good.
    """
    sid_of, sizes = _groups(codes)
    were_taken = _are_taken(codes, occupied)
    # Only items with a collision need distances, which are the cost of this step.
    crowded = (sizes[sid_of] > 1) | were_taken
    rows = np.flatnonzero(crowded)
    fit = quantizer.misfit(embeddings[rows], codes[rows]) if len(rows) else np.empty(0, dtype=np.float32)
    order = np.lexsort((fit, sid_of[rows]))  # by SID, the nearest first, ties by row
    rows, fit = rows[order], fit[order]
    is_first = np.append(True, sid_of[rows][1:] != sid_of[rows][:-1])[: len(rows)]
    stays = is_first & ~were_taken[rows]
    occupied.add(np.concatenate([codes[~crowded], codes[rows[stays]]]))
    return rows[~stays][np.argsort(fit[~stays], kind="stable")].tolist()


def _assign_last_codes(
    codes: np.ndarray, embeddings: np.ndarray, quantizer: Quantizer, occupied: _Occupied
) -> list[int]:
    """
    Assign the items of each prefix with a collision to its free last codes; rows in excess of these codes.

    Items of the prefix without a collision take part: where one can move at little cost, another may stay.
    """
    from scipy.optimize import linear_sum_assignment  # comes with sentence-transformers and with scikit-learn

    sid_of, sizes = _groups(codes)
    crowded = (sizes[sid_of] > 1) | _are_taken(codes, occupied)
    prefix_of, _ = _groups(codes[:, :-1])
    is_dealt = np.isin(prefix_of, prefix_of[crowded])
    rows = np.flatnonzero(is_dealt)
    rows = rows[np.argsort(prefix_of[rows], kind="stable")]
    homeless = []
    for group in np.split(rows, np.flatnonzero(np.diff(prefix_of[rows])) + 1):
        if len(group) == 0:  # nothing is crowded
            break
        prefix = tuple(codes[group[0], :-1].tolist())
        free = np.array([occupied.count((*prefix, code)) == 0 for code in range(quantizer.level_sizes[-1])])
        costs = quantizer.distances(embeddings[group], codes[group, :-1])[:, free]
        placed, chosen = linear_sum_assignment(costs)
        codes[group[placed], -1] = np.flatnonzero(free)[chosen]
        homeless += np.delete(group, placed).tolist()
        occupied.add(codes[group[placed]])
    occupied.add(codes[~is_dealt])
    return homeless


def _are_taken(codes: np.ndarray, occupied: _Occupied) -> np.ndarray:
    """Find the rows of `codes` that are SIDs of existing items."""
    return np.fromiter((occupied.count(sid) > 0 for sid in map(tuple, codes.tolist())), dtype=bool, count=len(codes))


def _nearest_free(sid: np.ndarray, embedding: np.ndarray, quantizer: Quantizer, occupied: _Occupied) -> list[int]:
    """
    Find the free SID that shares the longest prefix with `sid`; below it, the nearest code with room at each level.

    Greedy by level rather than nearest overall: a SID's meaning lies in its first codes (see the head of this file),
    and it needs one row of distances a level instead of one for every free SID.
    """
    prefix = sid.tolist()[:-1]
    while not occupied.has_room(tuple(prefix)):
        prefix.pop()
    while len(prefix) < len(sid):
        distances = quantizer.distances(embedding, np.array([prefix], dtype=np.int32).reshape(1, -1))[0]
        order = np.argsort(distances, kind="stable").tolist()
        prefix.append(next(code for code in order if occupied.has_room((*prefix, code))))
    return prefix


def _with_suffix(codes: np.ndarray, taken: np.ndarray) -> np.ndarray:
    # An item's number is how many items with its SID precede it; existing items precede all new ones.
    both = np.concatenate([taken[:, : codes.shape[1]], codes])
    sid_of, sizes = _groups(both)
    order = np.argsort(sid_of, kind="stable")
    number = np.empty(len(both), dtype=np.int32)
    number[order] = np.arange(len(both)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    if len(taken):
        # Numbers of removed items are not used again below the highest in use: a trained model knows them as others.
        highest = np.full(len(sizes), -1)
        np.maximum.at(highest, sid_of[: len(taken)], taken[:, -1])
        before = np.bincount(sid_of[: len(taken)], minlength=len(sizes))
        number += (highest + 1 - before)[sid_of].astype(np.int32)
    return np.column_stack([codes, number[len(taken) :]])


def _groups(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group equal rows: the number of each row's group, and the sizes of the groups."""
    if codes.shape[1] == 0:
        return np.zeros(len(codes), dtype=int), np.array([len(codes)])
    _, group_of, sizes = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return group_of.reshape(-1), sizes


def _check(
    codes: np.ndarray, embeddings: np.ndarray, quantizer: Quantizer, policy: str, taken: np.ndarray | None
) -> np.ndarray:
    if policy not in POLICIES:
        raise ValueError(f"Expected `policy` among {POLICIES}, found {policy!r}. The default is 'reassign'.")
    sizes = quantizer.level_sizes
    if codes.ndim != 2 or codes.shape[1] != len(sizes) or len(codes) != len(embeddings):
        raise ValueError(
            f"Expected codes of shape ({len(embeddings)}, {len(sizes)}), a row an embedding and a column a level of "
            f"the quantizer, found {codes.shape}. Pass what `quantizer.encode(embeddings)` returned."
        )
    checked_codes(codes, sizes)
    width = len(sizes) + (policy == "suffix")
    if taken is None:
        return np.empty((0, width), dtype=np.int32)
    taken = np.asarray(taken)
    if taken.ndim != 2 or taken.shape[1] != width:
        raise ValueError(
            f"Expected `taken` of shape (others, {width}) for the policy {policy!r}, found {taken.shape}. Pass the "
            "codes of the index that the items are added to, and the policy that made it."
        )
    checked_codes(taken[:, : len(sizes)], sizes)
    return taken


@checks_types
def collision_groups(codes: np.ndarray, level_sizes: Sequence[int], policy: str = "reassign") -> np.ndarray:
    r"""
    Divides items into groups whose collisions can be resolved apart, with the codes of all items resolved together.

    A group is a prefix that has room for all its items, and of which no item can come from elsewhere: the longest such
    one. Where a prefix is overfull, its items move among those of the prefix above, which are then one group.

    Args:
        codes (`np.ndarray` of shape `(items, levels)`):
            The output of `quantizer.encode`, of all items.
        level_sizes (`Sequence[int]`):
            Those of the quantiser.
        policy (`str`, *optional*, defaults to `"reassign"`):
            As in [`resolve_collisions`], which is then called for each group, its items in the order of their rows.

    Returns:
        `np.ndarray` of shape `(items,)`: The number of each item's group, or -1 for an item whose codes stay.

    Raises:
        `ValueError`: more items than SIDs.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.sids import collision_groups

    >>> codes = np.array([[0, 0], [0, 0], [1, 0], [1, 1], [2, 1], [2, 1], [2, 1]])
    >>> collision_groups(codes, [4, 3]).tolist()  # no items collide behind code 1
    [0, 0, -1, -1, 1, 1, 1]
    >>> collision_groups(codes, [4, 2]).tolist()  # three items of two SIDs: some moves to another first code
    [0, 0, 0, 0, 0, 0, 0]
    ```
    """
    codes = checked_codes(codes, level_sizes)
    if policy not in POLICIES:
        raise ValueError(f"Expected `policy` among {POLICIES}, found {policy!r}. The default is 'reassign'.")
    if policy == "keep" or len(codes) == 0:
        return np.full(len(codes), -1)
    sid_of, sizes = _groups(codes)
    if policy == "suffix":
        group_of, crowded = sid_of, sizes > 1
        return _numbered(group_of, crowded[group_of])
    capacities = [1]
    for size in reversed(level_sizes):
        capacities.insert(0, capacities[0] * int(size))
    if len(codes) > capacities[0]:
        raise ValueError(
            f"Expected at most {capacities[0]} items, one a SID of the level sizes {list(level_sizes)}, found "
            f'{len(codes)}. Use larger levels, or `policy="suffix"`.'
        )
    group_of = np.zeros(len(codes), dtype=np.int64)
    is_open = np.ones(len(codes), dtype=bool)  # whether an item's prefix may be divided further
    for depth in range(1, codes.shape[1]):
        prefix_of, counts = _groups(codes[:, :depth])
        overfull = np.zeros(len(codes), dtype=bool)
        overfull[group_of[(counts > capacities[depth])[prefix_of] & is_open]] = True
        is_open &= ~overfull[group_of]
        # Groups that stay keep numbers that no prefix has.
        _, group_of = np.unique(np.where(is_open, prefix_of, len(codes) + group_of), return_inverse=True)
    crowded = np.zeros(len(codes), dtype=bool)
    crowded[group_of[(sizes > 1)[sid_of]]] = True
    return _numbered(group_of, crowded[group_of])


def _numbered(group_of: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Numbers from 0 on for the groups of the wanted items, -1 for all others."""
    numbers = np.full(len(group_of), -1)
    numbers[wanted] = np.unique(group_of[wanted], return_inverse=True)[1]
    return numbers
