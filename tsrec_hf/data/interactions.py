"""
Interactions as the builders of rows read them: next-item rows, or a log sorted by user, a piece at a time.

What is read of a data set at once is a piece, which ends where a user ends. So memory stays flat whatever the number
of interactions, and processes can share the pieces.
"""

import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset


Interactions: TypeAlias = Dataset | IterableDataset
# Items of a session, oldest first, and where the first of its targets stands.
Session: TypeAlias = tuple[list[str], int]

ROW_COLUMNS, LOG_COLUMNS = ("user_id", "history", "target"), ("user_id", "item_id")
# Interactions that are read at once, and how many a small data set has, whose rows are made in memory.
PIECE_SIZE, MOST_IN_MEMORY = 20_000, 50_000
ADVICE = "Load them with `load_minionerec` or `chronological_split`, or pass a log: `user_id` and `item_id`."
SORT = 'Sort it: `log.sort(["user_id", "timestamp"])`.'


class InteractionReader:
    r"""
    Reads sessions and next-item pairs from interactions.

    Args:
        interactions (`Dataset` or `IterableDataset`):
            Next-item rows (`user_id`, `history`, `target`), each user's in time order; or a log (`user_id` and
            `item_id`), in which the rows of a user stand together, oldest first. A stream is a log.
        longest (`int`):
            Length that histories of next-item rows were truncated to.

    Raises:
        `ValueError`: a log whose users do not stand together, or whose times go back.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tsrec_hf.data.interactions import InteractionReader

    >>> log = Dataset.from_dict({"user_id": ["ann", "ann", "bob", "bob"], "item_id": ["nut", "bolt", "saw", "nut"]})
    >>> reader = InteractionReader(log, longest=10)
    >>> list(reader.sessions(reader.pieces()))
    [(['nut', 'bolt'], 1), (['saw', 'nut'], 1)]
    >>> list(reader.targets(reader.pieces()))
    [(['nut'], 'bolt'), (['saw'], 'nut')]
    ```
    """

    def __init__(self, interactions: Interactions, longest: int):
        self.interactions, self.longest = interactions, longest
        columns = columns_of(interactions)
        self.is_log = is_log(interactions)
        self._columns = [name for name in (*LOG_COLUMNS, "timestamp") if name in columns]

    @property
    def fits_in_memory(self) -> bool:
        """Whether there are so few interactions that rows of them are made in memory."""
        return isinstance(self.interactions, Dataset) and len(self.interactions) <= MOST_IN_MEMORY

    def pieces(self, by_user: bool = True) -> list[tuple[int, int]]:
        """
        First row of each piece, and the row behind its last.

        Args:
            by_user (`bool`, *optional*, defaults to `True`):
                Whether no user may be cut. Next-item rows whose users do not stand together are then one piece.
        """
        if not isinstance(self.interactions, Dataset):
            return [(0, -1)]
        size = len(self.interactions)
        if not self.is_log and not by_user:
            cuts = list(range(0, size, PIECE_SIZE))
        else:
            begins = _user_begins(self.interactions)
            if begins is None and self.is_log:
                raise ValueError(
                    "Expected a log in which the rows of each user stand together, oldest first, but found a user "
                    f"again behind others. {SORT}"
                )
            if begins is None:
                return [(0, size)]
            # The first user behind each multiple of the size.
            wanted = np.arange(0, begins[-1] + 1, PIECE_SIZE) if size else np.empty(0, dtype=int)
            cuts = np.unique(begins[np.searchsorted(begins, wanted)]).tolist()
        return list(zip(cuts, [*cuts[1:], size]))

    def sessions(self, pieces: Sequence[tuple[int, int]]) -> Iterator[Session]:
        """The sessions of some pieces."""
        for piece in pieces:
            if self.is_log:
                yield from ((items, 1) for items in self._users(*piece))
            else:
                rows = self._slice(*piece)
                yield from _chained(rows["user_id"], rows["history"], rows["target"], self.longest)

    def targets(self, pieces: Sequence[tuple[int, int]]) -> Iterator[tuple[list[str], str]]:
        """History and target of every row of some pieces, or of every item of a log but each user's first."""
        for piece in pieces:
            if self.is_log:
                for items in self._users(*piece):
                    yield from ((items[max(0, at - self.longest) : at], items[at]) for at in range(1, len(items)))
            else:
                rows = self._slice(*piece)
                yield from zip(rows["history"], rows["target"])

    def batches(self) -> Iterator[pa.Table]:
        """What decides the rows, in tables of equal size: the key under which rows are cached."""
        assert isinstance(self.interactions, Dataset)
        names = self._columns if self.is_log else [n for n in ROW_COLUMNS if n in self.interactions.column_names]
        table = self.interactions.select_columns(names).with_format("arrow")
        yield from (table[start : start + PIECE_SIZE] for start in range(0, len(table), PIECE_SIZE))

    def _slice(self, start: int, stop: int) -> Mapping[str, list[Any]]:
        assert isinstance(self.interactions, Dataset)
        return self.interactions.with_format(None)[start:stop]

    def _users(self, start: int, stop: int) -> Iterator[list[str]]:
        """The items of each user of a log."""
        if isinstance(self.interactions, Dataset):
            yield from _by_user([self._slice(start, stop)])
            return
        seen = array("q")
        yield from _by_user(self.interactions.select_columns(self._columns).batch(batch_size=PIECE_SIZE), seen)
        if _repeats(seen):
            raise ValueError(
                "Expected a stream in which the rows of each user stand together, oldest first, but found users again "
                "behind others. Sort the table by user and time before it is streamed."
            )


