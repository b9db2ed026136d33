"""Checks on what users pass to a quantiser: level sizes, embeddings and codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


# Largest absolute entry: thousands of squares of up to twice that size sum without overflow in float32. Past it faiss
# aborts the process; below its reciprocal all squared distances vanish and are equal.
LARGEST = 1e16


def checked_sizes(level_sizes: Sequence[int]) -> list[int]:
    """Validate `level_sizes`: at least one level, at least one code in each."""
    # A string is a sequence too: "256" would become three levels.
    sizes = [] if isinstance(level_sizes, (str, int)) else list(level_sizes)
    if not sizes or not all(isinstance(size, (int, np.integer)) and size >= 1 for size in sizes):
        raise ValueError(
            "Expected at least one level and one code a level, a list of integers, found "
            f"`level_sizes={level_sizes!r}`. Pass for example `level_sizes=[256, 256, 256]`."
        )
    return [int(size) for size in sizes]


def finite_matrix(values: Any) -> np.ndarray:
    """Convert an array or tensor to a contiguous float32 matrix without NaN or infinity, of shape `(items, dim)`."""
    if isinstance(values, torch.Tensor):
        values = values.detach().float().cpu().numpy()
    matrix = np.asarray(values)
    if matrix.dtype.kind not in "fiu":
        raise TypeError(
            f"Expected embeddings as an array of real numbers, found dtype `{matrix.dtype}`. Pass one vector an item, "
            "all of one width."
        )
    with np.errstate(over="ignore"):  # what overflows becomes infinite, which is an error below
        matrix = np.ascontiguousarray(matrix, dtype=np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"Expected embeddings of shape (items, dim), found {matrix.shape}. Pass one vector an item.")
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"Expected finite embeddings, found NaN or infinity in {(~finite).sum()} of {len(matrix)} rows, first in "
            f"row {int(np.argmin(finite))}. Embed those items again, in float32 if half precision overflowed."
        )
    return matrix


def as_matrix(embeddings: Any) -> np.ndarray:
    """Convert embeddings as [`finite_matrix`] does, and refuse entries whose squares leave the range of float32."""
    matrix = finite_matrix(embeddings)
    largest = float(np.abs(matrix).max())
    if largest > LARGEST or 0 < largest < 1 / LARGEST:
        raise ValueError(
            f"Expected embeddings whose squares fit into float32, but the largest entry is {largest:.1e}. Scale them, "
            "for example to unit length."
        )
    return matrix


def checked_codes(codes: Any, level_sizes: Sequence[int]) -> np.ndarray:
    """Validate integer codes of all levels or of the first ones, of shape `(items, levels)`, each below its size."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] > len(level_sizes) or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            f"Expected integer codes of shape (items, levels) with at most {len(level_sizes)} levels, found shape "
            f"{codes.shape} of dtype `{codes.dtype}`. Pass what `encode` returned, without the extra level that "
            "numbers collisions."
        )
    sizes = np.array(level_sizes[: codes.shape[1]])
    if ((codes < 0) | (codes >= sizes)).any():
        raise ValueError(
            f"Expected codes from 0 and below the level sizes {sizes.tolist()}, found {codes.min(axis=0).tolist()} to "
            f"{codes.max(axis=0).tolist()}. Pass the quantizer that made these codes."
        )
    return codes
