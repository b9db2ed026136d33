"""Vectors as Arrow has them in tables: lists of one length."""

import numpy as np
import pyarrow as pa


def as_lists(matrix: np.ndarray) -> pa.Array:
    """A matrix as lists, one a row."""
    offsets = np.arange(0, matrix.size + 1, matrix.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.reshape(-1)))


def as_vectors(lists: pa.ChunkedArray) -> np.ndarray:
    """Lists of one length as a matrix, one row each."""
    flat = lists.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(lists) == 0 or len(flat) % len(lists):
        raise ValueError(
            f"Expected vectors of one width, but found {len(lists)} of {len(flat)} numbers together. Embed these "
            "items again, all with one model."
        )
    return flat.reshape(len(lists), -1)
