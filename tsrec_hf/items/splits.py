"""Split an interaction log into next-item rows for training, validation and test."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from tsrec_hf.models.checking_tsrec import checks_types

from .columns import checked_columns
from .dataset import SPLITS


@checks_types
def chronological_split(
    interactions: Dataset, ratios: Sequence[float] = (0.8, 0.1, 0.1), max_history: int = 10
) -> DatasetDict:
    r"""
    Splits a log into next-item rows by time, at two points for all users.

    Every interaction of a user except the first is the target of one row, whose history holds the user's earlier
    items. All rows are sorted by time and split by the ratios, so training rows never come after validation or test
    rows. Ties keep the order of the log. This is the protocol of MiniOneRec's data sets.

    Times must be times. Where numbers count each user's interactions, the last rows would be those of the longest
    histories, and where they count the rows of a file that is sorted by user, those of the last users: such logs are
    refused ([`~items.splits.has_positions_for_times`]).

    Args:
        interactions (`datasets.Dataset`):
            The log, in any order, with the columns `user_id` and `item_id` (strings) and `timestamp` (numbers or
            dates).
        ratios (`Sequence[float]`, *optional*, defaults to `(0.8, 0.1, 0.1)`):
            Shares of train, valid and test; they sum to 1.
        max_history (`int`, *optional*, defaults to `10`):
            Maximum length of a history; longer ones are truncated to the latest items.

    Returns:
        `datasets.DatasetDict`: `train`, `valid` and `test` with the columns `user_id`, `history` (list of item ids,
        oldest first) and `target`, in time order. Of `n` rows the first `int(n * ratios[0])` are `train`; `test`
        begins at row `int(n * (ratios[0] + ratios[1]))`.

    Raises:
        `ValueError`: the log has positions in the place of times, or no user has two interactions.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tsrec_hf import chronological_split

    >>> log = Dataset.from_dict(
    ...     {
    ...         "user_id": ["ann", "bob", "ann", "bob", "ann"],
    ...         "item_id": ["nut", "saw", "bolt", "glue", "wrench"],
    ...         "timestamp": [1.0, 2.0, 3.0, 4.0, 5.0],
    ...     }
    ... )
    >>> splits = chronological_split(log, ratios=(0.34, 0.33, 0.33))
    >>> splits["train"][0]
    {'user_id': 'ann', 'history': ['nut'], 'target': 'bolt'}
    >>> splits["test"][0]
    {'user_id': 'ann', 'history': ['nut', 'bolt'], 'target': 'wrench'}
    ```
    """
    train_share, valid_share = _check_ratios(ratios)
    if has_positions_for_times(interactions):
        raise ValueError(
            "Expected times in the column 'timestamp' of `interactions`, but found positions: they count each user's "
            "interactions from the same number on, or the rows of a file that is sorted by user, so that the last "
            "rows of all would be those of a few users. Use `leave_one_out_split`, which needs no times (`--split "
            "leave_one_out`). If they are times, give them as dates or in seconds since 1970."
        )
    rows, _, _ = _next_item_rows(interactions, max_history)
    cuts = [0, int(len(rows) * train_share), int(len(rows) * (train_share + valid_share)), len(rows)]
    return DatasetDict({split: Dataset(rows[start:stop]) for split, start, stop in zip(SPLITS, cuts[:-1], cuts[1:])})


@checks_types
def leave_one_out_split(interactions: Dataset, max_history: int = 10) -> DatasetDict:
    r"""
    Splits a log into next-item rows per user: the last one for `test`, the one before it for `valid`.

    The protocol of SASRec and of most work on generative recommendation. Rows of users with fewer than three
    interactions are used for training only. Ties keep the order of the log. Unlike [`chronological_split`], training
    rows of other users may be later than a test row.

    Args:
        interactions (`datasets.Dataset`):
            The log, in any order, with the columns `user_id` and `item_id` (strings) and `timestamp` (numbers or
            dates).
        max_history (`int`, *optional*, defaults to `10`):
            Maximum length of a history; longer ones are truncated to the latest items.

    Returns:
        `datasets.DatasetDict`: `train`, `valid` and `test` with the columns `user_id`, `history` (list of item ids,
        oldest first) and `target`, each in time order. Histories of `test` hold the target of `valid`.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tsrec_hf.items import leave_one_out_split

    >>> log = Dataset.from_dict(
    ...     {"user_id": ["ann"] * 4, "item_id": ["nut", "bolt", "wrench", "saw"], "timestamp": [1.0, 2.0, 3.0, 4.0]}
    ... )
    >>> splits = leave_one_out_split(log)
    >>> splits["train"][0]
    {'user_id': 'ann', 'history': ['nut'], 'target': 'bolt'}
    >>> splits["test"][0]
    {'user_id': 'ann', 'history': ['nut', 'bolt', 'wrench'], 'target': 'saw'}
    ```
    """
    rows, num_earlier, num_later = _next_item_rows(interactions, max_history)
    split_of = np.where(num_earlier + num_later < 2, len(SPLITS), num_later)
    if not (split_of == 0).any():
        raise ValueError(
            "Expected users with at least three interactions, one each for the history, `valid` and `test`, but none "
            "of the users has as many. Check that `user_id` names users and not sessions."
        )
    masks = {"train": split_of > 1, "valid": split_of == 1, "test": split_of == 0}
    return DatasetDict({split: Dataset(rows.filter(pa.array(masks[split]))) for split in SPLITS})


