"""Jobs in shards on Ray Data: actors that load a model once, and go on where a killed one stopped."""

import logging
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from tsrec_hf.data import build_sequence_rows
from tsrec_hf.models import TSRecTokenizer
from tsrec_hf.models.replacing_tsrec import replaced
from tsrec_hf.sids import Quantizer, collision_groups, resolve_collisions

from .batch_callables import as_lists, as_vectors
from .shards import Shard, plan_shards, run_shard


logger = logging.getLogger(__name__)


def start_ray(address: str | None = None) -> Any:
    """Ray, connected to a cluster or, without an address, started on this machine. It reports to nobody."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            "Jobs on several workers need Ray Data, which is not installed. Install it with `pip install "
            '".[ray]"` in a clone, or run the shards in this process by `run_shards`.'
        ) from error
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address=address, include_dashboard=False if address is None else None, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # An actor that dies while it starts is replaced, like one that dies at work.
    context.max_consecutive_actor_init_deaths = 2
    return ray


def run_shards_on_ray(
    shards: Sequence[Shard],
    function: Callable[[pa.Table], pa.Table],
    columns: Sequence[str] | None = None,
    num_workers: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    address: str | None = None,
) -> int:
    """
    Writes the files of all shards that have none, by actors of Ray Data.

    What travels is which shard to do, not its rows: actors read and write the files themselves, so on a cluster all
    machines must see them. Where an actor dies, another one does its shard; the files are those of
    [`run_shards`].

    Args:
        shards (`Sequence[Shard]`):
            From [`plan_shards`].
        function (`Callable`):
            From an Arrow table to one; sent to every actor.
        columns (`Sequence[str]`, *optional*):
            Columns to read; all by default.
        num_workers (`int`, *optional*, defaults to `1`):
            Actors.
        num_cpus, num_gpus (`float`, *optional*, default to `1` and `0`):
            What each actor takes.
        address (`str`, *optional*):
            A cluster, or `"auto"`; Ray starts on this machine without it.

    Returns:
        `int`: Rows that were worked on.
    """
    ray = start_ray(address)
    left = [asdict(shard) for shard in shards if not shard.is_finished]
    logger.info(f"{len(shards) - len(left)} of {len(shards)} shards are finished.")
    if not left:
        return 0
    done = ray.data.from_items(left, override_num_blocks=len(left)).map_batches(
        ShardActor,
        fn_constructor_args=(function, columns),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(num_workers, len(left))),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    return sum(int(row["rows"]) for row in done.iter_rows())


class ShardActor:
    """An actor's work: one shard a call."""

    def __init__(self, function: Callable[[pa.Table], pa.Table], columns: Sequence[str] | None):
        self.function, self.columns = function, columns

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = list(batch)
        shards = [Shard(**dict(zip(names, (_plain(v) for v in values)))) for values in zip(*batch.values())]
        return {"rows": np.array([run_shard(shard, self.function, self.columns) for shard in shards])}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def resolve_collisions_on_ray(
    shards: Sequence[Shard],
    codes: np.ndarray,
    quantizer: Quantizer,
    policy: str = "reassign",
    address: str | None = None,
) -> np.ndarray:
    """
    The codes of [`resolve_collisions`], resolved in a group-by on prefixes that do not touch each other.

    Args:
        shards (`Sequence[Shard]`):
            Shards of the items, with a column `embedding`; only rows of items that may move are sent.
        codes (`np.ndarray` of shape `(items, levels)`):
            Codes of all items, in the order of the shards.
        quantizer ([`Quantizer`]):
            What made them.
        policy (`str`, *optional*, defaults to `"reassign"`):
            As in [`resolve_collisions`].
        address (`str`, *optional*):
            A cluster, as in [`run_shards_on_ray`].
    """
    groups = collision_groups(codes, quantizer.level_sizes, policy)
    result = np.zeros((len(codes), codes.shape[1] + (policy == "suffix")), dtype=np.int32)
    result[:, : codes.shape[1]] = codes
    if not (groups >= 0).any():
        return result
    ray = start_ray(address)

    def read(batch: dict[str, np.ndarray]) -> pa.Table:
        parts = [_colliding(shards[number], codes, groups) for number in batch["id"].tolist()]
        return pa.concat_tables(parts)

    def resolve(table: pa.Table) -> pa.Table:
        table = table.sort_by("row")
        own = resolve_collisions(as_vectors(table["codes"]), as_vectors(table["embedding"]), quantizer, policy)
        return pa.table({"row": table["row"], "codes": as_lists(own)})

    colliding = ray.data.range(len(shards), override_num_blocks=len(shards)).map_batches(read, batch_size=1)
    resolved = colliding.groupby("group", num_partitions=_num_cpus(ray)).map_groups(resolve, batch_format="pyarrow")
    for batch in resolved.iter_batches(batch_format="pyarrow"):
        result[batch["row"].to_numpy()] = as_vectors(batch["codes"])
    return result


def _num_cpus(ray: Any) -> int:
    """Partitions of a group-by: Ray's own default, 200, would start more processes than a small machine runs."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _colliding(shard: Shard, codes: np.ndarray, groups: np.ndarray) -> pa.Table:
    embeddings = shard.read(["embedding"])["embedding"]
    rows = np.arange(shard.first_row, shard.first_row + len(embeddings))
    moves = groups[rows] >= 0
    rows = rows[moves]
    columns = {
        "row": rows,
        "group": groups[rows],
        "codes": as_lists(codes[rows]),
        "embedding": embeddings.filter(pa.array(moves)),
    }
    return pa.table(columns)


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
    made = users.groupby("file", num_partitions=min(num_files, _num_cpus(ray))).map_groups(
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
