"""Collisions of many items on Ray Data, resolved in a group-by on prefixes."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tsrec_hf.sids import Quantizer, collision_groups, resolve_collisions

from .ray_jobs import num_partitions, start_ray
from .shards import Shard
from .vectors import as_lists, as_vectors


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
    resolved = colliding.groupby("group", num_partitions=num_partitions(ray)).map_groups(
        resolve, batch_format="pyarrow"
    )
    for batch in resolved.iter_batches(batch_format="pyarrow"):
        result[batch["row"].to_numpy()] = as_vectors(batch["codes"])
    return result


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
