"""
Rewards that compare the codes of generated SIDs with those of the target. They are functions of two integer arrays, so
that no difference in spelling can silently match nothing. A row of codes with a negative number is no SID, and a miss.
"""

from collections.abc import Sequence

import numpy as np

from tsrec_hf.models.checking_tsrec import checks_types


@checks_types
def exact_match_reward(codes: np.ndarray, target_codes: np.ndarray, **kwargs) -> list[float]:
    r"""
    1 for the target's SID, 0 for any other.

    Args:
        codes (`np.ndarray` of shape `(completions, levels)`):
            Codes of the generated SIDs.
        target_codes (`np.ndarray` of shape `(completions, levels)`):
            Codes of the target of each completion's prompt.
        kwargs (*optional*):
            Whatever else a trainer passes to rewards; not used.

    Returns:
        `list[float]`: One reward per completion.

    Example:

    ```python
    >>> from tsrec_hf import exact_match_reward

    >>> exact_match_reward([[0, 1], [0, 2]], [[0, 1], [0, 1]])
    [1.0, 0.0]
    ```
    """
    codes, target_codes = as_codes(codes, target_codes)
    return (codes == target_codes).all(axis=1).astype(float).tolist()


@checks_types
def prefix_reward(
    codes: np.ndarray,
    target_codes: np.ndarray,
    level_weights: Sequence[float] | None = None,
    per_level: bool = False,
    **kwargs,
) -> list[float] | list[list[float]]:
    r"""
    Share of the levels that match the target from the top: a level counts where it and all before it match.

    Args:
        codes (`np.ndarray` of shape `(completions, levels)`):
            Codes of the generated SIDs.
        target_codes (`np.ndarray` of shape `(completions, levels)`):
            Codes of the target of each completion's prompt.
        level_weights (`Sequence[float]`, *optional*):
            Weight of each level, at least 0; they are made to sum to 1. Defaults to equal weights.
        per_level (`bool`, *optional*, defaults to `False`):
            Whether to return what each level adds, for advantages of tokens.
        kwargs (*optional*):
            Whatever else a trainer passes to rewards; not used.

    Returns:
        `list[float]`: One reward from 0 to 1 per completion; or a list of one number per level for each.

    Example:

    ```python
    >>> from tsrec_hf import prefix_reward

    >>> prefix_reward([[0, 1], [0, 2], [3, 1]], [[0, 1]] * 3)
    [1.0, 0.5, 0.0]
    >>> prefix_reward([[0, 2]], [[0, 1]], level_weights=[3, 1], per_level=True)
    [[0.75, 0.0]]
    ```
    """
    codes, target_codes = as_codes(codes, target_codes)
    matched = np.cumprod(codes == target_codes, axis=1)
    rewards = matched * normalized_weights(level_weights, codes.shape[1])
    return rewards.tolist() if per_level else rewards.sum(axis=1).tolist()


@checks_types
def ranking_reward(codes: np.ndarray, target_codes: np.ndarray, num_generations: int, **kwargs) -> list[float]:
    r"""
    A penalty for misses in groups that hold the target, the larger the higher a miss is ranked: the rank-aware term of
    ReRe and MiniOneRec, which TS-Rec's RL stage uses beside the exact match.

    A miss at rank `r` (1 for the group's first) gets `-(1 / log2(r + 1)) / Z`, where `Z` is the sum of
    `1 / log2(r + 1)` over all ranks of the group; the target gets 0. A group without the target gets 0 throughout.

    Args:
        codes (`np.ndarray` of shape `(completions, levels)`):
            Codes of the generated SIDs, group by group, the model's most probable first.
        target_codes (`np.ndarray` of shape `(completions, levels)`):
            Codes of the target of each completion's prompt.
        num_generations (`int`):
            Completions of a group.
        kwargs (*optional*):
            Whatever else a trainer passes to rewards; not used.

    Returns:
        `list[float]`: One reward from -1 to 0 per completion.

    Example:

    ```python
    >>> from tsrec_hf import ranking_reward

    >>> [round(r, 3) for r in ranking_reward([[0, 2], [0, 1], [3, 1]], [[0, 1]] * 3, num_generations=3)]
    [-0.469, 0.0, -0.235]
    ```
    """
    codes, target_codes = as_codes(codes, target_codes)
    if num_generations < 1 or len(codes) % num_generations:
        raise ValueError(
            f"Expected whole groups of num_generations={num_generations} completions, but found {len(codes)} of them. "
            "Pass the completions of every prompt in a row."
        )
    hits = (codes == target_codes).all(axis=1).reshape(-1, num_generations)
    discounts = 1 / np.log2(np.arange(num_generations) + 2)
    penalties = np.where(hits, 0.0, -discounts / discounts.sum())
    return np.where(hits.any(axis=1, keepdims=True), penalties, 0.0).flatten().tolist()


def as_codes(codes: np.ndarray, target_codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The door of all rewards on codes: both as integer arrays of one shape `(completions, levels)`, the rows of `codes`
    that are no SID with -1 at all levels, so that they match no target and half a SID earns nothing.

    Raises `TypeError` or `ValueError` for arrays of another form, and for targets that are no SID.
    """
    codes, target_codes = np.asarray(codes), np.asarray(target_codes)
    for name, array in (("codes", codes), ("target_codes", target_codes)):
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"Expected `{name}` as integers, but found {array.dtype}. SIDs as strings must be parsed.")
    if codes.ndim != 2 or codes.shape != target_codes.shape:
        raise ValueError(
            "Expected `codes` and `target_codes` of one shape (completions, levels), but found "
            f"{codes.shape} and {target_codes.shape}. Repeat the target for each completion of its prompt."
        )
    if (target_codes < 0).any():
        raise ValueError(
            f"Expected `target_codes` of at least 0, but found {target_codes.min()}. Take them from the SID index."
        )
    return np.where((codes < 0).any(axis=1, keepdims=True), -1, codes), target_codes


def normalized_weights(level_weights: Sequence[float] | None, num_levels: int) -> np.ndarray:
    """Weights of the levels, summing to 1. Raises `ValueError` for another number, negative ones, or a sum of 0."""
    weights = np.ones(num_levels) if level_weights is None else np.asarray(level_weights, dtype=float)
    if weights.shape != (num_levels,) or (weights < 0).any() or weights.sum() == 0:
        raise ValueError(
            f"Expected `level_weights` as {num_levels} numbers of at least 0, not all 0, but found {level_weights}."
        )
    return weights / weights.sum()
