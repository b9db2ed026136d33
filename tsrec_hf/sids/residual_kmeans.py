"""Residual k-means: item embeddings to semantic IDs (TS-Rec, arXiv 2602.22632, section on semantic IDs).

Level 0 clusters the embeddings, level 1 clusters the residuals of level 0, and so on. There is no encoder and no
training by gradient: an item's codes are the nearest centroids of its successive residuals.

The balanced option, the default, is ours; TS-Rec's is `balanced=False`. Every centroid gets a penalty
(`balancing.py`), and "nearest" then means the least sum of squared distance and penalty, so that cluster sizes are
about equal and new items are still coded one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsrec_hf.models.checking_tsrec import checks_types

from .balancing import balance
from .quantizer import Quantizer, import_faiss, nearest_centroids


class ResidualKMeans(Quantizer):
    r"""
    Turn embeddings into semantic IDs by k-means on successive residuals, one clustering a level.

    The same embeddings and seed give the same codes. Items may share all their codes: such collisions are kept.
    [`fit`], [`encode`], [`decode`], [`save`] and [`load`] are those of [`Quantizer`].

    Args:
        level_sizes (`Sequence[int]`):
            Number of codes at each level, first level first. None may exceed the number of items given to [`fit`].
        seed (`int`, *optional*, defaults to `0`):
            Seed of the initial centroids of level 0; level `l` uses `seed + l`.
        num_iterations (`int`, *optional*, defaults to `25`):
            Lloyd iterations a level.
        balanced (`bool`, *optional*, defaults to `True`):
            Whether to balance the cluster sizes of each level. Without it, later levels put most items under a few
            codes. Equal items still share their codes. [`fit`] then needs `4 * items * level_size` bytes of memory, at
            most `1024 * level_size ** 2`.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.sids import ResidualKMeans

    >>> embeddings = np.array([[-1.0], [1.0], [99.0], [101.0]])
    >>> codes = ResidualKMeans([2, 2]).fit(embeddings).encode(embeddings)
    >>> codes.shape
    (4, 2)
    >>> bool(codes[0, 0] == codes[1, 0] != codes[2, 0])  # level 0 separates -1 and 1 from 99 and 101
    True
    >>> bool(codes[0, 1] == codes[2, 1] != codes[1, 1])  # level 1: one below its centroid, or one above
    True
    ```
    """

    file_name = "residual_kmeans.safetensors"

    @checks_types
    def __init__(
        self, level_sizes: Sequence[int], seed: int = 0, num_iterations: int = 25, balanced: bool = True
    ) -> None:
        super().__init__(level_sizes, seed)
        if num_iterations < 1:
            raise ValueError(f"Expected `num_iterations` of at least 1, found {num_iterations}. The default is 25.")
        self.num_iterations = num_iterations
        self.balanced = balanced

    def learn(self, embeddings: np.ndarray) -> list[np.ndarray]:
        """Cluster the embeddings, then the residuals of each level; sets the penalties if `balanced`."""
        faiss = import_faiss()
        residual, codebooks = embeddings, []
        num_items, dim = embeddings.shape
        for level, size in enumerate(self.level_sizes):
            clustering = faiss.Kmeans(
                dim,
                size,
                niter=self.num_iterations,
                seed=self.seed + level,
                min_points_per_centroid=1,  # faiss warns below 39 points a centroid; small catalogues are normal here
                max_points_per_centroid=num_items,  # faiss would sample 256 points a centroid
            )
            clustering.train(residual)
            centroids = np.array(clustering.centroids, dtype=np.float32).reshape(size, dim)
            if self.balanced:
                centroids, self.penalties[level] = balance(residual, centroids)
            # The assignment inside faiss precedes its last centroid update, so it is not the one that `encode` makes.
            residual = residual - centroids[nearest_centroids(residual, centroids, self.penalties[level])]
            codebooks.append(centroids)
        return codebooks
