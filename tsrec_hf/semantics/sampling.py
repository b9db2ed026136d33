"""Sample the items of a cluster for a teacher's prompt: representative, diverse, and within a token budget."""

from collections.abc import Callable, Sequence

import numpy as np

from .words import cut_at_word


# Weight of the similarity to earlier picks in maximal marginal relevance; the similarity to the centroid has the rest.
DIVERSITY = 0.5


def rank_by_typicality(embeddings: np.ndarray, num_ranked: int = 64) -> np.ndarray:
    r"""
    Ranks the items of a cluster by maximal marginal relevance to its centroid.

    The item nearest to the centroid is first. Each next one maximises `0.5 * cos(item, centroid) - 0.5 * max cos(item,
    earlier pick)`, so that near duplicates of an item do not fill a teacher's prompt.

    Args:
        embeddings (`np.ndarray` of shape `(items, dim)`):
            One finite vector per item; it need not be normalised.
        num_ranked (`int`, *optional*, defaults to `64`):
            Number of picks; the other items follow by their similarity to the centroid.

    Returns:
        `np.ndarray` of shape `(items,)`: Positions of all items, int64.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf.semantics import rank_by_typicality

    >>> rank_by_typicality(np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [1.0, 0.05]]))  # 0, 1 and 3 are alike
    array([0, 2, 3, 1])
    ```
    """
    embeddings = np.asarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise ValueError(
            f"Expected finite embeddings of shape (items, dim), found shape {embeddings.shape} with "
            f"{int((~np.isfinite(embeddings)).sum())} values that are not finite. Embed the items again."
        )
    units = _normalized(embeddings)
    typicality = units @ _normalized(units.mean(axis=0, keepdims=True))[0]  # (items,)
    nearest = np.full(len(units), -1.0, dtype=np.float32)  # cosine to the nearest pick
    is_picked = np.zeros(len(units), dtype=bool)
    picks: list[int] = []
    for _ in range(min(num_ranked, len(units))):
        score = (1 - DIVERSITY) * typicality - DIVERSITY * nearest
        score[is_picked] = -np.inf
        pick = int(score.argmax())
        picks.append(pick)
        is_picked[pick] = True
        np.maximum(nearest, units @ units[pick], out=nearest)
    rest = np.flatnonzero(~is_picked)
    rest = rest[np.argsort(-typicality[rest], kind="stable")]
    return np.concatenate([np.array(picks, dtype=np.int64), rest])


def fill_budget(
    texts: Sequence[str], budget: int, count_tokens: Callable[[str], int], max_texts: int | None = None
) -> list[str]:
    r"""
    Selects distinct texts in order until the token budget is used.

    A text that does not fit is skipped, and shorter ones after it may be taken. If none fits, the first one is
    truncated by halves, at a word, until it does, so that a prompt is never empty.

    Args:
        texts (`Sequence[str]`):
            Texts, most representative first. Empty ones are skipped.
        budget (`int`):
            Maximum total number of tokens.
        count_tokens (`Callable[[str], int]`):
            Function that counts the tokens of a text.
        max_texts (`int`, *optional*):
            Maximum number of texts. No limit by default.

    Returns:
        `list[str]`: The selected texts; none only if all are empty.

    Example:

    ```python
    >>> from tsrec_hf.semantics import fill_budget

    >>> texts = ["hex bolt", "hex bolt", "a very long text", "nut"]
    >>> fill_budget(texts, budget=3, count_tokens=lambda text: len(text.split()))
    ['hex bolt', 'nut']
    ```
    """
    taken: list[str] = []
    distinct = [text for text in dict.fromkeys(texts) if text]
    for text in distinct:
        if budget <= 0 or len(taken) == max_texts:
            break
        size = count_tokens(text)
        if size <= budget:
            taken.append(text)
            budget -= size
    if not taken and distinct:
        text = distinct[0]
        while len(text) > 1 and count_tokens(text) > budget:
            text = cut_at_word(text, len(text) // 2)
        taken.append(text)
    return taken


def _normalized(vectors: np.ndarray) -> np.ndarray:
    # A zero vector stays zero: its similarity to every item is 0.
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
