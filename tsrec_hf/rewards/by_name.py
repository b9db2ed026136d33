"""The rewards of this package by their names, as command lines and configuration files choose them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset

from tsrec_hf.models import SIDIndex
from tsrec_hf.semantics import TokenSemantics

from .accuracy import exact_match_reward, prefix_reward, ranking_reward
from .affinity import collaborative_reward, companions, description_similarities, semantic_reward


REWARDS = ("exact_match", "ranking", "prefix", "semantic", "collaborative")


def rewards_by_name(
    names: Sequence[str],
    level_weights: Sequence[float] | None = None,
    per_level: bool = False,
    sid_index: SIDIndex | None = None,
    semantics: TokenSemantics | None = None,
    embed: Callable[[Sequence[str]], np.ndarray] | None = None,
    train: Dataset | None = None,
) -> list[Callable]:
    r"""
    Makes reward functions, each with the tables that it needs.

    Args:
        names (`Sequence[str]`):
            Among `"exact_match"`, `"ranking"`, `"prefix"`, `"semantic"` and `"collaborative"`, each once.
        level_weights (`Sequence[float]`, *optional*):
            Weights of the levels in `"prefix"` and `"semantic"`.
        per_level (`bool`, *optional*, defaults to `False`):
            Whether these two give a number for each level, for advantages of tokens.
        sid_index ([`SIDIndex`], *optional*):
            The catalogue, for `"semantic"`.
        semantics ([`TokenSemantics`], *optional*):
            Descriptions of its tokens, for `"semantic"`.
        embed (`Callable`, *optional*):
            Embeds these, as in [`description_similarities`].
        train (`datasets.Dataset`, *optional*):
            Rows with `history` and `target` that `"collaborative"` counts.

    Returns:
        `list[Callable]`: The functions, in the order of their names.

    Raises:
        `ValueError`: an unknown name or one named twice; a reward without what it needs.

    Example:

    ```python
    >>> from tsrec_hf.rewards import rewards_by_name

    >>> match, prefix = rewards_by_name(["exact_match", "prefix"], level_weights=[3, 1])
    >>> match([[0, 2]], [[0, 1]]), prefix([[0, 2]], [[0, 1]])
    ([0.0], [0.75])
    ```
    """
    if not names or len(set(names)) < len(names) or not set(names) <= set(REWARDS):
        raise ValueError(f"Expected `rewards` among {REWARDS}, each once, but found {list(names)}.")
    levels: dict[str, Any] = {"level_weights": level_weights, "per_level": per_level}
    functions: dict[str, Callable] = {
        "exact_match": exact_match_reward,
        "ranking": ranking_reward,
        "prefix": partial(prefix_reward, **levels),
    }
    if "semantic" in names:
        if sid_index is None or semantics is None or embed is None:
            raise ValueError(
                "Expected `sid_index`, `semantics` and `embed` for the reward 'semantic'. Pass all three."
            )
        similarities = description_similarities(semantics, sid_index, embed)
        functions["semantic"] = partial(semantic_reward, similarities=similarities, **levels)
    if "collaborative" in names:
        if train is None:
            raise ValueError("Expected `train`, rows to count, for the reward 'collaborative'. Pass the train split.")
        functions["collaborative"] = partial(collaborative_reward, table=companions(train))
    return [functions[name] for name in names]
