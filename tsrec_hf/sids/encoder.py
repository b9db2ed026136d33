"""A sentence-transformers model behind a cache: unit vectors of texts and images, equal ones embedded once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .embedding_cache import EmbeddingCache
from .progress import progress_bar


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

# Batches after which new vectors are written to the cache: what a killed run can lose.
BATCHES_BETWEEN_WRITES = 4


class CachedEncoder:
    r"""
    Encode texts and images with one model, and keep the vectors by content.

    The cache belongs to the model's weights and settings. Hashing them reads every weight, so it is done once, in the
    first [`encode`]: the model must not change after that.

    Args:
        model (`SentenceTransformer` or `str`):
            The model, its Hub id or its folder.
        batch_size (`int`):
            Texts or images in one forward pass.
        cache_dir (`str` or `Path`, *optional*):
            Folder with a file of vectors a model.

    Example:

    ```python
    >>> from sentence_transformers import SentenceTransformer
    >>> from sentence_transformers.sentence_transformer.modules import BoW
    >>> from tsrec_hf.sids.encoder import CachedEncoder

    >>> model = SentenceTransformer(modules=[BoW(["hammer", "steel"])], device="cpu")  # counts words
    >>> CachedEncoder(model, batch_size=2).encode([["hammer", None], ["steel"]], num_items=3, name="title")
    array([[1., 0.],
           [0., 0.],
           [0., 1.]], dtype=float32)
    ```
    """

    def __init__(self, model: SentenceTransformer | str, batch_size: int, cache_dir: str | Path | None = None) -> None:
        self.model = _loaded(model)
        self.stretch = batch_size * BATCHES_BETWEEN_WRITES
        self._batch_size = batch_size
        dim = self.model.get_embedding_dimension()
        if dim is None:
            raise ValueError(
                "Expected a model that knows the width of its vectors, but `get_embedding_dimension()` is `None`. "
                "Pass a model that ends in a module with a width, such as pooling."
            )
        self.dim = dim
        self._cache_dir = cache_dir

    @cached_property
    def _cache(self) -> EmbeddingCache | None:
        if self._cache_dir is None:
            return None
        return EmbeddingCache(Path(self._cache_dir, f"{_identity(self.model)}.vectors"), self.dim)

    def encode(self, chunks: Iterable[list[Any]], num_items: int, name: str) -> np.ndarray:
        """
        Encode texts or images that come in chunks.

        Args:
            chunks (`Iterable[list]`):
                Texts (`str`) or RGB images (PIL), `None` for an item that has none. Only one chunk is held at a time.
            num_items (`int`):
                Number of entries in all chunks together.
            name (`str`):
                Column that they come from, for the progress bar and errors.

        Returns:
            `np.ndarray` of shape `(num_items, dim)`: float32 unit vectors, zeros for `None`.
        """
        made: dict[bytes, np.ndarray] = {}
        keys: list[bytes | None] = []
        with progress_bar(total=num_items, desc=f"Embedding {name}", unit="item") as progress:
            for chunk in chunks:
                chunk_keys = [None if content is None else _key(content) for content in chunk]
                keys += chunk_keys
                contents = {key: content for key, content in zip(chunk_keys, chunk) if key is not None}
                if self._cache is not None:
                    made |= {key: vector for key in contents if (vector := self._cache.get(key)) is not None}
                new = {key: content for key, content in contents.items() if key not in made}
                # Rows that need no work count at once, so that the bar's speed is that of the model.
                progress.update(len(chunk) - len(new))
                for stretch, vectors in self._encode_new(new, name):
                    made |= zip(stretch, vectors)
                    progress.update(len(stretch))
        nothing = np.zeros(self.dim, dtype=np.float32)
        return np.stack([nothing if key is None else made[key] for key in keys])

    def _encode_new(self, contents: dict[bytes, Any], name: str) -> Iterator[tuple[list[bytes], np.ndarray]]:
        """Run the model; keys and vectors of a few batches at a time, which are in the cache by then."""
        self._tell_of_truncation([content for content in contents.values() if isinstance(content, str)], name)
        # Texts of like length share a batch, across stretches too: padding is computed like text.
        keys = sorted(contents, key=lambda key: -len(contents[key]) if isinstance(contents[key], str) else 0)
        for start in range(0, len(keys), self.stretch):
            stretch = keys[start : start + self.stretch]
            vectors = self.model.encode(
                [contents[key] for key in stretch],
                batch_size=self._batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
                normalize_embeddings=True,
            )
            vectors = np.asarray(vectors, dtype=np.float32)
            _check_vectors(vectors, [contents[key] for key in stretch], name)
            if self._cache is not None:
                self._cache.add(stretch, vectors)
            yield stretch, vectors

    def _tell_of_truncation(self, texts: list[str], name: str) -> None:
        """Log how many texts are longer than the model reads; it truncates them without a word."""
        limit = self.model.max_seq_length
        if limit is None or not isinstance(self.model.tokenizer, PreTrainedTokenizerBase):
            return
        # A token has at least one byte: whatever has fewer bytes need not be counted.
        long = [text for text in texts if len(text.encode(errors="replace")) >= limit]
        if not long:
            return
        num_cut = sum(len(ids) > limit for ids in self.model.tokenizer(long, verbose=False)["input_ids"])
        if num_cut:
            logger.info("%d texts of %r have more than the %d tokens that the encoder reads.", num_cut, name, limit)


def _loaded(model: SentenceTransformer | str) -> SentenceTransformer:
    if not isinstance(model, str):
        return model
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            "`embed_items` needs sentence-transformers, which is not installed. Install it with "
            '`pip install ".[sids]"` in a clone of the repository.'
        ) from error
    return SentenceTransformer(model)


def _key(content: Any) -> bytes:
    if isinstance(content, str):
        return hashlib.sha256(b"text\0" + content.encode()).digest()
    return hashlib.sha256(b"image\0" + repr(content.size).encode() + content.tobytes()).digest()


def _identity(model: SentenceTransformer) -> str:
    """Hash a model's weights and the settings that change its vectors."""
    settings = [repr(model), model.max_seq_length, model.prompts, model.default_prompt_name, model.truncate_dim]
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _check_vectors(vectors: np.ndarray, contents: list[Any], name: str) -> None:
    # Fails where half precision overflows, and where the model knows no word of a text.
    bad = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-2)
    if bad.any():
        content = contents[int(bad.argmax())]
        raise ValueError(
            f"Expected a finite vector other than zero for every entry of {name!r}, but the model gave none for "
            f"{int(bad.sum())} of them, for example {repr(content)[:80]}. Load the model in float32, or leave such "
            "texts empty."
        )
