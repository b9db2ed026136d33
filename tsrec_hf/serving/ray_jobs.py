"""Jobs in shards on Ray Data: actors that load a model once, and go on where a killed one stopped."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from .shards import Shard, run_shard


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


def num_partitions(ray: Any) -> int:
    """Partitions of a group-by: one a CPU. By Ray's default there are 200, a task each, however few the rows."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
