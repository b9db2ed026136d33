"""Recognise an encoder that does not read the texts it is given: different texts with equal vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np


logger = logging.getLogger(__name__)

# Cosine from which on two vectors are nearly equal: no codes could tell them apart by meaning.
NEARLY_EQUAL = 0.9999
# Share of items with the vector of a different text from which on the encoder is at fault.
MOST_EQUAL = 0.1
ADVICE = (
    "The encoder may not know their language: name a multilingual one, such as "
    "'sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2' or 'intfloat/multilingual-e5-small'."
)


def equal_vector_share(
    embeddings: np.ndarray, texts: Sequence[str] | None = None, num_queries: int = 1000, seed: int = 0
) -> float:
    r"""
    Share of items whose vector nearly equals that of an item with a different text.

    Args:
        embeddings (`np.ndarray` of shape `(items, dim)`):
            One vector an item.
        texts (`Sequence[str]`, *optional*):
            The texts behind the vectors. Without them all texts count as different.
        num_queries (`int`, *optional*, defaults to `1000`):
            Number of items that are compared with all others, sampled if there are more.
        seed (`int`, *optional*, defaults to `0`):
            Seed of that sample.

    Returns:
        `float`: The share; a cosine of 0.9999 is nearly equal.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.sids.distinctness import equal_vector_share

    >>> vectors = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> equal_vector_share(vectors), equal_vector_share(vectors, ["saw", "nail", "glue", "Glue"])
    (1.0, 0.5)
    ```
    """
    vectors = np.asarray(embeddings, dtype=np.float32)
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    keys = np.arange(len(units))
    if texts is not None:
        keys = np.unique([" ".join(text.split()).casefold() for text in texts], return_inverse=True)[1]
    queries = np.arange(len(units))
    if len(units) > num_queries:
        queries = np.sort(np.random.default_rng(seed).choice(len(units), num_queries, replace=False))
    found = 0
    for start in range(0, len(queries), 50):
        rows = queries[start : start + 50]
        alike = units[rows] @ units.T >= NEARLY_EQUAL  # (rows, items)
        found += int((alike & (keys[rows, None] != keys)).any(axis=1).sum())
    return found / max(1, len(queries))


def warn_of_equal_vectors(embeddings: np.ndarray, texts: Sequence[str] | None = None) -> float:
    """Returns [`equal_vector_share`], and logs a warning where it is above a tenth."""
    share = equal_vector_share(embeddings, texts)
    if share > MOST_EQUAL:
        logger.warning("%s", _message(share, texts is not None))
    return share


def refuse_equal_vectors(embeddings: np.ndarray, texts: Sequence[str] | None = None) -> None:
    """Raises `ValueError` where [`equal_vector_share`] is above a tenth: SIDs of such vectors would mean nothing."""
    share = equal_vector_share(embeddings, texts)
    if share > MOST_EQUAL:
        raise ValueError(f"Expected different vectors for different texts. {_message(share, texts is not None)}")


def _message(share: float, texts_known: bool) -> str:
    other = "a different text" if texts_known else "another item, perhaps one of the same text"
    return f"{share:.0%} of the items have nearly the vector of {other}, so that their codes cannot differ. {ADVICE}"
