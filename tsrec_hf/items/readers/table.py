"""Reader of two tables of any layout, interactions and items, by a mapping of column names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features

from ..columns import require_columns
from ..log import InteractionLog, no_interactions
from ..tidying import tidy
from .json_lines import seconds_of
from .sources import read_columns


# Kinds as in `json_lines`. Other columns keep their type.
KINDS = {
    "user_id": "id",
    "item_id": "id",
    "timestamp": "time",
    "rating": "number",
    "title": "text",
    "description": "text",
}


def load_table(
    interactions: Dataset | str | Path | None,
    items: Dataset | str | Path,
    interaction_columns: Mapping[str, str] | None = None,
    item_columns: Mapping[str, str | list[str]] | None = None,
    untitled: Literal["drop", "keep"] = "drop",
    same_title: Literal["keep", "merge"] = "keep",
    repeats: Literal["keep", "first"] = "keep",
    min_rating: float | None = None,
) -> InteractionLog:
    r"""
    Reads interactions and items from two tables of any layout and cleans them with [`~items.tidy`].

    Each table is a `datasets.Dataset` or a file: `.csv`, `.tsv`, `.jsonl` (also gzipped, `.csv.gz`) or `.parquet`. Ids
    may be strings or integers; those of text files are taken as they are written, so `007` is not `7`. Times may be
    numbers (any unit, kept as they are) or dates (which become seconds since 1970). One file with everything can be
    passed as both tables: of the rows with one item id, the first that has a title becomes the item.

    Args:
        interactions (`datasets.Dataset`, `str` or `Path`):
            One row per interaction; `None` to read only a catalogue.
        items (`datasets.Dataset`, `str` or `Path`):
            One row per item.
        interaction_columns (`Mapping[str, str]`, *optional*):
            Maps `user_id`, `item_id`, `timestamp` and `rating` to the table's column names. Columns that are not
            mapped are looked up by these names; `rating` is optional. Other keys add columns.
        item_columns (`Mapping[str, str | list[str]]`, *optional*):
            Maps `item_id`, `title` and `description` to the table's column names; a list joins several columns of
            text. `description` is optional. Other keys add columns: `{"image": "photo"}`; those of text files are read
            as text.
        untitled (`"drop"` or `"keep"`, *optional*, defaults to `"drop"`):
            Argument of [`~items.tidy`], like those that follow: whether to drop items without a title.
        same_title (`"keep"` or `"merge"`, *optional*, defaults to `"keep"`):
            Whether to merge items of the same title.
        repeats (`"keep"` or `"first"`, *optional*, defaults to `"keep"`):
            Whether to keep only a user's first interaction with an item.
        min_rating (`float`, *optional*):
            Minimum rating of an interaction.

    Returns:
        [`InteractionLog`]: `items` with the string columns `item_id`, `title` and `description`, `interactions` with
        `user_id`, `item_id` and `timestamp`, both with the added columns; and the `summary` of the rows kept
        and dropped.

    Raises:
        `FileNotFoundError`: a file is missing.
        `TypeError`: a column is not of the type of its ids, texts, times or numbers.
        `ValueError`: a column is missing, or a file is malformed.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tsrec_hf.items import load_table

    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "orders.csv").write_text("customer,sku,day\n1,007,2024-05-30\n1,008,2024-05-31\n")
    >>> _ = (folder / "shop.csv").write_text("sku,name,short,long\n007,Glue,Strong,Dries fast\n008,Tape,Wide,\n")
    >>> log = load_table(
    ...     folder / "orders.csv",
    ...     folder / "shop.csv",
    ...     interaction_columns={"user_id": "customer", "item_id": "sku", "timestamp": "day"},
    ...     item_columns={"item_id": "sku", "title": "name", "description": ["short", "long"]},
    ... )
    >>> log.items[0]
    {'item_id': '007', 'title': 'Glue', 'description': 'Strong Dries fast'}
    >>> log.interactions[0]
    {'user_id': '1', 'item_id': '007', 'timestamp': 1717027200.0}
    ```
    """
    items = _read_table(items, "items", item_columns, ("item_id", "title"), ("description",))
    if interactions is None:
        log = InteractionLog(items, no_interactions())
    else:
        required = ("user_id", "item_id", "timestamp")
        log = InteractionLog(
            items, _read_table(interactions, "interactions", interaction_columns, required, ("rating",))
        )
        if not len(log.interactions):
            raise ValueError(
                "Expected rows in the table of interactions, but it is empty. Pass `interactions=None` for "
                "items alone."
            )
    return tidy(log, untitled=untitled, same_title=same_title, repeats=repeats, min_rating=min_rating)


def _read_table(
    source: Dataset | str | Path,
    name: str,
    columns: Mapping[str, str | list[str]] | None,
    required: tuple[str, ...],
    optional: tuple[str, ...],
) -> Dataset:
    """Reads our columns of a table and converts them to the types of an `InteractionLog`."""
    where = f"`{name}`" if isinstance(source, Dataset) else str(source)
    named = {column: column for column in (*required, *optional)} | dict(columns or {})
    names_of = {column: [names] if isinstance(names, str) else list(names) for column, names in named.items()}
    several = [column for column, names in names_of.items() if len(names) != 1 and KINDS.get(column) != "text"]
    if several:
        raise ValueError(
            f"Expected one column of {where} for each of {several}, but found "
            f"{[named[column] for column in several]}. Only texts can be joined from several columns."
        )
    kinds = {one: KINDS.get(column, "text") for column, names in names_of.items() for one in names}
    table, found = read_columns(source, name, kinds)
    for column, names in names_of.items():
        if column in required or column in (columns or {}):
            # A field that all JSON lines lack is among the names found, but not in the table.
            present = [one for one in found if one in table.column_names or one not in kinds]
            advice = f"Name our column {column!r} by `{name.removesuffix('s')}_columns={{{column!r}: ...}}`."
            require_columns(present, names, where, advice)
    given = {column: names for column, names in names_of.items() if set(names) <= set(table.column_names)}
    converted = {column: _convert(table, names, KINDS.get(column), where) for column, names in given.items()}
    for column in {"description"}.intersection(optional).difference(converted):
        converted[column] = pa.repeat("", len(table))
    ours = pa.table(converted)
    if isinstance(source, Dataset):
        # Arrow's types do not say that a column holds images.
        further = {column: source.features[names[0]] for column, names in given.items() if column not in KINDS}
        features = Features(Features.from_arrow_schema(ours.schema) | further)
        ours = ours.replace_schema_metadata(features.arrow_schema.metadata)
    return Dataset(ours)


def _convert(table: pa.Table, names: list[str], kind: str | None, where: str) -> pa.ChunkedArray:
    """Converts a column to our type, joining several columns of text; columns of unknown kind keep their type."""
    if kind is None:
        return table[names[0]]
    read = {"id": _as_ids, "text": _as_text, "time": _as_seconds, "number": _as_numbers}[kind]
    columns = [read(_plain(table[name]), f"column {name!r} of {where}") for name in names]
    return columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, " ", null_handling="skip")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decodes dictionaries, large strings and string views to plain strings."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_text = pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
    return column.cast(pa.string()) if is_text or pa.types.is_null(column.type) else column


def _as_ids(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if pa.types.is_string(column.type) or pa.types.is_integer(column.type):
        return column.cast(pa.string())
    raise TypeError(
        f"Expected {name} to hold strings or integers, but found {column.type}. Convert it; in pandas a missing value "
        'turns integers into floats, which `astype("Int64")` undoes.'
    )


def _as_text(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if pa.types.is_string(column.type) or pa.types.is_integer(column.type):
        return column.cast(pa.string())
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        texts = column.to_pylist()
        if all(isinstance(part, str) for parts in texts for part in parts or () if part is not None):
            return pa.chunked_array([[" ".join(part for part in parts or () if part) for parts in texts]], pa.string())
    raise TypeError(
        f"Expected {name} to hold strings or lists of strings, but found {column.type}. Convert it, or name another "
        "column."
    )


def _as_numbers(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return column.cast(pa.float64())
    if pa.types.is_string(column.type) and column.null_count == len(column):
        return column.cast(pa.float64())
    raise TypeError(f"Expected {name} to hold numbers, but found {_type_and_value(column)}. Correct the values.")


def _as_seconds(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Converts dates to seconds since 1970; numbers keep their unit."""
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        return pc.divide(column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).cast(pa.float64()), 1e6)
    if not pa.types.is_string(column.type) or column.null_count == len(column):
        return _as_numbers(column, name)
    seconds = []
    for row, date in enumerate(column.to_pylist(), start=1):
        try:
            seconds.append(seconds_of(date) if date else None)
        except ValueError as error:
            raise ValueError(
                f"Expected {name} to hold numbers or ISO dates such as 2024-05-31T12:00:00, but row {row} has "
                f"{date!r}. Correct the value, or convert the column."
            ) from error
    return pa.chunked_array([seconds], pa.float64())


def _type_and_value(column: pa.ChunkedArray) -> str:
    return f"{column.type} such as {column.drop_null()[0].as_py()!r}"
