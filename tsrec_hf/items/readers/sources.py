"""Read columns of a `Dataset` or a file: delimited text, JSON (both plain or gzipped), or Parquet."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset

from .delimited import line_of, read_delimited
from .dialects import CANDIDATES, DELIMITERS, UNDECLARED, Dialect, TableFile
from .json_documents import is_document, read_document
from .json_lines import first_json_line, read_json_lines


JSON = (".jsonl", ".json", ".ndjson")


@dataclass(frozen=True)
class Columns:
    """
    Columns as a source has them.

    Args:
        table (`pyarrow.Table`):
            Those of the requested columns that exist.
        names (`list[str]`):
            Names of all columns of the source.
        where (`str`):
            Name of the source in messages.
        locate (`Callable[[int], str]`):
            Says where a row stands, such as `"line 7"`.
        written (`bool`, *optional*, defaults to `False`):
            Whether the strings are cells of a text file, which has no types.
        advice (`str`, *optional*, defaults to `""`):
            What to look at if a column is missing.
        first_row (`int`, *optional*, defaults to `0`):
            How many rows of the source stand before these.
        features (`Mapping[str, Any]`, *optional*):
            Types that `datasets` knows and Arrow does not, such as images, by the names of columns.
    """

    table: pa.Table
    names: list[str]
    where: str
    locate: Callable[[int], str]
    written: bool = False
    advice: str = ""
    first_row: int = 0
    features: Mapping[str, Any] = field(default_factory=dict)


def as_source(source: Any, name: str) -> Any:
    """A data frame as a `Dataset`, without its index; anything else as it is."""
    if not isinstance(source, pd.DataFrame):
        return source
    try:
        return Dataset(pa.Table.from_pandas(source, preserve_index=False))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TypeError(
            f"Expected columns of one type each in the data frame `{name}`, but found {error}. Convert the column, "
            "for example with `astype(str)`."
        ) from error


def read_columns(source: Dataset | str | Path | TableFile, name: str, kinds: dict[str, str]) -> Columns:
    """
    Reads the requested columns of a `Dataset` or a file.

    Args:
        source (`datasets.Dataset`, `str`, `Path` or `TableFile`):
            A table, or a file whose format is recognised by its suffix.
        name (`str`):
            Name of the table in error messages.
        kinds (`dict[str, str]`):
            Name and kind of each column, as `read_json_lines` has them. Columns of delimited files are strings; other
            tables have types of their own.
    """
    if isinstance(source, Dataset):
        return dataset_columns(source, name, kinds, 0, len(source))
    file, form = file_of(source, name)
    path = Path(file.path)
    if form == "json":
        return _read_json(path, kinds)
    if form == "delimited":
        return delimited_columns(file, *read_delimited(file, list(kinds)))
    return _read_parquet(parquet_parts(path), str(path), kinds)


def file_of(source: str | Path | TableFile, name: str) -> tuple[TableFile, Literal["parquet", "json", "delimited"]]:
    """A file or a folder as a `TableFile`, and its format, by its suffix."""
    if not isinstance(source, (str, Path, TableFile)):
        raise TypeError(
            f"Expected `{name}` to be a `datasets.Dataset`, a data frame or the path of a file, but found "
            f"`{type(source).__name__}`. Of a `DatasetDict` pass one split."
        )
    file = source if isinstance(source, TableFile) else TableFile(source)
    path = Path(file.path)
    if path.is_dir():
        return file, "parquet"
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file at {path}, but there is none. Check the path.")
    if file.suffix in JSON and file.delimiter is None:
        return file, "json"
    if file.suffix in (".parquet", ".pq"):
        return file, "parquet"
    if file.delimiter is not None or file.suffix in DELIMITERS or file.suffix in UNDECLARED:
        return file, "delimited"
    raise ValueError(
        f"Expected {path} to end in one of {[*DELIMITERS, *UNDECLARED, *JSON, '.parquet']}, text files optionally "
        f"with `.gz` after that, but found {file.suffix!r}. Pass the `delimiter` of a text file (`--delimiter`), "
        "rename the file, or read it with `datasets` and pass the `Dataset`."
    )


def row_namer(first_row: int = 0) -> Callable[[int], str]:
    """Says which row of a source one is, when so many stand before."""
    return lambda row: f"row {first_row + row + 1}"


def dataset_columns(source: Dataset, name: str, kinds: dict[str, str], start: int, stop: int) -> Columns:
    """The requested columns of some rows of a `Dataset`."""
    names = source.column_names
    table = source.select_columns([one for one in kinds if one in names]).with_format("arrow")[start:stop]
    return Columns(table, names, f"`{name}`", row_namer(start), first_row=start, features=source.features)


def delimited_columns(file: TableFile, table: pa.Table, dialect: Dialect, first_row: int = 0) -> Columns:
    """The columns of a delimited file, or of a part of it."""
    # A line of text that has no column of ours may be read by another delimiter, or may be a row.
    only = dialect.names[0] if len(dialect.names) == 1 else ""
    other = [one for one in (*CANDIDATES, " ") if one in only]
    advice = ""
    if other:
        advice = f" The columns seem to be separated by {other[0]!r}: pass it as `delimiter` (`--delimiter`)."
    elif dialect.has_header and not len(table.column_names) and not file.names:
        advice = (
            " If the first line is a row, the file has no header: pass the names of its columns in order "
            "(`interaction_names` or `item_names`)."
        )
    return Columns(
        table,
        dialect.names,
        str(file.path),
        lambda row: f"line {line_of(dialect, first_row + row)}",
        written=True,
        advice=advice,
        first_row=first_row,
    )


def _read_json(path: Path, kinds: dict[str, str]) -> Columns:
    if is_document(path):
        table, names = read_document(path, kinds)
        return Columns(table, names, str(path), row_namer())
    table = read_json_lines(path, kinds)
    # An object may lack a field. One that all lack does not exist.
    table = table.select([one for one in kinds if table[one].null_count < len(table)])
    return Columns(table, json_line_names(path, table), str(path), row_namer())


def json_line_names(path: Path, table: pa.Table) -> list[str]:
    """Names of the fields of JSON lines: those of the first line, and those of `table` that a later line has."""
    given = [one for one in table.column_names if table[one].null_count < len(table)]
    return list(dict.fromkeys([*first_json_line(path), *given]))


def parquet_parts(folder: Path) -> list[Path]:
    """A file, or those of a folder, as Spark and `to_parquet` write them; names with `_` or `.` are not data."""
    if folder.is_file():
        return [folder]
    parts = [path for path in sorted(folder.rglob("*.parquet")) if not path.name.startswith(("_", "."))]
    if not parts:
        raise FileNotFoundError(
            f"Expected Parquet files in the folder {folder}, but found none. Pass a file, or the folder of the parts."
        )
    return parts


def _read_parquet(paths: list[Path], where: str, kinds: dict[str, str]) -> Columns:
    tables: list[pa.Table] = []
    names: list[str] = []
    for path in paths:
        try:
            names = pyarrow.parquet.read_schema(path).names
            # Each part by itself: a folder's name such as `day=1` is no column.
            with path.open("rb") as file:
                tables.append(pyarrow.parquet.read_table(file, columns=[one for one in kinds if one in names]))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is not a whole Parquet file: {error}. Write or fetch it again.") from error
        if tables[-1].column_names != tables[0].column_names:
            raise ValueError(
                f"Expected the columns {tables[0].column_names} in every part, as {paths[0]} has them, but {path} has "
                f"{tables[-1].column_names} of them. Write the parts again, or read them with `datasets`."
            )
    try:
        return Columns(pa.concat_tables(tables, promote_options="permissive"), names, where, row_namer())
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"The Parquet files of {where} are of different types: {error}. Write them again.") from error
