"""Which columns of a table are ours: what the table calls them, what they hold, and which of its rows are kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Features

from ..columns import require_columns
from .sources import Columns
from .values import CONVERTERS, as_formatted_seconds, join_texts, plain


Filters: TypeAlias = Mapping[str, str | list[str]]

# Kinds as in `json_lines`. Other columns keep their type.
KINDS = {
    "user_id": "id",
    "item_id": "id",
    "timestamp": "time",
    "rating": "number",
    "title": "text",
    "description": "text",
}


@dataclass(frozen=True)
class WantedColumns:
    """
    Our columns of a table.

    Args:
        name (`str`):
            Name of the table in error messages: `interactions` or `items`.
        names_of (`dict[str, list[str]]`):
            Our columns, and what the table calls them; several columns of text become one.
        needed (`list[str]`):
            Those of ours that the table must have.
        allowed (`dict[str, list[str]]`):
            Columns of the table and the values that their rows must have.
        in_order (`bool`):
            Whether rows have no time, and the number of a row takes its place.
        timestamp_format (`str`, *optional*):
            How dates are written, as `datetime.strptime` has it.
    """

    name: str
    names_of: dict[str, list[str]]
    needed: list[str]
    allowed: dict[str, list[str]]
    in_order: bool
    timestamp_format: str | None = None

    @classmethod
    def of(
        cls,
        name: str,
        columns: Mapping[str, str | list[str] | None],
        required: tuple[str, ...],
        optional: tuple[str, ...] = (),
        filters: Filters | None = None,
        timestamp_format: str | None = None,
    ) -> "WantedColumns":
        """What a mapping asks for: its columns, and by their own names those that are required or optional."""
        named = {column: column for column in (*required, *optional)} | dict(columns)
        names_of = {
            column: [names] if isinstance(names, str) else list(names)
            for column, names in named.items()
            if names is not None
        }
        allowed = {column: [value] if isinstance(value, str) else value for column, value in (filters or {}).items()}
        needed = [column for column in names_of if column in required or column in columns]
        return cls(name, names_of, needed, allowed, named.get("timestamp", "") is None, timestamp_format)

    @property
    def kinds(self) -> dict[str, str]:
        """Name and kind of each column of the table that is read."""
        kinds = {one: KINDS.get(column, "text") for column, names in self.names_of.items() for one in names}
        return dict.fromkeys(self.allowed, "text") | kinds

    def check(self, read: Columns) -> None:
        """Raises `ValueError` where a column is missing, or where several stand for one that is no text."""
        several = [
            column
            for column, names in self.names_of.items()
            if len(names) != 1 and KINDS.get(column, "text") != "text"
        ]
        if several:
            raise ValueError(
                f"Expected one column of {read.where} for each of {several}, but found "
                f"{[self.names_of[column] for column in several]}. Only texts can be joined from several columns."
            )
        # A field that all JSON lines lack is among the names found, but not in the table.
        present = [one for one in read.names if one in read.table.column_names or one not in self.kinds]
        for column in self.needed:
            advice = f"Name our column {column!r} by `{self.name.removesuffix('s')}_columns={{{column!r}: ...}}`."
            if column == "timestamp":
                advice += " `None` in its place says that the rows are in order (`timestamp=none`)."
            require_columns(present, self.names_of[column], read.where, advice + read.advice)
        require_columns(present, list(self.allowed), read.where, f"Correct the `filters`.{read.advice}")

    def converted(self, read: Columns) -> pa.Table:
        """Our columns, in our types."""
        found = set(read.table.column_names)
        given = {column: names for column, names in self.names_of.items() if found.issuperset(names)}
        columns = {
            column: convert(read, names, KINDS.get(column), self.timestamp_format) for column, names in given.items()
        }
        if self.in_order:
            rows = np.arange(read.first_row, read.first_row + len(read.table), dtype=np.float64)
            columns["timestamp"] = pa.chunked_array([rows])
        ours = pa.table(columns)
        # Arrow's types do not say that a column holds images.
        further = {
            column: read.features[names[0]]
            for column, names in given.items()
            if column not in KINDS and names[0] in read.features
        }
        features = Features(Features.from_arrow_schema(ours.schema) | further)
        return ours.replace_schema_metadata(features.arrow_schema.metadata) if further else ours

    def check_values(self, read: Columns) -> None:
        """Raises `ValueError` where no row has a value that a filter asks for."""
        for column, values in self.allowed.items():
            found = pc.value_counts(_texts(read, column))
            found = found.take(pc.sort_indices(found.field("counts"), sort_keys=[("", "descending")]))
            known = found.field("values").to_pylist()
            unknown = [value for value in values if value not in known]
            if unknown:
                raise ValueError(
                    f"Expected rows with {unknown} in column {column!r} of {read.where}, but found none. Its most "
                    f"frequent values are {known[:10]}: correct the `filters`."
                )

    def kept(self, read: Columns) -> pa.ChunkedArray:
        """Tells which rows have one of the values of every filter."""
        kept = pa.chunked_array([pa.repeat(True, len(read.table))])
        for column, values in self.allowed.items():
            found = pc.is_in(_texts(read, column), value_set=pa.array(values, pa.string()))
            kept = pc.and_(kept, pc.fill_null(found, False))
        return kept


def _texts(read: Columns, column: str) -> pa.ChunkedArray:
    return _named(read, column).cast(pa.string())


def _named(read: Columns, column: str) -> pa.ChunkedArray:
    """A column in plain types; classes of `datasets`, which Arrow has as numbers, by their names."""
    values, feature = plain(read.table[column]), read.features.get(column)
    if not isinstance(feature, ClassLabel):
        return values
    # -1 is a row without a class.
    classes = pc.if_else(pc.less(values, 0), pa.scalar(None, values.type), values)
    return pa.chunked_array([feature.names], pa.string()).take(classes)


def convert(read: Columns, names: list[str], kind: str | None, timestamp_format: str | None = None) -> pa.ChunkedArray:
    """Converts a column to our type, joining several columns of text; columns of unknown kind keep their type."""
    if kind is None:
        return read.table[names[0]]
    if kind == "time" and timestamp_format is not None:
        where = f"column {names[0]!r} of {read.where}"
        return as_formatted_seconds(plain(read.table[names[0]]), where, read.locate, timestamp_format)
    # The names of classes are no numbers, not even those of ratings.
    columns = [
        CONVERTERS[kind](
            _named(read, name) if kind in ("id", "text") else plain(read.table[name]),
            f"column {name!r} of {read.where}",
            read.locate,
            read.written,
        )
        for name in names
    ]
    return columns[0] if len(columns) == 1 else join_texts(columns)
