"""
Interactions of a table as a stream: converted and cleaned like those of [`load_table`], a batch of rows at a time.

What needs all interactions at once is done as far as one user's rows go that stand together: repeats are found there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset
from datasets.builder import Key

from ..missing import blank_missing
from ..tidying import codes_of, first_of_each, first_titled, is_complete, is_rated, merge_items, times_of
from .sources import Columns
from .wanted import WantedColumns


@dataclass(frozen=True)
class CleanedBatches:
    """
    Batches of interactions in our types, without the rows that [`~items.tidy`] drops.

    Args:
        read (`Iterable[Columns]`):
            Batches of the table.
        wanted ([`WantedColumns`]):
            Our columns.
        item_ids (`pyarrow.Array`):
            Items that interactions may have.
        first_titled (`np.ndarray`, *optional*):
            Position of the item that takes the place of each, if items of one title are merged.
        first_of_repeats (`bool`):
            Whether a user's first interaction with an item alone is kept.
        min_rating (`float`, *optional*):
            Lowest rating that is kept.
    """

    read: Iterable[Columns]
    wanted: WantedColumns
    item_ids: pa.Array
    first_titled: np.ndarray | None
    first_of_repeats: bool
    min_rating: float | None

    def __iter__(self) -> Iterator[pa.Table]:
        held: list[pa.Table] = []
        for columns in self.read:
            batch = self._rows(columns)
            if not len(batch):
                continue
            # The last user's rows may go on in the next batch.
            begins = _run_begins(pa.concat_tables([*held, batch]) if held else batch)
            table = pa.concat_tables([*held, batch]).combine_chunks()
            if begins[-1]:
                yield self._without_repeats(table[: begins[-1]])
            held = [table[begins[-1] :]]
        if held:
            yield self._without_repeats(held[0])

    def _rows(self, columns: Columns) -> pa.Table:
        """The rows of a batch that can be judged one by one."""
        rows = self.wanted.converted(columns).filter(self.wanted.kept(columns))
        rows, _ = blank_missing(rows)
        if self.first_titled is not None:
            rows = merge_items(rows, self.item_ids, self.first_titled)
        rows = rows.filter(is_complete(rows))
        if self.min_rating is not None:
            rows = rows.filter(is_rated(rows, self.min_rating))
        return rows.filter(pc.is_in(rows["item_id"], value_set=self.item_ids))

    def _without_repeats(self, rows: pa.Table) -> pa.Table:
        """Drops what repeats among rows of one user that stand together."""
        runs = np.zeros(len(rows), dtype=np.int64)
        runs[_run_begins(rows)] = 1
        items = codes_of(rows["item_id"])
        pairs = np.cumsum(runs) * (items.max(initial=0) + 1) + items
        return rows.filter(first_of_each(pairs, times_of(rows), each_rank=not self.first_of_repeats))


def _run_begins(rows: pa.Table) -> np.ndarray:
    """Positions at which another user begins."""
    users = rows["user_id"].combine_chunks()
    return np.concatenate(
        [[0], 1 + np.flatnonzero(pc.not_equal(users[1:], users[:-1]).to_numpy(zero_copy_only=False))]
    )


def stream_interactions(
    read: Iterable[Columns],
    wanted: WantedColumns,
    catalogue: Dataset,
    same_title: str,
    repeats: str,
    min_rating: float | None,
) -> IterableDataset:
    """
    Interactions as a stream of `datasets`, in the order of the table.

    The table is read up to its first row that is left, so that a column that is missing is found now.

    Args:
        read (`Iterable[Columns]`):
            Batches of the table.
        wanted ([`WantedColumns`]):
            Our columns.
        catalogue (`datasets.Dataset`):
            Tidy items, of which none is merged.
        same_title, repeats, min_rating:
            As in [`~items.tidy`].
    """
    begin = next(iter(read), None)
    if begin is None:
        raise ValueError("Expected rows in the table of interactions, but it is empty. Write or fetch it again.")
    wanted.check(begin)
    items = catalogue.with_format("arrow")[:]
    first = first_titled(items["title"]) if same_title == "merge" else None
    ids = items["item_id"].combine_chunks()
    batches = CleanedBatches(read, wanted, ids, first, repeats == "first", min_rating)
    table = next(iter(batches), None)
    if table is None:
        raise ValueError(
            f"Expected interactions to be left of {begin.where}, but found none with a user, a time, an item of the "
            "catalogue, and what `filters` and `min_rating` ask for. Look whether both tables mean the same item ids."
        )
    # A name of its own spares `datasets` hashing all item ids for one.
    builder = _TableBuilder(
        config_id="default-stream", batches=batches, features=Features.from_arrow_schema(table.schema)
    )
    return builder.as_streaming_dataset(split="train")


@dataclass
class _TableBuilderConfig(datasets.BuilderConfig):
    batches: Iterable[pa.Table] = ()
    features: Features | None = None


class _TableBuilder(datasets.ArrowBasedBuilder):
    """Tables as a stream of `datasets`. One shard, since a user's rows may not be torn apart."""

    BUILDER_CONFIG_CLASS = _TableBuilderConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self.config.features)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name="train")]

    def _generate_tables(self) -> Iterator[tuple[Key, pa.Table]]:
        for number, table in enumerate(self.config.batches):
            yield Key(0, number), table
