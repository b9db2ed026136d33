"""
Item embeddings by what users took them with: semantic IDs that follow behaviour, where texts say little.

Beside a text embedding they make collaborative semantic IDs, as in LETTER (arXiv 2405.07314): items that follow each
other in histories share first tokens, so that a model learns transitions of few tokens instead of many items.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tsrec_hf.models import NextItemPrior, SIDIndex
from tsrec_hf.models.checking_tsrec import checks_types

from .checks import as_matrix


# Passes of the randomised decomposition: past them the subspace of a catalogue's counts hardly moves.
SVD_PASSES = 4
# Part of the largest singular value below which a vector is rounding error.
ROUNDING = 1e-5


@checks_types
def embed_interactions(
    interactions: Any, item_ids: Sequence[str], dim: int = 48, gap_decay: float = 0.8, shrinkage: float = 5.0
) -> np.ndarray:
    r"""
    Embed items by their neighbours in histories: the truncated singular vectors of the positive pointwise mutual
    information of pairs of items, which is what word2vec factorises implicitly.

    Pairs are counted as [`NextItemPrior`] counts them, in both directions alike.

    Args:
        interactions (`datasets.Dataset`):
            Training rows with `history` (item ids, oldest first) and `target`. Rows of validation or test would leak
            what is to be predicted into the SIDs.
        item_ids (`Sequence[str]`):
            The catalogue.
        dim (`int`, *optional*, defaults to `48`):
            Width of the vectors, at most the number of items.
        gap_decay (`float`, *optional*, defaults to `0.8`):
            Weight of a pair per item in between.
        shrinkage (`float`, *optional*, defaults to `5`):
            Added to an item's count before it divides its pairs: items of few pairs stay close to none.

    Returns:
        `np.ndarray` of shape `(items, dim)`: float32 vectors of unit length in the order of `item_ids`; zeros for
        items without a pair that says more than chance, which [`fill_from_neighbours`] fills.

    Raises:
        `ValueError`: a width below 1 or above the number of items. `KeyError`: an item that is not in `item_ids`.

    Example:

    ```python
    >>> from tsrec_hf import embed_interactions

    >>> vectors = embed_interactions(dataset.train, sid_index.item_ids, dim=4, shrinkage=0.0)
    >>> vectors.shape
    (8, 4)
    >>> hammer, nail, bread = (vectors[sid_index.position_of(item)] for item in ("hammer", "nail", "bread"))
    >>> bool(hammer @ nail > hammer @ bread)
    True
    ```
    """
    num_items = len(item_ids)
    if not 1 <= dim <= num_items:
        raise ValueError(f"Expected `dim` of 1 to {num_items}, the number of items, but found {dim}. Lower it.")
    # Codes that only number the items: counting needs their order alone.
    plain = SIDIndex(item_ids, np.stack([np.zeros(num_items), np.arange(num_items)], axis=1).astype(np.int32))
    kept: dict[str, Any] = {"transposed": 1.0, "normalization": 1.0, "max_successors": num_items}
    counted = NextItemPrior.fit(interactions, plain, gap_decay=gap_decay, shrinkage=shrinkage, **kept)
    rows = np.repeat(np.arange(num_items), np.diff(counted.offsets))
    # Shares of each item among all pairs: what a row would hold were its item like any other.
    share = np.bincount(counted.successors, weights=counted.values, minlength=num_items)
    share = share / max(share.sum(), np.finfo(np.float64).tiny)
    information = np.log(np.maximum(counted.values / share[counted.successors], 1.0))
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([rows, counted.successors])),
        torch.from_numpy(information.astype(np.float32)),
        (num_items, num_items),
        check_invariants=True,
    ).coalesce()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        left, scale, _ = torch.svd_lowrank(matrix, q=dim, niter=SVD_PASSES)
    vectors = left * scale
    # What rounding leaves in the row of an item without information would become a unit vector of noise.
    vectors[vectors.norm(dim=-1) < ROUNDING * scale.max()] = 0
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


@checks_types
def fill_from_neighbours(vectors: np.ndarray, texts: np.ndarray, num_neighbours: int = 10) -> np.ndarray:
    r"""
    Gives items without interactions, new ones among them, the mean vector of the items whose texts are nearest.

    Args:
        vectors (`np.ndarray` of shape `(items, dim)`):
            Embeddings from [`embed_interactions`]; rows of zeros are filled.
        texts (`np.ndarray` of shape `(items, width)`):
            Text embeddings of the same items, from [`embed_items`].
        num_neighbours (`int`, *optional*, defaults to `10`):
            Nearest items, by cosine, that are averaged, each times its similarity.

    Returns:
        `np.ndarray` of shape `(items, dim)`: A copy with unit vectors in the rows that were zeros.

    Raises:
        `ValueError`: another number of texts than of vectors, no item with interactions.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf import fill_from_neighbours

    >>> vectors, texts = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    >>> fill_from_neighbours(vectors, texts, num_neighbours=1)[2]
    array([0., 1.], dtype=float32)
    ```
    """
    filled, texts = as_matrix(vectors).copy(), as_matrix(texts)
    empty = ~filled.any(axis=1)
    if len(texts) != len(filled) or empty.all():
        raise ValueError(
            f"Expected a text for each of {len(filled)} vectors, some of them not zero, but found {len(texts)} texts "
            f"and {int(empty.sum())} vectors of zeros. Pass the embeddings of one catalogue, and its training rows."
        )
    unit = torch.nn.functional.normalize(torch.from_numpy(texts), dim=-1)
    without = torch.from_numpy(empty)
    similarity = unit[without] @ unit[~without].T
    nearest = similarity.topk(min(num_neighbours, similarity.shape[1]), dim=-1)
    known = torch.from_numpy(filled[~empty])
    means = (nearest.values.clamp(min=1e-6).unsqueeze(-1) * known[nearest.indices]).sum(1)
    filled[empty] = torch.nn.functional.normalize(means, dim=-1).numpy()
    return filled


@checks_types
def join_collaborative(embeddings: np.ndarray, vectors: np.ndarray, weight: float) -> np.ndarray:
    r"""
    Joins embeddings of contents with those of interactions: their cosine is the weighted mean of both cosines.

    Items without interactions get the vector of the items whose contents are nearest, as [`fill_from_neighbours`]
    gives it, so that new items stand where similar ones do.

    Args:
        embeddings (`np.ndarray` of shape `(items, dim)`):
            Embeddings of the items' contents, from [`embed_items`].
        vectors (`np.ndarray` of shape `(items, width)`):
            Embeddings of the same items, from [`embed_interactions`].
        weight (`float`):
            Weight of the latter relative to the former, at least 0.

    Returns:
        `np.ndarray` of shape `(items, dim + width)`: float32 vectors.

    Raises:
        `ValueError`: another number of embeddings than of vectors, a weight that is negative or not finite.

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
            f"Expected one vector an embedding and a finite weight of at least 0, found {len(vectors)} vectors, "
            f"{len(embeddings)} embeddings and {weight}. Pass both in the order of the items."
        )
    scales = np.sqrt(np.array([1.0, weight]) / (1.0 + weight)).astype(np.float32)
    filled = fill_from_neighbours(vectors, embeddings)
    return np.concatenate([embeddings * scales[0], filled * scales[1]], axis=1)
