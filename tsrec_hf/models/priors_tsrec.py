"""The priors that ship: transitions, popularity, similarity."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .checking_tsrec import checks_types
from .indexing_tsrec import SIDIndex
from .item_prior_tsrec import ItemPrior, PriorWeights


# Pairs that a fit holds before it adds up those that are equal.
PAIRS_OF_A_CHUNK = 8_000_000


class PopularityPrior(ItemPrior):
    r"""
    How often items were taken, recent times counting more.

    Args:
        index ([`SIDIndex`]):
            The catalogue.
        popularity (`np.ndarray` of shape `(num_items,)`):
            Share of each item, positive; see [`PopularityPrior.fit`].

    Example:

    ```python
    >>> from tsrec_hf import PopularityPrior

    >>> prior = PopularityPrior.fit(dataset.train, sid_index)
    >>> prior.popularity.sum().round(4)
    np.float32(1.0)
    ```
    """

    @checks_types
    def __init__(self, index: SIDIndex, popularity: np.ndarray):
        super().__init__(index)
        self.popularity = np.asarray(popularity, dtype=np.float32)
        self._tensor = torch.from_numpy(self.popularity)

    @classmethod
    @checks_types
    def fit(
        cls, interactions: Any, sid_index: SIDIndex, half_life: float | None = 0.25, smoothing: float = 0.1
    ) -> "PopularityPrior":
        """
        Counts the targets of training rows.

        Args:
            interactions (`datasets.Dataset`):
                Rows with `target`, in time order.
            sid_index ([`SIDIndex`]):
                The catalogue.
            half_life (`float`, *optional*, defaults to `0.25`):
                Share of the rows after which a row counts half; `None` counts all alike.
            smoothing (`float`, *optional*, defaults to `0.1`):
                Count that every item has from the start; positive.
        """
        column = interactions.select_columns(["target"]).with_format("arrow")[:]["target"].combine_chunks()
        targets = _rows_of(column, sid_index)
        ages = np.arange(len(targets))[::-1] / max(len(targets), 1)
        decay = np.ones(len(targets)) if half_life is None else 0.5 ** (ages / half_life)
        counts = np.bincount(targets, weights=decay, minlength=len(sid_index)) + smoothing
        return cls(sid_index, counts / counts.sum())

    def weights(self, histories: Sequence[Sequence[str]]) -> PriorWeights:
        """The same for all histories."""
        return PriorWeights.of_all(self._tensor, len(histories))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The shares."""
        return {"popularity": self.popularity}, {}

    @classmethod
    def from_state(cls, index, arrays, facts) -> "PopularityPrior":
        """From the shares."""
        return cls(index, arrays["popularity"])


