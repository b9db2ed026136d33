"""Metrics of the rank at which the one relevant item of a row was recommended."""

from collections.abc import Sequence

import torch

from tsrec_hf.models.checking_tsrec import checks_types


def target_ranks(recommended: Sequence[Sequence[str]], targets: Sequence[str]) -> torch.Tensor:
    r"""
    Position of each row's target in its list of recommendations.

    Args:
        recommended (`Sequence[Sequence[str]]`):
            A list per row, best first: item ids, or SIDs.
        targets (`Sequence[str]`):
            One target per row, of the same kind.

    Returns:
        `torch.Tensor` of shape `(num_rows,)`: 0-based position of the target; `-1` when it is absent.

    Example:

    ```python
    >>> from tsrec_hf.evaluation import target_ranks

    >>> target_ranks([["nut", "bolt"], ["saw"]], ["bolt", "nut"])
    tensor([ 1, -1])
    ```
    """
    if len(recommended) != len(targets):
        raise ValueError(
            f"Expected one list of recommendations per target, but found {len(recommended)} lists and {len(targets)} "
            "targets. Recommend for every row, in the order of the rows."
        )
    ranks = [items.index(target) if target in items else -1 for items, target in zip(recommended, targets)]
    return torch.tensor(ranks, dtype=torch.long)


@checks_types
def hit_rate_at_k(ranks: torch.Tensor, k: int) -> torch.Tensor:
    r"""
    Share of rows whose target is among the first `k` recommendations.

    Args:
        ranks (`torch.Tensor` of shape `(num_rows,)`):
            0-based position of the target in each list; `-1` when it is absent.
        k (`int`):
            Cut-off: position `k` and later count as a miss.

    Returns:
        `torch.Tensor` of shape `()`: Mean over rows of `1` for a hit, `0` for a miss.

    Example:

    ```python
    >>> import torch
    >>> from tsrec_hf.evaluation import hit_rate_at_k

    >>> hit_rate_at_k(torch.tensor([0, 1, -1]), k=1)
    tensor(0.3333)
    ```
    """
    return hits_at_k(ranks, k).mean()


@checks_types
def ndcg_at_k(ranks: torch.Tensor, k: int) -> torch.Tensor:
    r"""
    Discounted gain of the one relevant item, averaged over rows.

    With one relevant item the ideal gain is 1, so this is the normalised gain.

    Args:
        ranks (`torch.Tensor` of shape `(num_rows,)`):
            0-based position of the target in each list; `-1` when it is absent.
        k (`int`):
            Cut-off: position `k` and later count as a miss.

    Returns:
        `torch.Tensor` of shape `()`: Mean of `1 / log2(rank + 2)` over rows, `0` for a miss.

    Example:

    ```python
    >>> import torch
    >>> from tsrec_hf.evaluation import ndcg_at_k

    >>> ndcg_at_k(torch.tensor([0, 1, -1]), k=10)
    tensor(0.5436)
    ```
    """
    return gains_at_k(ranks, k).mean()


def hits_at_k(ranks: torch.Tensor, k: int) -> torch.Tensor:
    """Per row, `1` where the target is among the first `k`, else `0`; shape `(num_rows,)`."""
    return _within(ranks, k).float()


def gains_at_k(ranks: torch.Tensor, k: int) -> torch.Tensor:
    """Per row, `1 / log2(rank + 2)` where the target is among the first `k`, else `0`; shape `(num_rows,)`."""
    gains = 1.0 / torch.log2(ranks.clamp(min=0) + 2.0)
    return torch.where(_within(ranks, k), gains, 0.0)


def _within(ranks: torch.Tensor, k: int) -> torch.Tensor:
    """Which ranks are within the cut-off, as a mask of shape `(num_rows,)`."""
    if k < 1:
        raise ValueError(f"Expected a cut-off of at least 1, but found k={k}.")
    if ranks.ndim != 1 or ranks.numel() == 0:
        raise ValueError(
            f"Expected ranks of shape (num_rows,) with at least one row, but found shape {tuple(ranks.shape)}. The "
            "mean over no rows is undefined: leave an empty slice out."
        )
    return (ranks >= 0) & (ranks < k)
