"""Reader of two tables of any layout, interactions and items, by a mapping of column names."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features

from tsrec_hf.models.checking_tsrec import checks_types

from ..columns import require_columns
from ..log import InteractionLog, no_interactions
from ..tidying import tidy
from .dialects import TableFile
from .sources import Columns, as_source, read_columns
from .values import CONVERTERS, as_formatted_seconds, join_texts, plain


logger = logging.getLogger(__name__)

Source: TypeAlias = Dataset | pd.DataFrame | str | Path | TableFile
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


@checks_types
def load_table(
    interactions: Source | None,
    items: Source,
    interaction_columns: Mapping[str, str | None] | None = None,
    item_columns: Mapping[str, str | list[str]] | None = None,
    untitled: Literal["drop", "keep"] = "drop",
    same_title: Literal["keep", "merge"] = "keep",
    repeats: Literal["keep", "first"] = "keep",
    min_rating: float | None = None,
    filters: Filters | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    quotes: bool | None = None,
    interaction_names: list[str] | None = None,
    item_names: list[str] | None = None,
    timestamp_format: str | None = None,
) -> InteractionLog:
    r"""
    Reads interactions and items from two tables of any layout and cleans them with [`~items.tidy`].

    Each table is a `datasets.Dataset`, a data frame of pandas or a file: delimited text (`.csv`, `.tsv`, `.inter`,
    `.txt`, `.dat`), JSON lines or one JSON document (`.jsonl`, `.json`), all of them also gzipped (`.csv.gz`),
    `.parquet`, or a folder of Parquet files. Ids may be strings or integers; those of text files are taken as they are
    written, so `007` is not `7`. Times may be numbers (any unit, kept as they are) or dates (which become seconds
    since 1970). One file with everything can be passed as both tables: of the rows with one item id, the first that
    has a title becomes the item.

    Args:
        interactions (`datasets.Dataset`, `pandas.DataFrame`, `str`, `Path` or `TableFile`):
            One row per interaction; `None` to read only a catalogue. A [`~items.TableFile`] has options of its own.
        items (`datasets.Dataset`, `pandas.DataFrame`, `str`, `Path` or `TableFile`):
            One row per item.
        interaction_columns (`Mapping[str, str | None]`, *optional*):
            Maps `user_id`, `item_id`, `timestamp` and `rating` to the table's column names. Columns that are not
            mapped are looked up by these names; `rating` is optional. `{"timestamp": None}` says that there are no
            times and the rows are in order. Other keys add columns.
        item_columns (`Mapping[str, str | list[str]]`, *optional*):
            Maps `item_id`, `title` and `description` to the table's column names; a list joins several columns of
            text. `description` is optional. Other keys add columns: `{"image": "photo"}`; those of text files are read
            as text.
        untitled, same_title, repeats, min_rating (*optional*):
            Arguments of [`~items.tidy`].
        filters (`Mapping[str, str | list[str]]`, *optional*):
            Values of columns of the interactions, `{"event": ["purchase", "add to cart"]}`; rows with others are
            dropped.
        delimiter (`str`, *optional*):
            What separates the columns of text files: `;`, `|`, `::`. By default it follows from the suffix.
        encoding (`str`, *optional*):
            Encoding of text files, such as `latin-1` or `gbk`; UTF-8 by default.
        header (`bool`, *optional*):
            Whether text files begin with a line of column names; by default they do, unless names are given.
        quotes (`bool`, *optional*):
            Whether cells of text files may stand in double quotes; by default as [`~items.TableFile`] finds.
        interaction_names (`list[str]`, *optional*):
            Names of the columns, in order, of interactions without a header.
        item_names (`list[str]`, *optional*):
            Likewise for the items.
        timestamp_format (`str`, *optional*):
            How dates are written, as `datetime.strptime` has it: `%d/%m/%Y %H:%M` for 12/04/1997 15:55. By default
            they are numbers or ISO dates.

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
    options = {"delimiter": delimiter, "encoding": encoding, "header": header, "quotes": quotes}
    items = _as_file(items, names=item_names, **options)
    catalogue, _ = read_table(items, "items", item_columns, ("item_id", "title"), ("description",))
    if interactions is None:
        log = InteractionLog(catalogue, no_interactions())
    else:
        interactions = _as_file(interactions, names=interaction_names, **options)
        taken, kept = read_table(
            interactions,
            "interactions",
            interaction_columns,
            ("user_id", "item_id", "timestamp"),
            ("rating",),
            filters,
            () if min_rating is None else ("rating",),
            timestamp_format,
        )
        if not len(taken):
            raise ValueError(
                "Expected rows in the table of interactions, but it is empty. Pass `interactions=None` for "
                "items alone."
            )
        log = InteractionLog(catalogue, taken)
        if filters:
            log = filtered(log, kept, filters)
    return tidy(log, untitled=untitled, same_title=same_title, repeats=repeats, min_rating=min_rating)


def _as_file(source: Source, **options: Any) -> Source:
    """Gives a path the options of text files; a `TableFile` has its own."""
    return TableFile(source, **options) if isinstance(source, (str, Path)) else source


def filtered(log: InteractionLog, kept: pa.ChunkedArray, filters: Filters) -> InteractionLog:
    items, interactions = log.tables()
    interactions = interactions.filter(kept)
    asked = ", ".join(
        f"{name} = {value if isinstance(value, str) else ' or '.join(value)}" for name, value in filters.items()
    )
    return InteractionLog(
        log.items, Dataset(interactions), log.summary.add(f"rows of {asked} kept", items, interactions)
    )


