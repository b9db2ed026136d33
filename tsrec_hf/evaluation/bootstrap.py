"""Whether one recommender is better than another, beyond what the choice of users explains."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from tsrec_hf.models.checking_tsrec import checks_types

from .metrics.ranks import gains_at_k, hits_at_k


GAINS = {"hr": hits_at_k, "ndcg": gains_at_k}
# Bound on the numbers drawn at a time: 64 MB of counts.
MAX_DRAWN = 8_000_000


class PairedDifference(NamedTuple):
    """
    The difference of two recommenders in one metric.

    Attributes:
        difference (`float`):
            The metric of `a` minus that of `b`, over all rows.
        low (`float`), high (`float`):
            Percentile interval of the difference over the resamples.
        share_above_zero (`float`):
            Share of the resamples in which `a` is better than `b`.
    """

    difference: float
    low: float
    high: float
    share_above_zero: float


@checks_types
def paired_bootstrap(
    ranks_a: torch.Tensor,
    ranks_b: torch.Tensor,
    metric: str = "ndcg@10",
    users: Sequence[str | int] | None = None,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    r"""
    Compares two recommenders on the same rows by a paired bootstrap over users.

    Each resample draws as many users as there are, with replacement, and takes the difference of the metric over
    their rows. Both recommenders get the same users, so the users' common difficulty cancels out.

    Args:
        ranks_a (`torch.Tensor` of shape `(num_rows,)`):
            0-based position of each row's target in the first recommender's list, `-1` when it is absent, as
            [`target_ranks`] and [`RecommendationEvaluator.ranks`] return it.
        ranks_b (`torch.Tensor` of shape `(num_rows,)`):
            The same of the second recommender, for the same rows in the same order.
        metric (`str`, *optional*, defaults to `"ndcg@10"`):
            `"ndcg@k"` or `"hr@k"`.
        users (`Sequence[str | int]`, *optional*):
            User of every row, for instance `dataset.test["user_id"]`: rows of one user are not independent, so they
            are drawn together. By default every row is a user of its own.
        num_resamples (`int`, *optional*, defaults to `10_000`):
            Number of resamples.
        confidence (`float`, *optional*, defaults to `0.95`):
            Share of the resamples inside the interval.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draws.

    Returns:
        [`PairedDifference`]: `difference`, `low`, `high` and `share_above_zero`.

    Raises:
        `ValueError`: ranks of different length, a metric of unknown name, `confidence` outside of 0 to 1, no resample.

    Example:

    ```python
    >>> import torch
    >>> from tsrec_hf.evaluation import paired_bootstrap

    >>> ranks_a, ranks_b = torch.tensor([0, 1, -1, 0] * 50), torch.tensor([0, 1, 2, -1] * 50)
    >>> result = paired_bootstrap(ranks_a, ranks_b, metric="hr@1")
    >>> result.difference, result.low > 0, result.share_above_zero
    (0.25, True, 1.0)
    ```
    """
    differences = _differences(ranks_a, ranks_b, metric)
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            "Expected at least one resample and a confidence between 0 and 1, but found "
            f"num_resamples={num_resamples}, confidence={confidence}. Pass, for example, `confidence=0.95`."
        )
    sums, sizes = _per_user(differences, users)
    # Users with equal sums and sizes are interchangeable, and ranks take few values: drawing how many users of each
    # kind are in a resample (a multinomial draw) has the same distribution as drawing user by user, and is cheap.
    kinds, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    generator = np.random.default_rng(seed)
    resampled = np.empty(num_resamples)
    step = max(1, MAX_DRAWN // len(counts))
    for start in range(0, num_resamples, step):
        size = min(step, num_resamples - start)
        drawn = generator.multinomial(len(sums), counts / len(sums), size=size)  # (size, kinds)
        totals, rows = kinds @ drawn.T
        resampled[start : start + size] = totals / rows
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(float(differences.mean()), float(low), float(high), float((resampled > 0).mean()))


def _differences(ranks_a: torch.Tensor, ranks_b: torch.Tensor, metric: str) -> np.ndarray:
    """Per row, the metric of `a` minus that of `b`; shape `(num_rows,)`."""
    named = re.fullmatch(r"(hr|ndcg)@(\d+)", metric)
    if named is None:
        raise ValueError(f"Expected `metric` as 'hr@k' or 'ndcg@k', but found {metric!r}. Pass, say, 'ndcg@10'.")
    if ranks_a.shape != ranks_b.shape:
        raise ValueError(
            f"Expected the ranks of two recommenders on the same rows, but found shapes {tuple(ranks_a.shape)} and "
            f"{tuple(ranks_b.shape)}. Evaluate both on the same split."
        )
    gains, k = GAINS[named[1]], int(named[2])
    return (gains(ranks_a, k).double() - gains(ranks_b, k).double()).cpu().numpy()


def _per_user(differences: np.ndarray, users: Sequence[str | int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the differences and number of rows of every user; both of shape `(num_users,)`."""
    if users is None:
        return differences, np.ones_like(differences)
    if len(users) != len(differences):
        raise ValueError(
            f"Expected the user of every row, but found {len(users)} users and {len(differences)} rows. Pass the "
            "column `user_id` of the split."
        )
    numbers = np.unique(list(users), return_inverse=True)[1]
    return np.bincount(numbers, weights=differences), np.bincount(numbers).astype(float)
