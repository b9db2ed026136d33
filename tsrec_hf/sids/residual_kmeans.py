"""Residual k-means: item embeddings to semantic IDs (TS-Rec, arXiv 2602.22632, section on semantic IDs).

Level 0 clusters the embeddings, level 1 clusters what level 0 leaves over, and so on. No encoder stands in front and
nothing is trained by gradient: an item's codes are the nearest centroids of its successive residuals.

The balanced option is ours. Every centroid gets a price (`balancing.py`), and "nearest" then means the least sum of
squared distance and price, so that codes are used alike and new items are still coded one by one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .balancing import balance


CENTROIDS_NAME = "residual_kmeans.safetensors"
# Of an entry: thousands of squares of twice as much can be added in float32. Where they overflow, faiss aborts the
# process; where they vanish, all distances are equal.
LARGEST = 1e16


class ResidualKMeans:
    r"""
    Turns embeddings into semantic IDs by k-means on successive residuals, one clustering a level.

    The same embeddings and seed give the same codes. Items may share all their codes: such collisions are kept.

    Args:
        level_sizes (`Sequence[int]`):
            Number of codes at each level, first level first. None may exceed the number of items given to [`fit`].
        seed (`int`, *optional*, defaults to `0`):
            Seed of the first centroids of level 0; level `l` uses `seed + l`.
        num_iterations (`int`, *optional*, defaults to `25`):
            Lloyd iterations a level.
        balanced (`bool`, *optional*, defaults to `False`):
            Whether the codes of a level shall be used about equally often. Items that are equal still share their
            codes. Takes `4 * items * level_size` bytes of memory in [`fit`].

    Attributes:
        centroids (`list[np.ndarray]`):
            One float32 array of shape `(level_size, dim)` a level; empty before [`fit`].
        prices (`list[np.ndarray]`):
            One float32 array of shape `(level_size,)` a level: what is added to the squared distance of a centroid.
            Zeros unless `balanced`.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.sids import ResidualKMeans

    >>> embeddings = np.array([[-1.0], [1.0], [99.0], [101.0]])
    >>> codes = ResidualKMeans([2, 2]).fit(embeddings).encode(embeddings)
    >>> codes.shape
    (4, 2)
    >>> bool(codes[0, 0] == codes[1, 0] != codes[2, 0])  # level 0 tells -1 and 1 from 99 and 101
    True
    >>> bool(codes[0, 1] == codes[2, 1] != codes[1, 1])  # level 1 tells "one below the centroid" from "one above"
    True
    ```
    """

    def __init__(
        self, level_sizes: Sequence[int], seed: int = 0, num_iterations: int = 25, balanced: bool = False
    ) -> None:
        self.level_sizes = _checked_sizes(level_sizes)
        if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**31 - len(self.level_sizes):
            raise ValueError(f"Expected `seed` as an integer from 0 to about 2 billion, found {seed!r}. Pass another.")
        if num_iterations < 1:
            raise ValueError(f"Expected `num_iterations` of at least 1, found {num_iterations}. The default is 25.")
        self.seed = seed
        self.num_iterations = num_iterations
        self.balanced = balanced
        self.centroids: list[np.ndarray] = []
        self.prices: list[np.ndarray] = []

    def fit(self, embeddings: np.ndarray) -> ResidualKMeans:
        r"""
        Learns the centroids of every level.

        Args:
            embeddings (`np.ndarray` of shape `(items, dim)`):
                One finite vector an item. All of them are used, whatever the number of clusters.

        Returns:
            [`ResidualKMeans`]: Itself, so that calls can be chained.

        Example:

        ```python
        >>> import numpy as np
        >>> from tsrec_hf.sids import ResidualKMeans

        >>> quantizer = ResidualKMeans([2]).fit(np.array([[0.0], [2.0], [10.0], [12.0]]))
        >>> sorted(quantizer.centroids[0].ravel().tolist())
        [1.0, 11.0]
        ```
        """
        residual = as_matrix(embeddings)  # (items, dim)
        num_items, dim = residual.shape
        if num_items < max(self.level_sizes):
            raise ValueError(
                f"Expected at least {max(self.level_sizes)} items, one a code of the widest level, found {num_items}. "
                f"Lower `level_sizes` (now {self.level_sizes})."
            )
        faiss = _import_faiss()
        centroids, prices = [], []
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
            centroids.append(np.array(clustering.centroids, dtype=np.float32).reshape(size, dim))
            prices.append(np.zeros(size, dtype=np.float32))
            if self.balanced:
                centroids[-1], prices[-1] = balance(residual, centroids[-1])
            # The assignment inside faiss precedes its last centroid update, so it is not the one that `encode` makes.
            residual = residual - centroids[-1][_nearest(residual, centroids[-1], prices[-1])]
        self.centroids, self.prices = centroids, prices
        return self

    def encode(self, embeddings: np.ndarray) -> np.ndarray:
        r"""
        Codes of embeddings, also of items that were not there in [`fit`].

        Args:
            embeddings (`np.ndarray` of shape `(items, dim)`):
                One finite vector an item, as wide as those given to [`fit`].

        Returns:
            `np.ndarray` of shape `(items, levels)`: int32 codes; at every level the centroid nearest to the residual.

        Example:

        ```python
        >>> import numpy as np
        >>> from tsrec_hf.sids import ResidualKMeans

        >>> quantizer = ResidualKMeans([2]).fit(np.array([[0.0], [2.0], [10.0], [12.0]]))
        >>> codes = quantizer.encode(np.array([[3.0], [8.0]]))
        >>> quantizer.centroids[0][codes[:, 0]].ravel().tolist()
        [1.0, 11.0]
        ```
        """
        residual = self._checked(embeddings)  # (items, dim)
        codes = np.empty((len(residual), len(self.centroids)), dtype=np.int32)
        for level, (centroids, prices) in enumerate(zip(self.centroids, self.prices)):
            codes[:, level] = _nearest(residual, centroids, prices)
            residual = residual - centroids[codes[:, level]]
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        r"""
        What codes say about an embedding: the sum of their centroids.

        Args:
            codes (`np.ndarray` of shape `(items, levels)`):
                Codes of all levels, or of the first ones alone.

        Returns:
            `np.ndarray` of shape `(items, dim)`: float32 embeddings.

        Example:

        ```python
        >>> import numpy as np
        >>> from tsrec_hf.sids import ResidualKMeans

        >>> embeddings = np.array([[-1.0], [1.0], [99.0], [101.0]])
        >>> quantizer = ResidualKMeans([2, 2]).fit(embeddings)
        >>> codes = quantizer.encode(embeddings)
        >>> quantizer.decode(codes).ravel().tolist(), quantizer.decode(codes[:, :1]).ravel().tolist()
        ([-1.0, 1.0, 99.0, 101.0], [0.0, 0.0, 100.0, 100.0])
        ```
        """
        self._check_fitted()
        codes = checked_codes(codes, self.level_sizes)
        return sum(centroids[level] for centroids, level in zip(self.centroids, codes.T))

    def distances(self, embeddings: np.ndarray, codes: np.ndarray) -> np.ndarray:
        r"""
        How badly each code of the next level suits items whose first codes are given; [`encode`] takes the least.

        Args:
            embeddings (`np.ndarray` of shape `(items, dim)`):
                One finite vector an item.
            codes (`np.ndarray` of shape `(items, l)`):
                Codes of the levels before level `l`; `l` is 0 for the first level.

        Returns:
            `np.ndarray` of shape `(items, level_sizes[l])`: float32 squared distances from what the given codes leave
            over to the centroids of level `l`, prices added.

        Example:

        ```python
        >>> import numpy as np
        >>> from tsrec_hf.sids import ResidualKMeans

        >>> quantizer = ResidualKMeans([2]).fit(np.array([[0.0], [2.0], [10.0], [12.0]]))
        >>> distances = quantizer.distances(np.array([[3.0]]), np.empty((1, 0), dtype=int))
        >>> sorted(distances.ravel().tolist())  # to 1 and to 11
        [4.0, 64.0]
        ```
        """
        residual = self._checked(embeddings)
        if len(codes) and codes.shape[1]:
            residual = residual - self.decode(codes)
        centroids, prices = self.centroids[codes.shape[1]], self.prices[codes.shape[1]]
        squares = np.square(residual).sum(axis=1)[:, None] + np.square(centroids).sum(axis=1)
        return np.maximum(squares - 2 * residual @ centroids.T, 0) + prices

    def drop_unused(self, codes: np.ndarray) -> np.ndarray:
        r"""
        Forgets the codes that no item has, so that new items get none of them: a language model that is trained on
        these items learns nothing of their tokens.

        Args:
            codes (`np.ndarray` of shape `(items, levels)`):
                Codes of all items, after [`resolve_collisions`]; an extra level of that is left as it is.

        Returns:
            `np.ndarray` of the same shape: int32 codes, numbered anew without gaps.

        Example:

        ```python
        >>> import numpy as np
        >>> from tsrec_hf.sids import ResidualKMeans

        >>> quantizer = ResidualKMeans([3]).fit(np.array([[0.0], [5.0], [10.0]]))
        >>> codes = quantizer.encode(np.array([[0.0], [10.0]]))
        >>> sorted(quantizer.drop_unused(codes).ravel().tolist()), quantizer.level_sizes
        ([0, 1], [2])
        ```
        """
        self._check_fitted()
        used, new = used_codes(codes, self.level_sizes)
        self.centroids = [centroids[kept] for centroids, kept in zip(self.centroids, used)]
        self.prices = [prices[kept] for prices, kept in zip(self.prices, used)]
        self.level_sizes[:] = map(len, used)
        return new

    def save(self, directory: str | Path) -> None:
        r"""
        Writes the centroids and settings to `residual_kmeans.safetensors`.

        Args:
            directory (`str` or `Path`):
                Folder to write to; made if missing.

        Example:

        ```python
        >>> import tempfile
        >>> import numpy as np
        >>> from tsrec_hf.sids import ResidualKMeans

        >>> quantizer = ResidualKMeans([2]).fit(np.array([[0.0], [10.0]]))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     quantizer.save(directory)
        ...     ResidualKMeans.load(directory).level_sizes
        [2]
        ```
        """
        self._check_fitted()
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        arrays = {f"level_{level}": centroids for level, centroids in enumerate(self.centroids)}
        if self.balanced:
            arrays |= {f"prices_{level}": prices for level, prices in enumerate(self.prices)}
        settings = {"seed": self.seed, "num_iterations": self.num_iterations, "balanced": self.balanced}
        save_file(arrays, directory / CENTROIDS_NAME, metadata={"settings": json.dumps(settings)})

    @classmethod
    def load(cls, directory: str | Path) -> ResidualKMeans:
        r"""
        Reads what [`save`] wrote; [`encode`] then gives the same codes.

        Args:
            directory (`str` or `Path`):
                Folder that holds `residual_kmeans.safetensors`.

        Returns:
            [`ResidualKMeans`]: Ready to [`encode`].

        Example:

        ```python
        >>> import tempfile
        >>> import numpy as np
        >>> from tsrec_hf.sids import ResidualKMeans

        >>> quantizer = ResidualKMeans([2], seed=3).fit(np.array([[0.0], [10.0]]))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     quantizer.save(directory)
        ...     loaded = ResidualKMeans.load(directory)
        >>> loaded.seed, bool((loaded.centroids[0] == quantizer.centroids[0]).all())
        (3, True)
        ```
        """
        settings, arrays = read_quantizer(Path(directory) / CENTROIDS_NAME, cls.__name__)
        levels = range(sum(name.startswith("level_") for name in arrays))
        centroids = [as_matrix(arrays[f"level_{level}"]) for level in levels]
        quantizer = cls([len(level) for level in centroids], **settings)
        quantizer.centroids = centroids
        quantizer.prices = [np.zeros(len(level), dtype=np.float32) for level in centroids]
        if quantizer.balanced:
            quantizer.prices = [arrays[f"prices_{level}"] for level in levels]
        return quantizer

    def _checked(self, embeddings: np.ndarray) -> np.ndarray:
        self._check_fitted()
        matrix = as_matrix(embeddings)
        dim = self.centroids[0].shape[1]
        if matrix.shape[1] != dim:
            raise ValueError(
                f"Expected embeddings with {dim} columns, as in `fit`, found {matrix.shape[1]}. "
                "Embed these items with the model that embedded the others."
            )
        return matrix

    def _check_fitted(self) -> None:
        if not self.centroids:
            raise RuntimeError(
                "Expected centroids, found none. Call `fit(embeddings)` or `ResidualKMeans.load(directory)`."
            )


def _checked_sizes(level_sizes: Sequence[int]) -> list[int]:
    # A string is a sequence too: of "256" it would make three levels.
    sizes = [] if isinstance(level_sizes, (str, int)) else list(level_sizes)
    if not sizes or not all(isinstance(size, (int, np.integer)) and size >= 1 for size in sizes):
        raise ValueError(
            "Expected at least one level and one code a level, a list of integers, found "
            f"`level_sizes={level_sizes!r}`. Pass for example `level_sizes=[256, 256, 256]`."
        )
    return [int(size) for size in sizes]


def as_matrix(embeddings: np.ndarray) -> np.ndarray:
    """`embeddings` as the contiguous float32 matrix that faiss reads, of shape `(items, dim)`."""
    if isinstance(embeddings, torch.Tensor):
        embeddings = embeddings.detach().float().cpu().numpy()
    matrix = np.asarray(embeddings)
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
    largest = float(np.abs(matrix).max())
    if largest > LARGEST or 0 < largest < 1 / LARGEST:
        raise ValueError(
            f"Expected embeddings whose squares fit into float32, but the largest entry is {largest:.1e}. Scale them, "
            "for example to unit length."
        )
    return matrix


def read_quantizer(path: Path, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Settings and arrays of a file that `save` of the class of that name wrote."""
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected {path.name!r} in {str(path.parent)!r}, found no such file. Write it with "
            f"`{name}.save(directory)`."
        )
    try:
        with safe_open(path, framework="numpy") as file:
            settings = json.loads((file.metadata() or {}).get("settings", "null"))
            arrays = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}). It may be truncated: fetch or save it again."
        ) from error
    if not isinstance(settings, dict) or "level_0" not in arrays:
        raise ValueError(
            f"Expected {path} to be what `{name}.save` writes, found a file of other tensors, {sorted(arrays)[:3]} "
            "among them. Name the folder that the quantiser was saved to."
        )
    return settings, arrays


def checked_codes(codes: np.ndarray, level_sizes: Sequence[int]) -> np.ndarray:
    """`codes` as an integer array of shape `(items, levels)`, each below its level's size; first levels will do."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] > len(level_sizes) or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            f"Expected integer codes of shape (items, levels) with at most {len(level_sizes)} levels, found shape "
            f"{codes.shape} of dtype `{codes.dtype}`. Pass what `encode` returned; an extra level that tells "
            "collisions apart is left out."
        )
    sizes = np.array(level_sizes[: codes.shape[1]])
    if ((codes < 0) | (codes >= sizes)).any():
        raise ValueError(
            f"Expected codes from 0 and below the level sizes {sizes.tolist()}, found {codes.min(axis=0).tolist()} to "
            f"{codes.max(axis=0).tolist()}. Pass the quantizer that made these codes."
        )
    return codes


def used_codes(codes: np.ndarray, level_sizes: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """Codes of each level that occur, and all codes numbered anew without the others; extra levels stay."""
    codes = np.array(codes, dtype=np.int32)
    used = []
    for level, column in enumerate(checked_codes(codes[:, : len(level_sizes)], level_sizes).T):
        kept, codes[:, level] = np.unique(column, return_inverse=True)
        used.append(kept)
    return used, codes


def _nearest(points: np.ndarray, centroids: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Index of the centroid with the least squared distance plus price for each point, of shape `(points,)`."""
    if prices.any():
        # A price is a squared distance along one more axis, on which all points are at 0.
        centroids = np.column_stack([centroids, np.sqrt(prices)])
        points = np.column_stack([points, np.zeros(len(points), dtype=np.float32)])
    _, nearest = _import_faiss().knn(points, np.ascontiguousarray(centroids, dtype=np.float32), 1)
    return nearest[:, 0]


def _import_faiss():
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'Quantisers need faiss, which is not installed. Install it with `pip install "tsrec_hf[sids]"`.'
        ) from error
    return faiss
