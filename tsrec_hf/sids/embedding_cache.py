"""A cache of vectors on disk, keyed by content: a killed run resumes, and nothing is embedded twice."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .shared_file import append


logger = logging.getLogger(__name__)

KEY_BYTES = 32


class EmbeddingCache:
    r"""
    Store unit-length vectors in a file, each under the hash of the content it was made from.

    The file is a sequence of records of one size: 32 bytes of key, then the vector as float32, little-endian. New
    vectors are appended and are on disk when [`add`] returns; several processes may share the file. A truncated last
    record, after a kill or on a full disk, counts for nothing; any other record that holds no unit vector is an error.

    Args:
        path (`str` or `Path`):
            The file, created with the first vector. One file holds the vectors of one model.
        dim (`int`):
            Width of the vectors.

    Example:

    ```python
    >>> import hashlib, tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from tsrec_hf.sids.embedding_cache import EmbeddingCache

    >>> path = Path(tempfile.mkdtemp(), "minilm.vectors")
    >>> key = hashlib.sha256(b"claw hammer").digest()
    >>> EmbeddingCache(path, dim=2).add([key], np.array([[0.6, 0.8]]))
    >>> EmbeddingCache(path, dim=2).get(key).tolist() == np.float32([0.6, 0.8]).tolist()  # read again from disk
    True
    ```
    """

    def __init__(self, path: str | Path, dim: int) -> None:
        self.path = Path(path)
        self.dim = dim
        self._record = np.dtype([("key", f"V{KEY_BYTES}"), ("vector", "<f4", (dim,))])
        self._vectors: dict[bytes, np.ndarray] = {}
        if self.path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._vectors)

    def __contains__(self, key: bytes) -> bool:
        return key in self._vectors

    def get(self, key: bytes) -> np.ndarray | None:
        """Look up the vector of `key`, of shape `(dim,)`; `None` if there is none."""
        return self._vectors.get(key)

    def add(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Append vectors of shape `(len(keys), dim)`; they are on disk when this returns."""
        records = np.empty(len(keys), dtype=self._record)
        records["key"] = np.array([np.void(key) for key in keys], dtype=f"V{KEY_BYTES}")
        records["vector"] = vectors
        append(self.path, records.tobytes(), self._record.itemsize)
        self._vectors.update(zip(keys, records["vector"]))

    def _read(self) -> None:
        if self.path.is_dir():
            raise ValueError(f"Expected a file for the cache at {self.path}, but found a folder. Name a file in it.")
        content = self.path.read_bytes()
        whole = len(content) - len(content) % self._record.itemsize
        records = np.frombuffer(content[:whole], dtype=self._record)
        norms = np.linalg.norm(records["vector"], axis=1)
        # Also true of NaN. This finds files of another width or kind: the file has no header to tell.
        strange = ~(np.abs(norms - 1) < 1e-3)
        if strange.any():
            raise ValueError(
                f"Expected unit vectors of width {self.dim} in the cache {self.path}, but {int(strange.sum())} of "
                f"{len(records)} records are none, first record {int(strange.argmax())}. Remove the file to embed "
                "again, or name another folder for the cache."
            )
        self._vectors = dict(zip((key.tobytes() for key in records["key"]), records["vector"]))
        if whole < len(content):
            # Another process may be writing it; if not, whoever appends next removes it.
            logger.info("%s: the last vector is truncated and will be computed again.", self.path)
