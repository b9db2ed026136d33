"""
The base of all quantisers: embeddings to integer codes by a codebook a level, each applied to what the earlier leave.

A quantiser differs from another in how it learns its codebooks and, if it has one, in the space they live in. Coding,
decoding, checks and files are the same for all and stand here.
"""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from safetensors.numpy import save_file

from tsrec_hf.models.array_files_tsrec import read_arrays
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.file_sets_tsrec import check_listed
from tsrec_hf.models.replacing_tsrec import replaced

from .checks import as_matrix, checked_codes, checked_sizes, finite_matrix


class Quantizer(ABC):
    r"""
    Residual quantiser: the codes of an item are the nearest centroids of its successive residuals.

    A subclass implements [`learn`], which returns the codebooks; [`resolve_collisions`] and [`sid_report`] then take
    it like any other. As in scikit-learn, every argument of its constructor is kept in an attribute of the same name:
    these are the settings that [`save`] writes and [`load`] passes to the constructor. Optionally it overrides

    - `file_name`: the name of its file, so that a folder can hold quantisers of several classes;
    - `project`, `reconstruct`, `state`, `load_state` and `dim`, where the codebooks live in another space than the
      embeddings: the way into that space, the way back, and the arrays that both need.

    Args:
        level_sizes (`Sequence[int]`):
            Number of codes at each level, first level first. None may exceed the number of items given to [`fit`].
        seed (`int`, *optional*, defaults to `0`):
            Seed of whatever [`learn`] draws at random.

    Attributes:
        centroids (`list[np.ndarray]`):
            One float32 codebook of shape `(level_size, width)` a level; empty before [`fit`].
        penalties (`list[np.ndarray]`):
            One float32 array of shape `(level_size,)` a level, added to the squared distances to its centroids. Zeros
            unless [`learn`] sets them.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.sids import Quantizer, resolve_collisions, sid_report

    >>> class SampledCodebooks(Quantizer):
    ...     file_name = "sampled_codebooks.safetensors"
    ...
    ...     def learn(self, embeddings):
    ...         rng, residual, codebooks = np.random.default_rng(self.seed), embeddings, []
    ...         for size in self.level_sizes:
    ...             codebooks.append(rng.choice(residual, size, replace=False))
    ...             distances = np.square(residual[:, None] - codebooks[-1]).sum(axis=-1)
    ...             residual = residual - codebooks[-1][distances.argmin(axis=1)]
    ...         return codebooks

    >>> embeddings = np.random.default_rng(0).normal(size=(40, 4))
    >>> quantizer = SampledCodebooks([8, 8], seed=1).fit(embeddings)
    >>> codes = resolve_collisions(quantizer.encode(embeddings), embeddings, quantizer)
    >>> sid_report(codes, embeddings, quantizer).collision_rate
    0.0
    ```
    """

    file_name: ClassVar[str] = "quantizer.safetensors"

    @checks_types
    def __init__(self, level_sizes: Sequence[int], seed: int = 0) -> None:
        self.level_sizes = checked_sizes(level_sizes)
        if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**31 - len(self.level_sizes):
            raise ValueError(f"Expected `seed` as an integer from 0 to about 2 billion, found {seed!r}. Pass another.")
        self.seed = int(seed)
        self.centroids: list[np.ndarray] = []
        self.penalties: list[np.ndarray] = []

    @abstractmethod
    def learn(self, embeddings: np.ndarray) -> Sequence[np.ndarray]:
        """
        Learn the codebooks; called by [`fit`], once the embeddings are checked.

        Args:
            embeddings (`np.ndarray` of shape `(items, dim)`):
                Contiguous, finite float32 vectors, at least as many as the widest level has codes.

        Returns:
            `Sequence[np.ndarray]`: One codebook of shape `(level_size, width)` a level.
        """

    def project(self, embeddings: np.ndarray) -> np.ndarray:
        """Map embeddings of shape `(items, dim)` to the space of the codebooks, `(items, width)`; here the same."""
        return embeddings

    def reconstruct(self, vectors: np.ndarray) -> np.ndarray:
        """Map vectors of shape `(items, width)` from the space of the codebooks back to embeddings, `(items, dim)`."""
        return vectors

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that [`save`] writes beside codebooks and penalties; here none."""
        return {}

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore what [`state`] returned; called by [`load`]."""

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.centroids[0].shape[1]

    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor with their present values, as [`save`] writes them."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def fit(self, embeddings: np.ndarray) -> Self:
        r"""
        Learn the codebooks of all levels from the items' embeddings.

        Args:
            embeddings (`np.ndarray` of shape `(items, dim)`):
                One finite vector an item. All of them are used, whatever the number of codes.

        Returns:
            [`Quantizer`]: Itself, so that calls can be chained. If it raises, the quantiser is unfitted.

        Example:

        ```python
        >>> import numpy as np
        >>> from tsrec_hf.sids import ResidualKMeans

        >>> quantizer = ResidualKMeans([2]).fit(np.array([[0.0], [2.0], [10.0], [12.0]]))
        >>> sorted(quantizer.centroids[0].ravel().tolist())
        [1.0, 11.0]
        ```
        """
        matrix = as_matrix(embeddings)
        if len(matrix) < max(self.level_sizes):
            raise ValueError(
                f"Expected at least {max(self.level_sizes)} items, one a code of the widest level, found "
                f"{len(matrix)}. Lower `level_sizes` (now {self.level_sizes})."
            )
        self.centroids, self.penalties = [], [np.zeros(size, dtype=np.float32) for size in self.level_sizes]
        centroids = [finite_matrix(codebook) for codebook in self.learn(matrix)]
        if [len(codebook) for codebook in centroids] != self.level_sizes:
            raise ValueError(
                f"Expected `{type(self).__name__}.learn` to return codebooks of {self.level_sizes} rows, found shapes "
                f"{[codebook.shape for codebook in centroids]}. Return one codebook a level, one row a code."
            )
        self.centroids = centroids
        return self

    def encode(self, embeddings: np.ndarray) -> np.ndarray:
        r"""
        Code embeddings, also those of items that [`fit`] has not seen.

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
        residual = self._projected(embeddings)  # (items, width)
        codes = np.empty((len(residual), len(self.centroids)), dtype=np.int32)
        for level, (centroids, penalties) in enumerate(zip(self.centroids, self.penalties)):
            codes[:, level] = nearest_centroids(residual, centroids, penalties)
            residual = residual - centroids[codes[:, level]]
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        r"""
        Approximate embeddings from codes: the sum of their centroids, mapped back by [`reconstruct`].

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
        return self.reconstruct(self._sum_of_centroids(codes))

    def distances(self, embeddings: np.ndarray, codes: np.ndarray) -> np.ndarray:
        r"""
        Distances from items to all codes of the next level, given their first codes; [`encode`] takes the least.

        Args:
            embeddings (`np.ndarray` of shape `(items, dim)`):
                One finite vector an item.
            codes (`np.ndarray` of shape `(items, l)`):
                Codes of the levels before level `l`; `l` is 0 for the first level.

        Returns:
            `np.ndarray` of shape `(items, level_sizes[l])`: float32 squared distances, in the space of the codebooks,
            from the residuals to the centroids of level `l`, plus their penalties.

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
        residual = self._projected(embeddings) - self._sum_of_centroids(codes)
        centroids, penalties = self.centroids[codes.shape[1]], self.penalties[codes.shape[1]]
        squares = np.square(residual).sum(axis=1)[:, None] + np.square(centroids).sum(axis=1)
        return np.maximum(squares - 2 * residual @ centroids.T, 0) + penalties

    def misfit(self, embeddings: np.ndarray, codes: np.ndarray) -> np.ndarray:
        r"""
        How badly the last of its codes fits each item. Row by row: no other item changes an item's number by a bit.

        Args:
            embeddings (`np.ndarray` of shape `(items, dim)`):
                One finite vector an item.
            codes (`np.ndarray` of shape `(items, levels)`):
                The items' codes.

        Returns:
            `np.ndarray` of shape `(items,)`: float32 squared distances from the residuals before the last level to
            the centroids of the last codes, plus their penalties.

        Example:

        ```python
        >>> import numpy as np
        >>> from tsrec_hf.sids import ResidualKMeans

        >>> quantizer = ResidualKMeans([2]).fit(np.array([[0.0], [2.0], [10.0], [12.0]]))
        >>> quantizer.misfit(np.array([[3.0]]), quantizer.encode(np.array([[3.0]])))  # to 1
        array([4.], dtype=float32)
        ```
        """
        last = codes.shape[1] - 1
        difference = self._projected(embeddings) - self._sum_of_centroids(codes[:, :-1])
        difference -= self.centroids[last][codes[:, last]]
        return np.square(difference).sum(axis=1) + self.penalties[last][codes[:, last]]

    def drop_unused(self, codes: np.ndarray) -> np.ndarray:
        r"""
        Remove the codes that no item has, and renumber the others.

        A language model learns nothing about the token of a code that no training item has, so new items must not be
        given one.

        Args:
            codes (`np.ndarray` of shape `(items, levels)`):
                Codes of all items, after [`resolve_collisions`]; an extra level that it added is left as it is.

        Returns:
            `np.ndarray` of the same shape: int32 codes, renumbered without gaps.

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
        codes = np.array(codes, dtype=np.int32)
        for level, column in enumerate(checked_codes(codes[:, : len(self.level_sizes)], self.level_sizes).T):
            used, codes[:, level] = np.unique(column, return_inverse=True)
            self.centroids[level] = self.centroids[level][used]
            self.penalties[level] = self.penalties[level][used]
            self.level_sizes[level] = len(used)
        return codes

    @checks_types
    def save(self, directory: str | Path) -> None:
        r"""
        Write codebooks and settings to one safetensors file, `file_name`.

        Args:
            directory (`str` or `Path`):
                Folder to write to; made if missing.

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
        self._check_fitted()
        arrays = {f"level_{level}": codebook for level, codebook in enumerate(self.centroids)}
        if any(penalties.any() for penalties in self.penalties):
            arrays |= {f"penalties_{level}": penalties for level, penalties in enumerate(self.penalties)}
        path = Path(directory) / self.file_name
        with replaced(path) as part:
            save_file(arrays | self.state(), part, metadata={"settings": json.dumps(self.settings())})

    @classmethod
    @checks_types
    def load(cls, directory: str | Path, **arguments: Any) -> Self:
        r"""
        Read what [`save`] wrote: codes and decoded embeddings are the same to the bit.

        Args:
            directory (`str` or `Path`):
                Folder that holds `file_name`.
            arguments:
                Arguments of the constructor that are not saved, such as the `device` of [`RQVAE`].

        Returns:
            [`Quantizer`]: Ready to [`encode`].
        """
        settings, arrays = _read(Path(directory) / cls.file_name, cls.__name__)
        levels = range(sum(name.startswith("level_") for name in arrays))
        centroids = [finite_matrix(arrays.pop(f"level_{level}")) for level in levels]
        sizes = [len(codebook) for codebook in centroids]
        quantizer = cls(**settings | {"level_sizes": sizes} | arguments)
        quantizer.centroids = centroids
        no_penalties = [np.zeros(size, dtype=np.float32) for size in sizes]
        quantizer.penalties = [arrays.pop(f"penalties_{level}", no_penalties[level]) for level in levels]
        quantizer.load_state(arrays)
        return quantizer

    def _projected(self, embeddings: np.ndarray) -> np.ndarray:
        self._check_fitted()
        matrix = as_matrix(embeddings)
        if matrix.shape[1] != self.dim:
            raise ValueError(
                f"Expected embeddings with {self.dim} columns, as in `fit`, found {matrix.shape[1]}. "
                "Embed these items with the model that embedded the others."
            )
        projected = self.project(matrix)
        return projected if projected is matrix else as_matrix(projected)

    def _sum_of_centroids(self, codes: np.ndarray) -> np.ndarray:
        self._check_fitted()
        codes = checked_codes(codes, self.level_sizes)
        total = np.zeros((len(codes), self.centroids[0].shape[1]), dtype=np.float32)
        for centroids, column in zip(self.centroids, codes.T):
            total += centroids[column]
        return total

    def _check_fitted(self) -> None:
        if not self.centroids:
            raise RuntimeError(
                f"Expected a fitted quantiser, found one without codebooks. Call `fit(embeddings)` or "
                f"`{type(self).__name__}.load(directory)`."
            )


def nearest_centroids(points: np.ndarray, centroids: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """Find the centroid of least squared distance plus penalty for each point, of shape `(points,)`."""
    if penalties.any():
        # A penalty is a squared distance along one more axis, on which all points are at 0: plain search applies.
        centroids = np.column_stack([centroids, np.sqrt(penalties)])
        points = np.column_stack([points, np.zeros(len(points), dtype=np.float32)])
    _, nearest = import_faiss().knn(points, np.ascontiguousarray(centroids, dtype=np.float32), 1)
    return nearest[:, 0]


def import_faiss():
    """Import faiss, or name the extra that installs it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'Quantisers need faiss, which is not installed. Install it with `pip install ".[sids]"` in a clone of the '
            "repository."
        ) from error
    return faiss


def _read(path: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the settings and arrays of a file written by `save` of the class called `name`."""
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected {path.name!r} in {str(path.parent)!r}, found no such file. Write it with "
            f"`{name}.save(directory)`."
        )
    check_listed(path)
    settings, arrays = read_arrays(path, "settings")
    if settings is None or "level_0" not in arrays:
        raise ValueError(
            f"Expected {path} to be what `{name}.save` writes, found a file of other tensors, {sorted(arrays)[:3]} "
            "among them. Name the folder that the quantiser was saved to."
        )
    return settings, arrays
