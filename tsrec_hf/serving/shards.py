"""
A job in shards: rows of a file go in, a file of its own comes out for each shard, whole or not at all.

What a shard is depends on the input alone, not on the workers: results are the same however many there are, and a job
that was stopped goes on with the shards that have no file yet. `ray_jobs.py` spreads the shards over a cluster.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.replacing_tsrec import replaced, write_text


# With an underscore, so that readers of a folder of Parquet files leave it out.
PLAN_FILE = "_job.json"
JSON_LINES = (".jsonl", ".ndjson", ".json")
# Rows that are decoded at once on the way to a shard's first one.
ROWS_READ = 10_000


@dataclass(frozen=True)
class Shard:
    """
    A part of one file.

    Args:
        source (`str`):
            The file: Parquet, or JSON lines.
        start, stop (`int`):
            Its first row and the one behind its last; of JSON lines, bytes.
        first_row (`int`):
            Number of its first row among all rows of the job.
        target (`str`):
            The Parquet file that is written.
    """

    source: str
    start: int
    stop: int
    first_row: int
    target: str

    @property
    def is_finished(self) -> bool:
        return Path(self.target).is_file()

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows, of these columns or of all."""
        if Path(self.source).suffix in JSON_LINES:
            with open(self.source, "rb") as file:
                file.seek(self.start)
                table = pyarrow.json.read_json(pa.BufferReader(file.read(self.stop - self.start)))
            return table if columns is None else table.select([name for name in columns if name in table.column_names])
        parts, at = [], 0
        with pq.ParquetFile(self.source) as file:
            groups, skipped = [], 0
            for number in range(file.metadata.num_row_groups):
                size = file.metadata.row_group(number).num_rows
                if at + size > self.start and at < self.stop:
                    groups.append(number)
                elif not groups:
                    skipped += size
                at += size
            present = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
            at = skipped
            for batch in file.iter_batches(ROWS_READ, groups, present):
                first, last = max(self.start - at, 0), min(self.stop - at, len(batch))
                if first < last:
                    parts.append(batch.slice(first, last - first))
                at += len(batch)
        return pa.Table.from_batches(parts)


@checks_types
def plan_shards(
    source: str | Path, output_dir: str | Path, rows_per_shard: int = 10_000, settings: Mapping[str, Any] | None = None
) -> list[Shard]:
    r"""
    Divides a table into shards, in the order of its rows.

    Args:
        source (`str` or `Path`):
            A Parquet file, a file of JSON lines, or a folder of either.
        output_dir (`str` or `Path`):
            Folder of the results, made if missing. What the job is stands there in `_job.json`.
        rows_per_shard (`int`, *optional*, defaults to `10000`):
            Most rows of a shard: what a worker holds at once, and loses when it dies.
        settings (`Mapping[str, Any]`, *optional*):
            What decides the results. A job that goes on must have the same.

    Returns:
        `list[Shard]`: All shards, finished ones among them.

    Raises:
        `FileNotFoundError`: no such file. `ValueError`: a folder with results of another job.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from datasets import Dataset
    >>> from tsrec_hf.serving.shards import plan_shards

    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = Dataset.from_dict({"user_id": ["ann", "bob", "cid"]}).to_parquet(folder / "users.parquet")
    >>> shards = plan_shards(folder / "users.parquet", folder / "out", rows_per_shard=2)
    >>> [shard.read()["user_id"].to_pylist() for shard in shards]
    [['ann', 'bob'], ['cid']]
    ```
    """
    if rows_per_shard < 1:
        raise ValueError(f"Expected `rows_per_shard` of at least 1, but found {rows_per_shard}. Raise it.")
    output = Path(output_dir)
    shards: list[Shard] = []
    first_row = 0
    files = _files(Path(source))
    for file in files:
        for start, stop, size in _cuts(file, rows_per_shard):
            shards.append(Shard(str(file), start, stop, first_row, str(output / f"part-{len(shards):05d}.parquet")))
            first_row += size
    inputs = [[file.name, file.stat().st_size] for file in files]
    plan = json.dumps(
        {"inputs": inputs, "rows_per_shard": rows_per_shard, "settings": dict(settings or {})}, indent=1, default=str
    )
    path = output / PLAN_FILE
    if path.is_file() and path.read_text(encoding="utf-8") != plan:
        raise ValueError(
            f"Expected {output} to hold results of this job, which would go on, but {path} tells of another one: "
            "other inputs or settings. Name another folder, or remove this one to start anew."
        )
    if not path.is_file():
        write_text(path, plan)
    return shards


def run_shard(shard: Shard, function: Callable[[pa.Table], pa.Table], columns: Sequence[str] | None = None) -> int:
    """Writes the file of a shard, unless it is there; returns how many rows it was written of."""
    if shard.is_finished:
        return 0
    table = shard.read(columns)
    made = function(table)
    with replaced(shard.target) as part:
        pq.write_table(made, part)
    return len(table)


def run_shards(
    shards: Sequence[Shard], function: Callable[[pa.Table], pa.Table], columns: Sequence[str] | None = None
) -> int:
    r"""
    Writes the files of all shards that have none, in this process.

    Args:
        shards (`Sequence[Shard]`):
            From [`plan_shards`].
        function (`Callable`):
            From an Arrow table to one, such as [`RecommendBatch`].
        columns (`Sequence[str]`, *optional*):
            Columns to read; all by default.

    Returns:
        `int`: Rows that were worked on.
    """
    return sum(run_shard(shard, function, columns) for shard in shards)


def read_results(shards: Sequence[Shard]) -> pa.Table:
    """The results of finished shards, in the order of the rows."""
    return pa.concat_tables([pq.read_table(shard.target, partitioning=None) for shard in shards])


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        kinds = (".parquet", ".pq", *JSON_LINES)
        found = [p for p in sorted(source.rglob("*")) if p.suffix in kinds and not p.name.startswith(("_", "."))]
    else:
        found = [source] if source.is_file() else []
    if not found:
        raise FileNotFoundError(f"Expected Parquet files or JSON lines at {source}, but found none. Check the path.")
    return found


def _cuts(file: Path, rows: int) -> list[tuple[int, int, int]]:
    """Start and stop of each shard of a file, and its number of rows."""
    if file.suffix not in JSON_LINES:
        size = pq.ParquetFile(file).metadata.num_rows
        return [(at, min(at + rows, size), min(rows, size - at)) for at in range(0, size, rows)]
    cuts, start, lines, at = [], 0, 0, 0
    with file.open("rb") as opened:
        for line in opened:
            at += len(line)
            lines += bool(line.strip())
            if lines == rows:
                cuts.append((start, at, lines))
                start, lines = at, 0
    return [*cuts, (start, at, lines)] if lines else cuts
