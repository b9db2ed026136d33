"""What `recommend(prior=...)` takes besides prior objects: arrays, mappings, callables; and mixtures of priors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .indexing_tsrec import SIDIndex
from .item_prior_tsrec import ItemPrior, PriorWeights


class MixedPrior(ItemPrior):
    r"""
    A weighted sum of priors.

    Args:
        priors (`Sequence[ItemPrior]`):
            Priors of one index.
        shares (`Sequence[float]`):
            Weight of each, at least 0.

    Example:

    ```python
    >>> from tsrec_hf import NextItemPrior, PopularityPrior
    >>> from tsrec_hf.models.given_priors_tsrec import MixedPrior

    >>> priors = [NextItemPrior.fit(dataset.train, sid_index), PopularityPrior.fit(dataset.train, sid_index)]
    >>> MixedPrior(priors, [1.0, 0.3]).log_weights([["hammer"]]).shape
    torch.Size([1, 8])
    ```
    """

    def __init__(self, priors: Sequence[ItemPrior], shares: Sequence[float]):
        super().__init__(priors[0].index)
        strange = [prior for prior in priors if prior.index.fingerprint != self.index.fingerprint]
        if strange or len(priors) != len(shares) or not all(0 <= share < float("inf") for share in shares):
            raise ValueError(
                f"Expected priors of one SID index and a finite share of at least 0 for each, but found {len(priors)} "
                f"priors, {len(strange)} of them of another index than the first, and the shares {list(shares)}."
            )
        self.priors, self.shares = list(priors), [float(share) for share in shares]
        self._shared: torch.Tensor | None = None

    def weights(self, histories: Sequence[Sequence[str]]) -> PriorWeights:
        """The sum of the priors' weights."""
        parts = [prior.weights(histories) for prior in self.priors]
        if self._shared is None:
            # The same tensor for every batch, so that its bounds are computed once.
            self._shared = sum(
                (share * part.shared.float() for share, part in zip(self.shares, parts)), torch.zeros(1)
            )
        dense = [share * part.dense for share, part in zip(self.shares, parts) if part.dense is not None]
        return PriorWeights(
            self._shared,
            torch.cat([part.rows for part in parts]),
            torch.cat([part.items for part in parts]),
            torch.cat([share * part.values.double() for share, part in zip(self.shares, parts)]),
            num_users=len(histories),
            dense=torch.stack(dense).sum(0) if dense else None,
        )

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The parts' states, arrays under numbered names."""
        arrays: dict[str, np.ndarray] = {}
        parts = []
        for number, prior in enumerate(self.priors):
            own, facts = prior.state()
            arrays |= {f"{number}.{name}": array for name, array in own.items()}
            parts.append({"kind": type(prior).__name__, "facts": facts})
        return arrays, {"parts": parts, "shares": self.shares}

    @classmethod
    def from_state(cls, index, arrays, facts) -> "MixedPrior":
        """From the parts' states."""
        priors = []
        for number, part in enumerate(facts["parts"]):
            own = {name.split(".", 1)[1]: array for name, array in arrays.items() if name.startswith(f"{number}.")}
            priors.append(ItemPrior.kinds[part["kind"]].from_state(index, own, part["facts"]))
        return cls(priors, facts["shares"])

    def for_index(self, index: SIDIndex) -> "MixedPrior":
        """The parts over a grown index."""
        return MixedPrior([prior.for_index(index) for prior in self.priors], self.shares)


