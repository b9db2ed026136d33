"""`InteractionLog`: a catalogue and its interactions before the split, returned by readers and filters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict

from .columns import arrow_table, is_text
from .dataset import RecommendationDataset
from .splits import chronological_split
from .summary import LogSummary


ITEM_COLUMNS = ("item_id", "title", "description")
LOG_COLUMNS = ("user_id", "item_id", "timestamp")


@dataclass(frozen=True, eq=False, repr=False)
class InteractionLog:
    r"""
    Holds a catalogue and its interactions before the split. Unpacks as `items, interactions = log`.

    Args:
        items (`datasets.Dataset`):
            One row per item with the string columns `item_id`, `title` and `description`; more columns are allowed.
        interactions (`datasets.Dataset`):
            One row per interaction with the columns `user_id` and `item_id` (strings) and `timestamp` (`float64`), and
            optionally more, in any order.
        summary ([`~items.LogSummary`], *optional*):
            Counts of what earlier stages kept and dropped. Defaults to one stage with the counts of the given tables.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tsrec_hf.items import InteractionLog, leave_one_out_split

    >>> items = Dataset.from_dict({"item_id": ["1", "2"], "title": ["Nut", "Bolt"], "description": ["", ""]})
    >>> interactions = Dataset.from_dict(
    ...     {"user_id": ["ann"] * 4, "item_id": ["1", "2", "1", "2"], "timestamp": [1.0, 2.0, 3.0, 4.0]}
    ... )
    >>> log = InteractionLog(items, interactions)
    >>> log
    InteractionLog(items=2, users=1, interactions=4)
    >>> log.split(leave_one_out_split, name="toy")
    RecommendationDataset(name='toy', items=2, train=1, valid=1, test=1, sid_index=None)
    ```

    A reader of another format is a function that returns these two tables. It does not drop or correct rows: unknown
    items, repeated rows, missing times and HTML are left to [`~items.tidy`], which counts them.

    ```python
    >>> from tsrec_hf import tidy

    >>> def load_plays(lines):
    ...     rows = [line.split("|") for line in lines]  # listener|song|title|seconds
    ...     users, songs, titles, seconds = (list(column) for column in zip(*rows))
    ...     items = {"item_id": songs, "title": titles, "description": [""] * len(rows)}
    ...     plays = {"user_id": users, "item_id": songs, "timestamp": list(map(float, seconds))}
    ...     return InteractionLog(Dataset.from_dict(items), Dataset.from_dict(plays))

    >>> tidy(load_plays(["ann|7|Blue &amp; Green|3", "bob|7|Blue &amp; Green|4", "bob|8|So What|5"]))
    InteractionLog(items=2, users=2, interactions=3)
    ```
    """

    items: Dataset
    interactions: Dataset
    summary: LogSummary = field(default_factory=LogSummary)

    def __post_init__(self) -> None:
        if not self.summary.stages:
            object.__setattr__(self, "summary", self.summary.add("given", *self.tables()))

    def __iter__(self) -> Iterator[Dataset]:
        return iter((self.items, self.interactions))

    def __repr__(self) -> str:
        users, interactions = self.summary.stages[-1][2:]
        return f"{type(self).__name__}(items={len(self.items):,}, users={users:,}, interactions={interactions:,})"

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Returns items and interactions as Arrow tables, after checking their columns."""
        return _as_table(self.items, "items", ITEM_COLUMNS), _as_table(self.interactions, "interactions", LOG_COLUMNS)

    def split(
        self, splitter: Callable[..., DatasetDict] = chronological_split, name: str = "", **kwargs: Any
    ) -> RecommendationDataset:
        """
        Turns the interactions into next-item rows and splits them.

        Args:
            splitter (`Callable`, *optional*, defaults to [`chronological_split`]):
                [`chronological_split`], [`leave_one_out_split`], or any function from interactions to a `DatasetDict`
                with `train`, `valid` and `test`.
            name (`str`, *optional*, defaults to `""`):
                Name of the data set.
            kwargs:
                Settings of the splitter, such as `ratios` and `max_history`.

        Returns:
            [`RecommendationDataset`]: All items, the three splits, and the `max_history` that the splitter used.
        """
        splits = splitter(self.interactions, **kwargs)
        parameter = inspect.signature(splitter).parameters.get("max_history")
        default = None if parameter is None or parameter.default is parameter.empty else parameter.default
        return RecommendationDataset(
            self.items,
            splits["train"],
            splits["valid"],
            splits["test"],
            name=name,
            max_history=kwargs.get("max_history", default),
        )


def no_interactions() -> Dataset:
    """Returns an empty table of interactions, for a catalogue without a log."""
    columns = {"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.float64(), "rating": pa.float64()}
    return Dataset(pa.schema(columns).empty_table())


def _as_table(dataset: Dataset, name: str, required: tuple[str, ...]) -> pa.Table:
    advice = "Rename your columns with `rename_column`, or read them with `load_table`."
    table = arrow_table(dataset, name, required, advice)
    for column in required:
        kind = table[column].type
        if is_text(kind) == (column == "timestamp"):
            raise TypeError(
                f"Expected column {column!r} of `{name}` to hold {'numbers' if column == 'timestamp' else 'strings'}, "
                f"but found {kind}. Convert it with `cast_column`, or read it with `load_table`."
            )
        if pa.types.is_large_string(kind):
            table = table.set_column(table.column_names.index(column), column, table[column].cast(pa.string()))
    # The metadata holds the features of `datasets` that Arrow has no type for, such as images.
    return table.replace_schema_metadata(dataset.features.arrow_schema.metadata)