def has_positions_for_times(interactions: Dataset) -> bool:
    r"""
    Tells whether the times of a log are only positions: numbers that count each user's interactions, or the rows of a
    file that is sorted by user.

    They are if they are whole, the least of them is 0 or 1, no two of one user are equal, and at least half of the
    numbers between are taken (filters drop interactions). Positions in users' histories then begin at the least number
    for more than half of the users. Numbers of rows are all different, and those of each of more than two users follow
    each other without another user's between.

    Args:
        interactions (`datasets.Dataset`):
            The log, in any order, with the columns `user_id` and `item_id` (strings) and `timestamp` (numbers or
            dates).

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tsrec_hf.items.splits import has_positions_for_times

    >>> log = {"user_id": ["ann", "ann", "bob", "bob", "bob"], "item_id": list("abcde"), "timestamp": [0, 1, 0, 1, 2]}
    >>> has_positions_for_times(Dataset.from_dict(log))
    True
    >>> has_positions_for_times(Dataset.from_dict({**log, "timestamp": [3, 7, 0, 9, 12]}))
    False
    ```
    """
    users, _, times = _read_log(interactions)
    if not len(times) or not np.issubdtype(times.dtype, np.number):
        return False
    first = times.min()
    if first not in (0, 1) or (times != np.floor(times)).any():
        return False
    codes = pc.dictionary_encode(users).indices.to_numpy()
    num_users = codes.max() + 1
    if num_users == 1:
        return False  # one user's positions are an order in time
    if len(np.unique(times)) == len(times):
        # Numbers of rows are an order in time as well, unless the rows of each user stand together.
        in_order = codes[np.argsort(times)]
        num_blocks = 1 + np.count_nonzero(np.diff(in_order))
        return bool(2 < num_users == num_blocks < len(times) and len(times) >= 0.5 * (times.max() - first + 1))
    order = np.lexsort((times, codes))
    codes, times = codes[order], times[order]
    begins = np.diff(codes, prepend=-1) != 0  # (interactions,)
    lasts = times[np.append(begins[1:], True)]  # (users,)
    repeated = (np.diff(times) == 0) & ~begins[1:]
    return bool(
        not repeated.any() and np.mean(times[begins] == first) > 0.5 and len(times) >= 0.5 * np.sum(lasts - first + 1)
    )


def _next_item_rows(interactions: Dataset, max_history: int) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """
    Builds one row per interaction except each user's first, in time order, without a loop over rows.

    Also returns how many interactions of the same user come before and after each target.
    """
    if max_history < 1:
        raise ValueError(f"Expected `max_history` of at least 1, but found {max_history}. Every row needs a history.")
    users, items, timestamps = _read_log(interactions)

    # Sort the log by user, then by time: a history is then a contiguous slice that ends right before its target.
    by_time = np.argsort(timestamps, kind="stable")
    user_codes = pc.dictionary_encode(users).indices.to_numpy()
    by_user = by_time[np.argsort(user_codes[by_time], kind="stable")]
    user_codes = user_codes[by_user]
    begins = np.flatnonzero(np.diff(user_codes, prepend=-1))  # (users,)
    position = np.arange(len(by_user))
    num_interactions = np.diff(begins, append=len(by_user))  # (users,)
    num_earlier = position - np.repeat(begins, num_interactions)
    num_later = np.repeat(num_interactions, num_interactions) - num_earlier - 1

    # Targets in time order, as positions in `by_user`; a user's first interaction has no history and is no target.
    place = np.empty_like(by_user)
    place[by_user] = position
    targets = place[by_time]
    targets = targets[num_earlier[targets] > 0]
    if len(targets) == 0:
        raise ValueError(
            f"Expected users with at least two interactions, but none of the {len(begins)} users has more than one. "
            "Check that `user_id` names users and not sessions."
        )

    lengths = np.minimum(num_earlier[targets], max_history)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # Entry j of a history of n items whose target is at position t is at position t - n + j, for all rows at once.
    entries = np.repeat(targets - lengths - offsets[:-1], lengths) + np.arange(offsets[-1])
    history = pa.LargeListArray.from_arrays(offsets, items.take(by_user[entries])).cast(pa.list_(pa.string()))
    rows = pa.table(
        {"user_id": users.take(by_user[targets]), "history": history, "target": items.take(by_user[targets])}
    )
    return rows, num_earlier[targets], num_later[targets]


def _check_ratios(ratios: Sequence[float]) -> tuple[Fraction, Fraction]:
    if len(ratios) != 3 or min(ratios) < 0 or ratios[0] <= 0 or not math.isclose(sum(ratios), 1, abs_tol=1e-9):
        raise ValueError(
            "Expected three ratios for train, valid and test that are not negative and sum to 1, but found "
            f"{tuple(ratios)}. Pass, for example, `ratios=(0.8, 0.1, 0.1)`."
        )
    # As floats, 0.7 + 0.1 falls short of 0.8, and the cut could move by a row.
    train, valid = (Fraction(ratio).limit_denominator(1_000_000) for ratio in ratios[:2])
    return train, valid


def _read_log(interactions: Dataset) -> tuple[pa.Array, pa.Array, np.ndarray]:
    kinds = {"user_id": "a string", "item_id": "a string", "timestamp": "a time"}
    columns = checked_columns(interactions, "interactions", kinds)
    return columns["user_id"], columns["item_id"], columns["timestamp"].to_numpy(zero_copy_only=False)