def read_table(
    source: Source,
    name: str,
    columns: Mapping[str, str | list[str] | None] | None,
    required: tuple[str, ...],
    optional: tuple[str, ...],
    filters: Filters | None = None,
    asked: tuple[str, ...] = (),
    timestamp_format: str | None = None,
) -> tuple[Dataset, pa.ChunkedArray]:
    """
    Reads our columns of a table and converts them to the types of an `InteractionLog`.

    Optional columns that nobody asked for are left out if they hold something else than their name says. Also returns
    which rows the filters keep.
    """
    columns = dict(columns or {})
    spare = [column for column in optional if column not in columns and column not in asked]
    try:
        return _read_table(source, name, columns, required, optional, filters, timestamp_format)
    except (TypeError, ValueError) as error:
        if not spare:
            raise
        table, kept = _read_table(
            source, name, columns, required, tuple({*optional} - {*spare}), filters, timestamp_format
        )
        logger.warning(f"{error} Left out, because nobody asked for it.")
        if "description" in spare:
            table = _with_descriptions(table)
        return table, kept


def _read_table(
    source: Source,
    name: str,
    columns: dict[str, str | list[str] | None],
    required: tuple[str, ...],
    optional: tuple[str, ...],
    filters: Filters | None,
    timestamp_format: str | None = None,
) -> tuple[Dataset, pa.ChunkedArray]:
    source = as_source(source, name)
    named = {column: column for column in (*required, *optional)} | columns
    in_order = named.get("timestamp", "") is None
    names_of = {
        column: [names] if isinstance(names, str) else list(names)
        for column, names in named.items()
        if names is not None
    }
    allowed = {column: [value] if isinstance(value, str) else value for column, value in (filters or {}).items()}
    several = [column for column, names in names_of.items() if len(names) != 1 and KINDS.get(column, "text") != "text"]
    kinds = {one: KINDS.get(column, "text") for column, names in names_of.items() for one in names}
    read = read_columns(source, name, dict.fromkeys(allowed, "text") | kinds)
    if several:
        raise ValueError(
            f"Expected one column of {read.where} for each of {several}, but found "
            f"{[named[column] for column in several]}. Only texts can be joined from several columns."
        )
    # A field that all JSON lines lack is among the names found, but not in the table.
    present = [one for one in read.names if one in read.table.column_names or one not in kinds]
    for column, names in names_of.items():
        if column in required or column in columns:
            advice = f"Name our column {column!r} by `{name.removesuffix('s')}_columns={{{column!r}: ...}}`."
            if column == "timestamp":
                advice += " `None` in its place says that the rows are in order (`timestamp=none`)."
            require_columns(present, names, read.where, advice + read.advice)
    require_columns(present, list(allowed), read.where, f"Correct the `filters`.{read.advice}")
    given = {column: names for column, names in names_of.items() if set(names) <= set(read.table.column_names)}
    converted = {column: convert(read, names, KINDS.get(column), timestamp_format) for column, names in given.items()}
    if in_order:
        converted["timestamp"] = pa.array(range(len(read.table)), pa.float64())
    ours = pa.table(converted)
    if isinstance(source, Dataset):
        # Arrow's types do not say that a column holds images.
        further = {column: source.features[names[0]] for column, names in given.items() if column not in KINDS}
        features = Features(Features.from_arrow_schema(ours.schema) | further)
        ours = ours.replace_schema_metadata(features.arrow_schema.metadata)
    table = Dataset(ours)
    return (_with_descriptions(table) if "description" in optional else table), _kept(read, allowed)


def _with_descriptions(items: Dataset) -> Dataset:
    """Adds a column of empty descriptions where there is none."""
    if "description" in items.column_names:
        return items
    return items.add_column("description", [""] * len(items))


def convert(read: Columns, names: list[str], kind: str | None, timestamp_format: str | None = None) -> pa.ChunkedArray:
    """Converts a column to our type, joining several columns of text; columns of unknown kind keep their type."""
    if kind is None:
        return read.table[names[0]]
    if kind == "time" and timestamp_format is not None:
        where = f"column {names[0]!r} of {read.where}"
        return as_formatted_seconds(plain(read.table[names[0]]), where, read.locate, timestamp_format)
    columns = [
        CONVERTERS[kind](plain(read.table[name]), f"column {name!r} of {read.where}", read.locate, read.written)
        for name in names
    ]
    return columns[0] if len(columns) == 1 else join_texts(columns)


def _kept(read: Columns, filters: Mapping[str, list[str]]) -> pa.ChunkedArray:
    """Tells which rows have one of the values of every filter."""
    kept = pa.chunked_array([pa.repeat(True, len(read.table))])
    for column, values in filters.items():
        texts = plain(read.table[column]).cast(pa.string())
        found = pc.value_counts(texts)
        found = found.take(pc.sort_indices(found.field("counts"), sort_keys=[("", "descending")]))
        known = found.field("values").to_pylist()
        unknown = [value for value in values if value not in known]
        if unknown:
            raise ValueError(
                f"Expected rows with {unknown} in column {column!r} of {read.where}, but found none. Its most "
                f"frequent values are {known[:10]}: correct the `filters`."
            )
        kept = pc.and_(kept, pc.fill_null(pc.is_in(texts, value_set=pa.array(values, pa.string())), False))
    return kept
