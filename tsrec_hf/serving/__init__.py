"""What other engines run: callables for Ray Data and `datasets`, and jobs in shards."""

from .batch_callables import BatchCallable, EmbedBatch, EncodeBatch, RecommendBatch
from .ray_jobs import run_shards_on_ray
from .shards import Shard, plan_shards, read_results, run_shard, run_shards


__all__ = [
    "BatchCallable",
    "EmbedBatch",
    "EncodeBatch",
    "RecommendBatch",
    "Shard",
    "plan_shards",
    "read_results",
    "run_shard",
    "run_shards",
    "run_shards_on_ray",
]