def columns_of(interactions: Interactions) -> list[str]:
    """Names of the columns; of a stream that does not know them, those of its first row."""
    return list(interactions.column_names or next(iter(interactions), {}))


def is_log(interactions: Interactions) -> bool:
    """Whether interactions are a log, one row an item, and not next-item rows. A stream has to be."""
    return isinstance(interactions, IterableDataset) or "history" not in columns_of(interactions)


def _by_user(batches: Iterable[Mapping[str, list[Any]]], seen: "array[int] | None" = None) -> Iterator[list[str]]:
    """Joins the rows of each user, and adds the users' hashes to `seen`."""
    user: str | None = None
    items: list[str] = []
    latest = None
    for batch in batches:
        times = batch.get("timestamp") or itertools.repeat(None)
        for row_user, item, time in zip(batch["user_id"], batch["item_id"], times):
            if row_user != user:
                if items:
                    yield items
                user, items, latest = row_user, [], None
                if seen is not None:
                    seen.append(hash(user))
            elif latest is not None and time is not None and time < latest:
                raise ValueError(
                    f"Expected the interactions of each user oldest first, but user {user!r} has time {time} behind "
                    f"{latest}. {SORT}"
                )
            items.append(item)
            latest = time
    if items:
        yield items


def _user_begins(interactions: Dataset) -> np.ndarray | None:
    """Where each user's rows begin; `None` where a user comes again behind others."""
    if "user_id" not in interactions.column_names:
        return np.arange(len(interactions))
    users = interactions.select_columns(["user_id"]).with_format("arrow")
    begins, last, is_sorted = [], None, True
    hashes = array("q")
    for start in range(0, len(users), PIECE_SIZE):
        column = users[start : start + PIECE_SIZE]["user_id"].combine_chunks()
        before = pa.concat_arrays([pa.array([last], column.type), column[:-1]])
        new = pc.fill_null(pc.not_equal(column, before), True)
        found = column.filter(new).to_pylist()
        is_sorted &= all(
            left < right for left, right in itertools.pairwise([*([] if last is None else [last]), *found])
        )
        hashes.extend(map(hash, found))
        begins.append(start + np.flatnonzero(new.to_numpy(zero_copy_only=False)))
        last = column[-1].as_py()
    if not begins:
        return np.empty(0, dtype=int)
    # Sorted users need no look; of others eight bytes each tell whether one comes again.
    return None if not is_sorted and _repeats(hashes) else np.concatenate(begins)


def _repeats(hashes: "array[int]") -> bool:
    return len(np.unique(np.frombuffer(hashes, dtype=np.int64))) < len(hashes)


def _chained(
    users: Sequence[str], histories: Sequence[list[str]], targets: Sequence[str], longest: int
) -> list[Session]:
    """
    Chains rows whose history is what the user's earlier rows hold; a row that does not fit begins another
    session.
    """
    sessions: list[Session] = []
    open_session: dict[str, list[str]] = {}
    for user, history, target in zip(users, histories, targets):
        items = open_session.get(user)
        if items is None or len(history) < min(longest, len(items)) or items[-len(history) :] != history:
            items = open_session[user] = list(history)
            sessions.append((items, len(history)))
        items.append(target)
    return sessions