class GivenPrior(ItemPrior):
    """
    Weights that a caller passes: an array `(num_items,)` or `(users, num_items)`, a mapping from item ids to weights
    (1 for all others), or such a mapping for each user.
    """

    def __init__(self, index: SIDIndex, given: Any):
        super().__init__(index)
        self._own: list[Mapping[str, float]] | torch.Tensor | None = None
        if isinstance(given, Mapping):
            self._shared = torch.ones(len(index))
            self._shared[index.positions_of(list(given))] = _checked(list(given.values()), (len(given),))
        elif isinstance(given, (list, tuple)) and given and isinstance(given[0], Mapping):
            self._shared, self._own = torch.ones(len(index)), list(given)
        else:
            array = given if isinstance(given, torch.Tensor) else torch.as_tensor(np.asarray(given))
            if array.dim() == 2:
                self._shared, self._own = torch.zeros(len(index)), _checked(array, (len(array), len(index)))
            else:
                self._shared = _checked(array, (len(index),))

    def weights(self, histories: Sequence[Sequence[str]]) -> PriorWeights:
        """The weights, if they are the same for all users."""
        return self.weights_of(histories, range(len(histories)))

    def weights_of(self, histories: Sequence[Sequence[str]], users: Sequence[int]) -> PriorWeights:
        """The weights of some users."""
        weights = PriorWeights.of_all(self._shared, len(users))
        if self._own is None:
            return weights
        if len(self._own) != len(histories):
            raise ValueError(
                f"Expected a prior for each of {len(histories)} users, but found {len(self._own)}. Pass one row, or "
                "one mapping, per history."
            )
        if isinstance(self._own, torch.Tensor):
            weights.dense = self._own[list(users)]
            return weights
        own = [self._own[user] for user in users]
        flat = [weight for mapping in own for weight in mapping.values()]
        weights.rows = torch.tensor([row for row, mapping in enumerate(own) for _ in mapping], dtype=torch.long)
        weights.items = torch.tensor(
            self.index.positions_of([item for mapping in own for item in mapping]), dtype=torch.long
        )
        weights.values = _checked(flat, (len(flat),)).double() - self._shared[weights.items]
        return weights


class CalledPrior(ItemPrior):
    """Weights `(users, num_items)` that a caller's function computes for a batch of histories."""

    def __init__(self, index: SIDIndex, function: Callable[[Sequence[Sequence[str]]], Any]):
        super().__init__(index)
        self._function = function

    def weights(self, histories: Sequence[Sequence[str]]) -> PriorWeights:
        """What the function returns, checked."""
        weights = PriorWeights.of_all(torch.zeros(len(self.index)), len(histories))
        weights.dense = _checked(self._function(histories), (len(histories), len(self.index)))
        return weights


def as_prior(prior: Any, index: SIDIndex) -> ItemPrior:
    """
    A prior object of whatever `recommend(prior=...)` takes.

    Raises:
        `TypeError`: something else. `ValueError`: another number of weights than of items, negative weights, NaN, a
        prior of another index. `KeyError`: an item that the index does not hold.
    """
    if isinstance(prior, ItemPrior):
        return prior.for_index(index)
    if callable(prior):
        return CalledPrior(index, prior)
    if isinstance(prior, (Mapping, list, tuple, np.ndarray, torch.Tensor)):
        return GivenPrior(index, prior)
    raise TypeError(
        "Expected `prior` as an item prior such as `NextItemPrior`, an array of weights, a mapping from item ids to "
        f"weights, a function of histories, or None, but found `{type(prior).__name__}`."
    )


def _checked(weights: Any, shape: tuple[int, ...]) -> torch.Tensor:
    array = weights if isinstance(weights, torch.Tensor) else torch.as_tensor(np.asarray(weights))
    if array.shape != shape:
        raise ValueError(
            f"Expected prior weights of shape {shape}, one for each item of the index, but found "
            f"{tuple(array.shape)}. "
            "Give them in the order of `sid_index.item_ids`, or as a mapping from item ids."
        )
    array = array.detach().float().cpu()
    if not bool((torch.isfinite(array) & (array >= 0)).all()):
        raise ValueError(
            "Expected prior weights that are finite and at least 0, but found NaN, infinite or negative ones. Pass "
            "weights, not their logarithms; 0 mutes an item."
        )
    return array