class NextItemPrior(ItemPrior):
    r"""
    Transitions: what followed the items of a history in training.

    Every pair of a user's items counts `gap_decay ** gap`, the gap being the items in between; a part of the
    transposed counts is added, and rows are divided by a power of their sum plus `shrinkage`. The weight of an item is
    the sum of the rows of the history's last items, the `k`-th last times `history_decay ** k`, and a trace of recent
    popularity.

    Args:
        index ([`SIDIndex`]):
            The catalogue.
        offsets (`np.ndarray` of shape `(num_items + 1,)`), successors, values (`np.ndarray` of shape `(pairs,)`):
            The transitions in compressed sparse rows.
        popularity (`np.ndarray` of shape `(num_items,)`):
            As [`PopularityPrior`]'s.
        history_decay (`float`, *optional*, defaults to `0.6`):
            Weight of an item of the history relative to the one after it.
        trace (`float`, *optional*, defaults to `0.05`):
            Weight of popularity.
        max_history (`int`, *optional*, defaults to `10`):
            Last items of a history that count.
        repeats (`bool`, *optional*, defaults to `True`):
            Whether the history's own items may follow. [`NextItemPrior.fit`] looks whether they do in training.

    Example:

    ```python
    >>> from tsrec_hf import NextItemPrior

    >>> prior = NextItemPrior.fit(dataset.train, sid_index)
    >>> best = prior.log_weights([["hammer"]]).argmax().item()
    >>> sid_index.item_ids[best]
    'nail'
    ```
    """

    @checks_types
    def __init__(
        self,
        index: SIDIndex,
        offsets: np.ndarray,
        successors: np.ndarray,
        values: np.ndarray,
        popularity: np.ndarray,
        history_decay: float = 0.6,
        trace: float = 0.05,
        max_history: int = 10,
        repeats: bool = True,
    ):
        super().__init__(index)
        self.offsets, self.successors, self.values, self.popularity = offsets, successors, values, popularity
        self.history_decay, self.trace, self.max_history, self.repeats = history_decay, trace, max_history, repeats
        self._shared = torch.from_numpy(np.float32(trace) * popularity)

    @classmethod
    @checks_types
    def fit(
        cls,
        interactions: Any,
        sid_index: SIDIndex,
        gap_decay: float = 0.6,
        history_decay: float = 0.6,
        transposed: float = 1 / 3,
        shrinkage: float = 5.0,
        normalization: float = 0.6,
        trace: float = 0.05,
        max_history: int = 10,
        max_successors: int = 1000,
    ) -> "NextItemPrior":
        """
        Counts transitions in training rows, in bounded memory.

        Args:
            interactions (`datasets.Dataset`):
                Rows with `history` (item ids, oldest first) and `target`, in time order. Every interaction is the
                target of one row, so that each pair is counted once.
            sid_index ([`SIDIndex`]):
                The catalogue.
            gap_decay (`float`, *optional*, defaults to `0.6`):
                Weight of a pair per item in between.
            history_decay (`float`, *optional*, defaults to `0.6`):
                As in the class.
            transposed (`float`, *optional*, defaults to `1/3`):
                Weight of a pair in the other direction.
            shrinkage (`float`, *optional*, defaults to `5`):
                Added to a row's sum before it divides the row: rows of few counts stay small.
            normalization (`float`, *optional*, defaults to `0.6`):
                Power of the sum, relative to the average row's, that divides the row. At 1 every item of a history
                counts alike, at 0 by how often it was bought. Between them lists were best on the validation splits
                of all four data sets tried.
            trace (`float`, *optional*, defaults to `0.05`):
                As in the class.
            max_history (`int`, *optional*, defaults to `10`):
                As in the class.
            max_successors (`int`, *optional*, defaults to `1000`):
                Most items kept in a row.
        """
        num_items, repeated = len(sid_index), 0
        keys, sums = np.empty(0, dtype=np.int64), np.empty(0)
        pending: list[tuple[np.ndarray, np.ndarray]] = []
        num_pending = 0
        for history, lengths, targets in _chunks(interactions, sid_index):
            ends = np.cumsum(lengths)
            gaps = np.repeat(ends, lengths) - 1 - np.arange(len(history))
            following = np.repeat(targets, lengths)
            repeated += int((history == following).sum())
            pending.append((history * num_items + following, gap_decay**gaps))
            num_pending += len(history)
            if num_pending > PAIRS_OF_A_CHUNK:
                keys, sums = _added_up([(keys, sums), *pending])
                pending, num_pending = [], 0
        keys, sums = _added_up([(keys, sums), *pending])
        other = keys % num_items * num_items + keys // num_items
        keys, sums = _added_up([(keys, sums), (other, sums * transposed)])
        rows = keys // num_items
        totals = np.bincount(rows, weights=sums, minlength=num_items)
        # Relative to the average row, so that the trace weighs as much whatever the power.
        size = totals + shrinkage
        average = size[totals > 0].mean() if len(sums) else 1.0
        values = sums / (average * (size / average) ** normalization)[rows]
        kept = _best_of_rows(rows, values, max_successors)
        rows, successors, values = rows[kept], keys[kept] % num_items, values[kept]
        offsets = np.searchsorted(rows, np.arange(num_items + 1))
        popularity = PopularityPrior.fit(interactions, sid_index).popularity
        return cls(
            sid_index,
            offsets.astype(np.int64),
            successors.astype(np.int32),
            values.astype(np.float32),
            popularity,
            history_decay,
            trace,
            max_history,
            repeats=repeated > 0,
        )

    def weights(self, histories: Sequence[Sequence[str]]) -> PriorWeights:
        """Sums of the rows of each history's last items."""
        rows: list[int] = []
        sources: list[int] = []
        scales: list[float] = []
        for row, history in enumerate(histories):
            last = self.index.positions_of(history[-self.max_history :])
            sources += last
            rows += [row] * len(last)
            scales += [self.history_decay ** (len(last) - 1 - place) for place in range(len(last))]
        source = np.asarray(sources, dtype=np.int64)
        starts, sizes = self.offsets[source], np.diff(self.offsets)[source]
        which = np.repeat(np.arange(len(source)), sizes)
        places = starts[which] + np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        items = self.successors[places].astype(np.int64)
        values = self.values[places] * np.asarray(scales, dtype=np.float32)[which]
        users = np.asarray(rows, dtype=np.int64)[which]
        if not self.repeats:
            own = [self.index.positions_of(history) for history in histories]
            sizes = np.array([len(part) for part in own], dtype=np.int64)
            taken = np.repeat(np.arange(len(own)), sizes) * len(self.index) + np.concatenate(own).astype(np.int64)
            kept = ~np.isin(users * len(self.index) + items, taken)
            users, items, values = users[kept], items[kept], values[kept]
        entries = [torch.from_numpy(part) for part in (users, items, values)]
        return PriorWeights(self._shared, entries[0], entries[1], entries[2], num_users=len(histories))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Transitions, popularity and settings."""
        arrays = {name: getattr(self, name) for name in ("offsets", "successors", "values", "popularity")}
        return arrays, {name: getattr(self, name) for name in ("history_decay", "trace", "max_history", "repeats")}

    @classmethod
    def from_state(cls, index, arrays, facts) -> "NextItemPrior":
        """From transitions, popularity and settings."""
        return cls(index, **arrays, **facts)

    @staticmethod
    def moved(arrays: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
        """As the parent's: rows of items that are gone go, in both directions."""
        new_of = np.full(len(arrays["popularity"]), -1)
        new_of[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        sizes = np.diff(arrays["offsets"])
        sources = new_of[np.repeat(np.arange(len(sizes)), sizes)]
        successors = new_of[arrays["successors"]]
        kept = (sources >= 0) & (successors >= 0)
        order = np.argsort(sources[kept], kind="stable")
        return {
            "offsets": np.searchsorted(sources[kept][order], np.arange(len(rows) + 1)).astype(np.int64),
            "successors": successors[kept][order].astype(np.int32),
            "values": arrays["values"][kept][order],
            "popularity": np.where(rows >= 0, arrays["popularity"][rows], arrays["popularity"].min()),
        }


class SimilarityPrior(ItemPrior):
    r"""
    Similarity of items to a history's last items, by their embeddings: what new items have.

    Args:
        index ([`SIDIndex`]):
            The catalogue.
        embeddings (`np.ndarray` of shape `(num_items, width)`):
            Item embeddings, from [`embed_items`]; kept in half precision.
        history_decay (`float`, *optional*, defaults to `0.6`):
            Weight of an item of the history relative to the one after it.
        temperature (`float`, *optional*, defaults to `0.1`):
            Weights are the softmax of cosine similarities over it.
        max_history (`int`, *optional*, defaults to `10`):
            Last items of a history that count.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf import SimilarityPrior

    >>> prior = SimilarityPrior(sid_index, np.eye(8))
    >>> sid_index.item_ids[prior.log_weights([["pear"]]).argmax().item()]
    'pear'
    ```
    """

    @checks_types
    def __init__(
        self,
        index: SIDIndex,
        embeddings: np.ndarray,
        history_decay: float = 0.6,
        temperature: float = 0.1,
        max_history: int = 10,
    ):
        super().__init__(index)
        if np.shape(embeddings)[0] != len(index):
            raise ValueError(
                f"Expected an embedding for each of {len(index)} items, but found {np.shape(embeddings)[0]}. Embed "
                "the items in the order of `sid_index.item_ids`."
            )
        # A copy: an array that is mapped from a file cannot be written to, which torch warns of.
        copied = torch.from_numpy(np.array(embeddings, dtype=np.float32))
        broken = (~copied.isfinite().all(-1)).nonzero().flatten().tolist()
        if broken:
            raise ValueError(
                f"Expected embeddings of finite numbers, but {len(broken)} rows have others, the first of item "
                f"{index.item_ids[broken[0]]!r}. Embed these items again."
            )
        unit = torch.nn.functional.normalize(copied, dim=-1)
        self.embeddings = unit.half()
        self.history_decay, self.temperature, self.max_history = history_decay, temperature, max_history

    def weights(self, histories: Sequence[Sequence[str]]) -> PriorWeights:
        """Softmax of the mean similarity to the last items."""
        queries = []
        for history in histories:
            last = self.index.positions_of(history[-self.max_history :])
            scales = self.history_decay ** torch.arange(len(last) - 1, -1, -1.0)
            queries.append((scales / scales.sum()) @ self.embeddings[last].float())
        similarities = torch.stack(queries) @ self.embeddings.float().T
        dense = (similarities / self.temperature).softmax(-1)
        shared = torch.zeros(len(self.index))
        return PriorWeights(**{**vars(PriorWeights.of_all(shared, len(histories))), "dense": dense})

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Embeddings and settings."""
        facts = {name: getattr(self, name) for name in ("history_decay", "temperature", "max_history")}
        return {"embeddings": self.embeddings.numpy()}, facts

    @classmethod
    def from_state(cls, index, arrays, facts) -> "SimilarityPrior":
        """From embeddings and settings."""
        return cls(index, arrays["embeddings"], **facts)

    @staticmethod
    def moved(arrays: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
        """As the parent's; a new item is like no other until its embedding is given."""
        return {"embeddings": np.where((rows >= 0)[:, None], arrays["embeddings"][rows], 0)}


def _chunks(interactions: Any, sid_index: SIDIndex, size: int = 500_000) -> Iterator[tuple[np.ndarray, ...]]:
    """Histories (flat rows of items), their lengths, and targets (rows), some rows of a table at a time."""
    # As Arrow, whose columns are encoded without a Python string per entry; the library itself is not imported.
    tables = interactions.select_columns(["history", "target"]).with_format("arrow")
    for start in range(0, len(interactions), size):
        part = tables[start : start + size]
        histories, targets = (part[name].combine_chunks() for name in ("history", "target"))
        lengths = histories.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        yield _rows_of(histories.flatten(), sid_index), lengths, _rows_of(targets, sid_index)


def _rows_of(ids: Any, sid_index: SIDIndex) -> np.ndarray:
    """Rows of the index of an Arrow array of item ids."""
    encoded = ids.dictionary_encode()
    rows = np.asarray(sid_index.positions_of(encoded.dictionary.to_pylist()), dtype=np.int64)
    return rows[encoded.indices.to_numpy(zero_copy_only=False)]


def _added_up(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct keys and the sums of their values."""
    keys, places = np.unique(np.concatenate([key for key, _ in parts]), return_inverse=True)
    return keys, np.bincount(places, weights=np.concatenate([value for _, value in parts]), minlength=len(keys))


def _best_of_rows(rows: np.ndarray, values: np.ndarray, most: int) -> np.ndarray:
    """Places of the `most` largest values of each row, in order; `rows` is sorted."""
    order = np.lexsort((-values, rows))
    starts = np.searchsorted(rows, rows[order])
    return np.sort(order[np.arange(len(rows)) - starts < most])
