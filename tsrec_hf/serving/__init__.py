"""Engines that others run: what a server and vLLM need of a recommender."""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .batching import RequestBatcher, ServerBusy
    from .sid_constraint import SIDConstraint
    from .vllm_search import recommend_vllm

# On first use: each engine is an extra, and none of them needs what the others import.
_MODULE_OF = {
    "RequestBatcher": "batching",
    "SIDConstraint": "sid_constraint",
    "ServerBusy": "batching",
    "recommend_vllm": "vllm_search",
}

__all__ = ["RequestBatcher", "SIDConstraint", "ServerBusy", "recommend_vllm"]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
