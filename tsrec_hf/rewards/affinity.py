"""Partial rewards for near misses: tokens of similar meaning, and items that people choose together."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from datasets import Dataset

from tsrec_hf.models import SIDIndex
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.semantics import TokenSemantics

from .accuracy import as_codes, normalized_weights


@checks_types
def description_similarities(
    semantics: TokenSemantics, sid_index: SIDIndex, embed: Callable[[Sequence[str]], np.ndarray]
) -> list[np.ndarray]:
    r"""
    Similarities of the tokens of each level, by the embeddings of their descriptions.

    Args:
        semantics ([`TokenSemantics`]):
            Description of every SID token.
        sid_index ([`SIDIndex`]):
            The tokens, level by level.
        embed (`Callable`):
            Gives one vector per text, as an array of shape `(texts, dim)`: `SentenceTransformer(...).encode`, or
            `mean_pooled_embeddings` with a model and a tokenizer.

    Returns:
        `list[np.ndarray]`: For each level, an array of shape `(tokens, tokens)` with 1 on its diagonal: the cosines,
        shifted and scaled so that the level's mean over pairs of different tokens is 0, and clipped at 0. A raw
        cosine would reward any answer, since all texts of a catalogue are somewhat similar.

    Raises:
        `KeyError`: a token without a description.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf import description_similarities

    >>> def embed(texts):
    ...     return np.array([[len(text), text.count("e")] for text in texts], dtype=float)
    >>> first, *_ = description_similarities(semantics, sid_index, embed)
    >>> first.shape, bool((first.diagonal() == 1).all())
    ((2, 2), True)
    ```
    """
    similarities = []
    for tokens in sid_index.tokens:
        vectors = np.asarray(embed([semantics[token].description for token in tokens]), dtype=np.float64)
        if vectors.shape[:1] != (len(tokens),) or vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise ValueError(
                f"Expected `embed` to give finite vectors of shape ({len(tokens)}, dim), but found {vectors.shape}."
            )
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        cosines = vectors @ vectors.T
        others = ~np.eye(len(tokens), dtype=bool)
        mean = cosines[others].mean() if others.any() else 0.0
        scaled = ((cosines - mean) / max(1 - mean, 1e-12)).clip(min=0, max=1)
        np.fill_diagonal(scaled, 1.0)
        similarities.append(scaled)
    return similarities


@checks_types
def semantic_reward(
    codes: np.ndarray,
    target_codes: np.ndarray,
    similarities: Sequence[np.ndarray],
    level_weights: Sequence[float] | None = None,
    per_level: bool = True,
    **kwargs,
) -> list[float] | list[list[float]]:
    r"""
    Similarity of each generated token's cluster to the target's at its level: the token-level reward that TS-Rec
    (arXiv 2602.22632) names as future work.

    Pass it to a trainer as `functools.partial(semantic_reward, similarities=description_similarities(...))`.

    Args:
        codes (`np.ndarray` of shape `(completions, levels)`):
            Codes of the generated SIDs.
        target_codes (`np.ndarray` of shape `(completions, levels)`):
            Codes of the target of each completion's prompt.
        similarities (`Sequence[np.ndarray]`):
            For each level, an array of shape `(tokens, tokens)`.
        level_weights (`Sequence[float]`, *optional*):
            Weight of each level, at least 0; they are made to sum to 1. Defaults to equal weights.
        per_level (`bool`, *optional*, defaults to `True`):
            Whether to return the reward of each level, for advantages of tokens, or their sum. Below the first level,
            a token refines its prefix: the same code under another prefix means something else, so that only the
            first level counts, and those whose prefix is the target's.
        kwargs (*optional*):
            Whatever else a trainer passes to rewards; not used.

    Returns:
        `list[list[float]]` or `list[float]`: One number per level for each completion, or their sum.

    Example:

    ```python
    >>> import numpy as np
    >>> from tsrec_hf import semantic_reward

    >>> similarities = [np.array([[1.0, 0.5], [0.5, 1.0]]), np.eye(2)]
    >>> semantic_reward([[0, 1], [1, 1], [0, 0]], [[0, 1]] * 3, similarities)
    [[0.5, 0.5], [0.25, 0.0], [0.5, 0.0]]
    >>> semantic_reward([[1, 1]], [[0, 1]], similarities, per_level=False)
    [0.25]
    ```
    """
    codes, target_codes = as_codes(codes, target_codes)
    if len(similarities) != codes.shape[1]:
        raise ValueError(
            f"Expected similarities for {codes.shape[1]} levels, but found {len(similarities)}. Make them with "
            "`description_similarities` from the same SID index."
        )
    weights = normalized_weights(level_weights, codes.shape[1])
    values = np.stack(
        [np.asarray(matrix)[codes[:, level], target_codes[:, level]] for level, matrix in enumerate(similarities)],
        axis=1,
    )
    values[codes < 0] = 0.0  # -1 is not the last code
    same_prefix = np.ones_like(values)
    same_prefix[:, 1:] = np.cumprod(codes == target_codes, axis=1)[:, :-1]
    rewards = values * same_prefix * weights
    return rewards.tolist() if per_level else rewards.sum(axis=1).tolist()


@checks_types
def collaborative_reward(
    items: Sequence[Sequence[str]], target: Sequence[str], table: Mapping[str, Mapping[str, float]], **kwargs
) -> list[float]:
    r"""
    The affinity of a generated item to the target, looked up in a table: from another recommender, or from counts
    ([`companions`]).

    Pass it to a trainer as `functools.partial(collaborative_reward, table=table)`.

    Args:
        items (`Sequence[Sequence[str]]`):
            For each completion, the items that carry the generated SID; the best score among them counts.
        target (`Sequence[str]`):
            For each completion, the target item of its prompt.
        table (`Mapping[str, Mapping[str, float]]`):
            `table[target][item]`; 0 where absent.
        kwargs (*optional*):
            Whatever else a trainer passes to rewards; not used.

    Returns:
        `list[float]`: One reward per completion.

    Example:

    ```python
    >>> from tsrec_hf import collaborative_reward

    >>> table = {"hammer": {"hammer": 1.0, "nail": 0.5}}
    >>> collaborative_reward([["nail", "screw"], ["apple"]], ["hammer", "hammer"], table)
    [0.5, 0.0]
    ```
    """
    if len(items) != len(target):
        raise ValueError(f"Expected a target for each of {len(items)} completions, but found {len(target)}.")
    scores = [table.get(wanted, {}) for wanted in target]
    return [max((row.get(item, 0.0) for item in found), default=0.0) for row, found in zip(scores, items)]


def companions(train: Dataset) -> dict[str, dict[str, float]]:
    r"""
    How often items occur in the histories of a target, as a table for [`collaborative_reward`].

    Args:
        train (`datasets.Dataset`):
            Rows with `history` and `target`.

    Returns:
        `dict[str, dict[str, float]]`: `[target][item]`: the number of rows with this target whose history holds the
        item, divided by the largest such number of the target; 1 for the target itself.

    Example:

    ```python
    >>> from tsrec_hf.rewards import companions

    >>> companions(dataset.train)["saw"]
    {'hammer': 1.0, 'nail': 1.0, 'saw': 1.0}
    ```
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for history, target in zip(train["history"][:], train["target"][:]):
        counts[target].update(sorted(set(history) - {target}))
    return {
        target: {item: count / max(beside.values()) for item, count in beside.items()} | {target: 1.0}
        for target, beside in counts.items()
    }
