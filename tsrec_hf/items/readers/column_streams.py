"""Read columns of a `Dataset` or a file a batch of rows at a time, whatever its size."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from .delimited import delimited_tables
from .dialects import TableFile
from .json_documents import is_document
from .json_lines import json_line_tables
from .sources import (
    Columns,
    dataset_columns,
    delimited_columns,
    file_of,
    json_line_names,
    parquet_parts,
    row_namer,
)


# Rows of a table that are read at once; of text, a block of lines.
BATCH_ROWS = 50_000


def stream_columns(source: Dataset | str | Path | TableFile, name: str, kinds: dict[str, str]) -> Iterable[Columns]:
    """
    What [`read_columns`] returns, in batches; they can be gone through again and sent to another process.

    Raises:
        `ValueError`: one JSON document, whose rows are known at its end.
    """
    if isinstance(source, Dataset):
        return DatasetBatches(source, name, kinds)
    file, form = file_of(source, name)
    path = Path(file.path)
    if form == "delimited":
        return DelimitedBatches(file, kinds)
    if form == "parquet":
        return ParquetBatches(path, kinds)
    if is_document(path):
        raise ValueError(
            f"Expected a table that is read row by row, for `streaming=True`, but found one JSON document in {path}. "
            "Write an object a line, or Parquet; or leave `streaming` out, and it is read into memory."
        )
    return JsonLineBatches(path, kinds)


@dataclass(frozen=True)
class DatasetBatches:
    """Batches of a `Dataset`."""

    source: Dataset
    name: str
    kinds: dict[str, str]

    def __iter__(self) -> Iterator[Columns]:
        for start in range(0, len(self.source), BATCH_ROWS):
            yield dataset_columns(self.source, self.name, self.kinds, start, start + BATCH_ROWS)


@dataclass(frozen=True)
class DelimitedBatches:
    """Batches of a file of delimited text."""

    file: TableFile
    kinds: dict[str, str]

    def __iter__(self) -> Iterator[Columns]:
        first_row = 0
        for table, dialect in delimited_tables(self.file, list(self.kinds)):
            yield delimited_columns(self.file, table, dialect, first_row)
            first_row += len(table)


@dataclass(frozen=True)
class JsonLineBatches:
    """Batches of a file of JSON lines; its fields are those of the first block of lines."""

    path: Path
    kinds: dict[str, str]

    def __iter__(self) -> Iterator[Columns]:
        first_row = 0
        names: list[str] = []
        for table in json_line_tables(self.path, self.kinds):
            names = names or json_line_names(self.path, table)
            table = table.select([one for one in self.kinds if one in names])
            yield Columns(table, names, str(self.path), row_namer(first_row), first_row=first_row)
            first_row += len(table)


@dataclass(frozen=True)
class ParquetBatches:
    """Batches of a Parquet file or of a folder of them, in the types that all parts have together."""

    path: Path
    kinds: dict[str, str]

    def __iter__(self) -> Iterator[Columns]:
        paths = parquet_parts(self.path)
        first_row, names, schema = 0, *self._schema(paths)
        for part in paths:
            # By the open file: a folder's name such as `day=1` is no column.
            with part.open("rb") as file:
                try:
                    for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=schema.names):
                        table = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
                        yield Columns(table, names, str(self.path), row_namer(first_row), first_row=first_row)
                        first_row += len(table)
                except (pa.ArrowInvalid, OSError) as error:
                    raise _not_whole(part, error) from error

    def _schema(self, paths: list[Path]) -> tuple[list[str], pa.Schema]:
        """Names of all columns, and the types of the wanted ones."""
        schemas: list[pa.Schema] = []
        names: list[str] = []
        for path in paths:
            try:
                found = pq.read_schema(path)
            except (pa.ArrowInvalid, OSError) as error:
                raise _not_whole(path, error) from error
            names = found.names
            schemas.append(pa.schema([found.field(one) for one in self.kinds if one in names]))
            if schemas[-1].names != schemas[0].names:
                raise ValueError(
                    f"Expected the columns {schemas[0].names} in every part, as {paths[0]} has them, but {path} has "
                    f"{schemas[-1].names} of them. Write the parts again, or read them with `datasets`."
                )
        try:
            return names, pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(
                f"The Parquet files of {self.path} are of different types: {error}. Write them again."
            ) from error


def _not_whole(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not a whole Parquet file: {error}. Write or fetch it again.")
