"""Training rows of a log in any order on Ray Data, by a group-by on users."""

import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from tsrec_hf.data import build_sequence_rows
from tsrec_hf.models import TSRecTokenizer
from tsrec_hf.models.replacing_tsrec import replaced

from .ray_jobs import num_partitions, start_ray
from .shards import Shard, plan_shards


def build_rows_on_ray(
    log: str | Path,
    output_dir: str | Path,
    tokenizer: TSRecTokenizer,
    num_files: int = 64,
    targets_per_stretch: int | None = None,
    num_workers: int = 1,
    rows_per_shard: int = 200_000,
    address: str | None = None,
) -> int:
    """
    Builds the session rows of a log in any order, by a group-by on users, into `num_files` Parquet files.

    A user's rows stand in the file that a hash of the user's id names. The rows of a file are those of
    [`build_sequence_rows`] for its users, sorted by user and time, ties in the order of the log.

    Args:
        log (`str` or `Path`):
            Parquet or JSON lines, a file or a folder, with `user_id`, `item_id` and `timestamp`.
        output_dir (`str` or `Path`):
            Folder of the rows. Files that are there already are not made again.
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer with the SID index.
        num_files (`int`, *optional*, defaults to `64`):
            Files; the users of one are held at once.
        targets_per_stretch (`int`, *optional*):
            As in [`build_sequence_rows`].
        num_workers (`int`, *optional*, defaults to `1`):
            Tasks at the same time.
        rows_per_shard (`int`, *optional*, defaults to `200000`):
            Interactions that are read at once.
        address (`str`, *optional*):
            A cluster, as in [`run_shards_on_ray`].

    Returns:
        `int`: Rows made in this call.
    """
    settings = {
        "index": tokenizer.sid_index.fingerprint,
        "max_history": tokenizer.max_history,
        "num_files": num_files,
        "targets_per_stretch": targets_per_stretch,
    }
    shards = plan_shards(log, output_dir, rows_per_shard, settings)
    targets = [Path(output_dir, f"rows-{number:05d}.parquet") for number in range(num_files)]
    left = {number for number, target in enumerate(targets) if not target.is_file()}
    if not left:
        return 0
    ray = start_ray(address)

    def read(batch: dict[str, np.ndarray]) -> pa.Table:
        return pa.concat_tables([_users_of(shards[number], num_files, left) for number in batch["id"].tolist()])

    def build(table: pa.Table) -> pa.Table:
        table = table.sort_by([(name, "ascending") for name in ("user_id", "timestamp", "row")])
        rows = build_sequence_rows(
            Dataset(table.select(["user_id", "item_id", "timestamp"])),
            tokenizer,
            targets_per_stretch=targets_per_stretch,
        )
        number = table["file"][0].as_py()
        with replaced(targets[number]) as part:
            rows.to_parquet(part)
        return pa.table({"file": [number], "rows": [len(rows)]})

    users = ray.data.range(len(shards), override_num_blocks=len(shards)).map_batches(
        read, batch_size=1, concurrency=num_workers
    )
    made = users.groupby("file", num_partitions=min(num_files, num_partitions(ray))).map_groups(
        build, batch_format="pyarrow", concurrency=num_workers
    )
    found = {row["file"]: row["rows"] for row in made.iter_rows()}
    schema = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32()), "task": pa.string()})
    for number in left - found.keys():  # no user's hash names it
        with replaced(targets[number]) as part:
            pq.write_table(schema.empty_table(), part)
    return sum(found.values())


def file_of_user(user: str, num_files: int) -> int:
    """The number of the file that a user's rows stand in."""
    return zlib.crc32(user.encode()) % num_files


def _users_of(shard: Shard, num_files: int, left: set[int]) -> pa.Table:
    """Interactions of the users whose files are not there yet, with the number of the file and of the row."""
    table = shard.read(["user_id", "item_id", "timestamp"])
    ids = table["user_id"].cast(pa.string()).combine_chunks().dictionary_encode()
    files = np.array([file_of_user(user, num_files) for user in ids.dictionary.to_pylist()], dtype=np.int64)
    columns = {
        "user_id": table["user_id"].cast(pa.string()),
        "item_id": table["item_id"].cast(pa.string()),
        "timestamp": table["timestamp"],
        "row": np.arange(shard.first_row, shard.first_row + len(table)),
        "file": files[ids.indices.to_numpy()],
    }
    return pa.table(columns).filter(pa.array(np.isin(columns["file"], sorted(left))))
