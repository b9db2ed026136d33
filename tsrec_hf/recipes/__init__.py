"""Whole runs: what the commands and the example scripts do, and a recommender from two tables in one call."""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .recommender import Recommender

# On first use: reading the options of a command imports this room and must not pull in what the command needs.
_MODULE_OF = {"Recommender": "recommender"}

__all__ = ["Recommender"]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
