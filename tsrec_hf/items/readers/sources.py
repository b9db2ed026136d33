"""Read columns of a `Dataset` or a file: CSV, JSON lines (both plain or gzipped) or Parquet."""

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from datasets import Dataset

from .json_lines import ARROW_TYPES, BLOCK_BYTES, first_json_line, read_json_lines
from .packed import UNPACKING_ERRORS, open_plain_or_gzip


DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".json", ".ndjson")


def read_columns(source: Dataset | str | Path, name: str, kinds: dict[str, str]) -> tuple[pa.Table, list[str]]:
    """
    Reads the requested columns of a `Dataset` or a file.

    Args:
        source (`datasets.Dataset`, `str` or `Path`):
            A table, or a file whose format is recognised by its suffix.
        name (`str`):
            Name of the table in error messages.
        kinds (`dict[str, str]`):
            Name and kind of each column, as `read_json_lines` has them. Columns of a CSV file that are neither
            `"time"` nor `"number"` stay as they are written; other tables have types of their own.

    Returns:
        `tuple[pyarrow.Table, list[str]]`: Those of the columns that exist, and the names of all that the table has.
    """
    if isinstance(source, Dataset):
        names = source.column_names
        return source.select_columns([one for one in kinds if one in names]).with_format("arrow")[:], names
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"Expected `{name}` to be a `datasets.Dataset` or the path of a file, but found "
            f"`{type(source).__name__}`. Of a `DatasetDict` pass one split; make a data frame a `Dataset` with "
            "`Dataset.from_pandas`."
        )
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file at {path}, but there is none. Check the path.")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in DELIMITERS:
        return _read_csv(path, DELIMITERS[suffix], kinds)
    if suffix in JSON_LINES:
        return _read_json_lines(path, kinds)
    if suffix == ".parquet":
        return _read_parquet(path, kinds)
    raise ValueError(
        f"Expected {path} to end in one of {[*DELIMITERS, *JSON_LINES, '.parquet']}, text files optionally with `.gz` "
        f"after that, but found {suffix!r}. Rename the file, or read it with `datasets` and pass the `Dataset`."
    )


def _read_csv(path: Path, delimiter: str, kinds: dict[str, str]) -> tuple[pa.Table, list[str]]:
    try:
        with open_plain_or_gzip(path) as file:
            lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
            names = next(csv.reader(lines, delimiter=delimiter), [])
        repeated = [one for one in kinds if names.count(one) > 1]
        if repeated:
            raise ValueError(f"Expected each column once in {path}, but {repeated} repeat in {names}. Rename them.")
        wanted = [one for one in kinds if one in names]
        if not wanted:
            return pa.table({}), names
        with open_plain_or_gzip(path) as file:
            table = pyarrow.csv.read_csv(
                file,
                # One thread, for errors that name the row.
                pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
                pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    include_columns=wanted,
                    # The type of times is found: they may be numbers or dates.
                    column_types={one: ARROW_TYPES[kinds[one]] for one in wanted if kinds[one] != "time"},
                    strings_can_be_null=False,
                ),
            )
    except (*UNPACKING_ERRORS, pa.ArrowInvalid, csv.Error) as error:
        raise ValueError(
            f"{path} is not a UTF-8 table of columns separated by {delimiter!r} with one header line: {error}. "
            "Correct the row, or fetch the file again if it is truncated."
        ) from error
    return table, names


def _read_json_lines(path: Path, kinds: dict[str, str]) -> tuple[pa.Table, list[str]]:
    table = read_json_lines(path, kinds)
    # An object may lack a field. One that all lack does not exist.
    return table.select([one for one in kinds if table[one].null_count < len(table)]), list(first_json_line(path))


def _read_parquet(path: Path, kinds: dict[str, str]) -> tuple[pa.Table, list[str]]:
    try:
        names = pyarrow.parquet.read_schema(path).names
        return pyarrow.parquet.read_table(path, columns=[one for one in kinds if one in names]), names
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file: {error}. Write or fetch it again.") from error
