"""Reader of two tables of any layout, interactions and items, by a mapping of column names."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import pandas as pd
import pyarrow as pa
from datasets import Dataset, IterableDataset

from tsrec_hf.models.checking_tsrec import checks_types

from ..log import LOG_COLUMNS, InteractionLog, no_interactions
from ..tidying import tidy
from .column_streams import stream_columns
from .dialects import TableFile
from .sources import as_source, read_columns
from .table_stream import stream_interactions
from .wanted import Filters, WantedColumns


logger = logging.getLogger(__name__)

Source: TypeAlias = Dataset | pd.DataFrame | str | Path | TableFile


@overload
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
    streaming: Literal[False] = False,
) -> InteractionLog: ...


@overload
def load_table(
    interactions: Source,
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
    *,
    streaming: Literal[True],
) -> IterableDataset: ...


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
    streaming: bool = False,
) -> InteractionLog | IterableDataset:
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
        streaming (`bool`, *optional*, defaults to `False`):
            Whether interactions are read a batch of rows at a time, whatever their number, and never held together.
            The rows are the same, but for four things: repeats are found among rows of a user that stand together;
            `rating` is read only where it is mapped or `min_rating` asks for it; a value of a filter that no row has
            is no error as long as another one has rows; and nothing is counted. Items are read into memory.

    Returns:
        [`InteractionLog`]: `items` with the string columns `item_id`, `title` and `description`, `interactions` with
        `user_id`, `item_id` and `timestamp`, both with the added columns; and the `summary` of the rows kept
        and dropped. With `streaming=True` a `datasets.IterableDataset` of the interactions alone.

    Raises:
        `FileNotFoundError`: a file is missing.
        `TypeError`: a column is not of the type of its ids, texts, times or numbers.
        `ValueError`: a column is missing, or a file is malformed; with `streaming=True` also one JSON document, and
        no interactions. What is wrong behind the first rows of a stream is found when it gets there.

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

    A log that memory does not hold, with items that were read before:

    ```python
    >>> columns = {"user_id": "customer", "item_id": "sku", "timestamp": "day"}
    >>> stream = load_table(folder / "orders.csv", log.items, columns, streaming=True)
    >>> next(iter(stream))
    {'user_id': '1', 'item_id': '007', 'timestamp': 1717027200.0}
    ```
    """
    options = {"delimiter": delimiter, "encoding": encoding, "header": header, "quotes": quotes}
    items = _as_file(items, names=item_names, **options)
    catalogue, _ = read_table(items, "items", item_columns, ("item_id", "title"), ("description",))
    if streaming:
        if interactions is None:
            raise ValueError(
                "Expected interactions with `streaming=True`, but found `None`. Only interactions are streamed: read "
                "the items alone without `streaming`."
            )
        return _stream(
            _as_file(interactions, names=interaction_names, **options),
            tidy(InteractionLog(catalogue, no_interactions()), untitled=untitled).items,
            WantedColumns.of(
                "interactions",
                interaction_columns or {},
                LOG_COLUMNS if min_rating is None else (*LOG_COLUMNS, "rating"),
                filters=filters,
                timestamp_format=timestamp_format,
            ),
            same_title=same_title,
            repeats=repeats,
            min_rating=min_rating,
        )
    if interactions is None:
        log = InteractionLog(catalogue, no_interactions())
    else:
        interactions = _as_file(interactions, names=interaction_names, **options)
        taken, kept = read_table(
            interactions,
            "interactions",
            interaction_columns,
            LOG_COLUMNS,
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


def _stream(interactions: Source, catalogue: Dataset, wanted: WantedColumns, **cleaning: Any) -> IterableDataset:
    read = stream_columns(as_source(interactions, wanted.name), wanted.name, wanted.kinds)
    return stream_interactions(read, wanted, catalogue, **cleaning)


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
        table, kept = _read_table(
            source, WantedColumns.of(name, columns, required, optional, filters, timestamp_format)
        )
    except (TypeError, ValueError) as error:
        if not spare:
            raise
        few = tuple({*optional} - {*spare})
        table, kept = _read_table(source, WantedColumns.of(name, columns, required, few, filters, timestamp_format))
        logger.warning(f"{error} Left out, because nobody asked for it.")
    return (_with_descriptions(table) if "description" in optional else table), kept


def _read_table(source: Source, wanted: WantedColumns) -> tuple[Dataset, pa.ChunkedArray]:
    source = as_source(source, wanted.name)
    read = read_columns(source, wanted.name, wanted.kinds)
    wanted.check(read)
    ours = Dataset(wanted.converted(read))
    wanted.check_values(read)
    return ours, wanted.kept(read)


def _with_descriptions(items: Dataset) -> Dataset:
    """Adds a column of empty descriptions where there is none."""
    if "description" in items.column_names:
        return items
    return items.add_column("description", [""] * len(items))
