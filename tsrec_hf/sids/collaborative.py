"""Collaborative vectors: what is taken together is alike, whatever its texts say. Joined with text embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import as_matrix
from .transitions import item_transitions


if TYPE_CHECKING:
    from datasets import Dataset

# Neighbours by text that an item without interactions gets its collaborative vector from.
NUM_NEIGHBORS = 10


def collaborative_vectors(
    interactions: Dataset | Sequence[Mapping[str, Any]], item_ids: Sequence[str], dim: int = 64, seed: int = 0
) -> np.ndarray:
    r"""
    Vectors of items by a truncated SVD of their transitions.

    The number of times that two items follow each other, in either order, becomes positive pointwise mutual
    information, which frequent items do not dominate; an item follows itself as often as all others follow it, so that
    items are alike that follow each other, and those that follow the same ones. The SVD keeps the `dim` strongest
    directions, each scaled by the square root of its singular value.

    Args:
        interactions (`datasets.Dataset` or a sequence of dicts):
            Rows with `history` and `target`, of the training split alone.
        item_ids (`Sequence[str]`):
            All items.
        dim (`int`, *optional*, defaults to `64`):
            Width of the vectors, less than the number of items.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the SVD.

    Returns:
        `np.ndarray` of shape `(items, dim)`: float32 vectors of unit length, zeros for items without a transition.

    Raises:
        `ImportError`: scikit-learn is not installed. `ValueError`: no transitions, or too large a `dim`.

    Example:

    ```python
    >>> from tsrec_hf.sids import collaborative_vectors

    >>> rows = [{"history": ["saw"], "target": "nail"}, {"history": ["tea"], "target": "mug"}]
    >>> vectors = collaborative_vectors(rows, ["saw", "nail", "tea", "mug", "new"], dim=2)
    >>> abs(vectors @ vectors.T).round(1)[:, [0, 4]].T  # the saw is like the nail; nothing is like what is new
    array([[1., 1., 0., 0., 0.],
           [0., 0., 0., 0., 0.]], dtype=float32)
    ```
    """
    try:
        from scipy.sparse import coo_matrix
        from sklearn.decomposition import TruncatedSVD
    except ImportError as error:
        raise ImportError(
            "Collaborative vectors need scikit-learn, which is not installed. Install it with `pip install "
            '"tsrec_hf[sids,keywords]"`.'
        ) from error
    pairs = item_transitions(interactions, item_ids)
    if len(pairs) == 0 or not 1 <= dim < len(item_ids):
        raise ValueError(
            f"Expected transitions between items and a `dim` from 1 to below the {len(item_ids)} items, found "
            f"{len(pairs)} transitions and {dim}. Pass the training interactions, and a smaller `dim`."
        )
    earlier, later = np.concatenate([pairs, pairs[:, ::-1], np.repeat(pairs.reshape(-1, 1), 2, axis=1)]).T
    ones = np.ones(len(earlier), dtype=np.float64)
    counts = coo_matrix((ones, (earlier, later)), (len(item_ids),) * 2).tocsr().tocoo()  # sums equal pairs
    totals = np.asarray(counts.sum(axis=1)).ravel()
    information = np.log(counts.data * totals.sum() / (totals[counts.row] * totals[counts.col]))
    matrix = coo_matrix((np.maximum(information, 0), (counts.row, counts.col)), counts.shape).tocsr()
    svd = TruncatedSVD(dim, random_state=seed)
    scaled = svd.fit_transform(matrix)  # left singular vectors times singular values
    vectors = scaled / np.sqrt(np.maximum(svd.singular_values_, 1e-12))
    vectors[totals == 0] = 0
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(norms > 1e-9, vectors / np.maximum(norms, 1e-9), 0).astype(np.float32)


def join_collaborative(embeddings: np.ndarray, vectors: np.ndarray, weight: float) -> np.ndarray:
    r"""
    Join embeddings of contents with collaborative vectors: their cosine is the weighted mean of both cosines.

    An item without a collaborative vector (all zeros) gets the mean of those of the 10 items that are most like it by
    their contents, weighted by the cosine, so that new items stand where similar ones do.

    Args:
        embeddings (`np.ndarray` of shape `(items, dim)`):
            Embeddings of the items' contents, from [`embed_items`].
        vectors (`np.ndarray` of shape `(items, width)`):
            Collaborative vectors in the same order, from [`collaborative_vectors`].
        weight (`float`):
            Weight of the collaborative vectors relative to the embeddings, at least 0.

    Returns:
        `np.ndarray` of shape `(items, dim + width)`: float32 vectors.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.sids import join_collaborative

    >>> embeddings, vectors = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> joined = join_collaborative(embeddings, vectors, weight=1.0)
    >>> float((joined[0] @ joined[1]).round(3))  # the same contents, taken with other items
    0.5
    ```
    """
    embeddings, vectors = as_matrix(embeddings), as_matrix(vectors)
    if len(embeddings) != len(vectors) or not 0 <= weight < float("inf"):
        raise ValueError(
            f"Expected one collaborative vector an embedding and a finite weight of at least 0, found {len(vectors)} "
            f"vectors, {len(embeddings)} embeddings and {weight}. Pass both in the order of the items."
        )
    known = np.flatnonzero(vectors.any(axis=1))
    unknown = np.flatnonzero(~vectors.any(axis=1))
    if len(known) and len(unknown):
        vectors = vectors.copy()
        units = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        number = min(NUM_NEIGHBORS, len(known))
        for start in range(0, len(unknown), 100):
            rows = unknown[start : start + 100]
            cosines = units[rows] @ units[known].T  # (rows, known)
            nearest = np.argpartition(-cosines, number - 1, axis=1)[:, :number]
            shares = np.maximum(np.take_along_axis(cosines, nearest, axis=1), 1e-6)
            sums = np.einsum("rn,rnd->rd", shares, vectors[known[nearest]])
            vectors[rows] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    scales = np.sqrt(np.array([1.0, weight]) / (1.0 + weight)).astype(np.float32)
    return np.concatenate([embeddings * scales[0], vectors * scales[1]], axis=1)
