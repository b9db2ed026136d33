"""Engines that others run: what a server, vLLM, Ray Data and jobs in shards need of a recommender."""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .batch_callables import BatchCallable, EmbedBatch, EncodeBatch, RecommendBatch
    from .batching import RequestBatcher, ServerBusy
    from .ray_jobs import run_shards_on_ray
    from .shards import Shard, plan_shards, read_results, run_shard, run_shards
    from .sid_constraint import SIDConstraint
    from .vllm_search import recommend_vllm

# On first use: each engine is an extra, and none of them needs what the others import.
_MODULE_OF = {
    "BatchCallable": "batch_callables",
    "EmbedBatch": "batch_callables",
    "EncodeBatch": "batch_callables",
    "RecommendBatch": "batch_callables",
    "RequestBatcher": "batching",
    "SIDConstraint": "sid_constraint",
    "ServerBusy": "batching",
    "Shard": "shards",
    "plan_shards": "shards",
    "read_results": "shards",
    "recommend_vllm": "vllm_search",
    "run_shard": "shards",
    "run_shards": "shards",
    "run_shards_on_ray": "ray_jobs",
}

__all__ = [
    "BatchCallable",
    "EmbedBatch",
    "EncodeBatch",
    "RecommendBatch",
    "RequestBatcher",
    "SIDConstraint",
    "ServerBusy",
    "Shard",
    "plan_shards",
    "read_results",
    "recommend_vllm",
    "run_shard",
    "run_shards",
    "run_shards_on_ray",
]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
