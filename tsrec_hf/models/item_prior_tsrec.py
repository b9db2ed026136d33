"""
Item priors: weights over items, for all users or for each, that a search combines with the model.

A prior is a small object that is fitted on interactions, saved beside the tokenizer and loaded with it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from .indexing_tsrec import SIDIndex


@dataclass
class PriorWeights:
    """
    Weights of a batch of users over the items: what all users share, plus entries of single users.

    Attributes:
        shared (`torch.Tensor` of shape `(num_items,)`): Weight of each item for every user.
        rows, items, values (`torch.Tensor` of shape `(entries,)`): What is added to the weight of an item for the user
            of a row of the batch.
        dense (`torch.Tensor` of shape `(batch, num_items)`, *optional*): Further weights, of all items for each user.
        num_users (`int`): Rows of the batch.
    """

    shared: torch.Tensor
    rows: torch.Tensor
    items: torch.Tensor
    values: torch.Tensor
    num_users: int
    dense: torch.Tensor | None = None

    @classmethod
    def of_all(cls, shared: torch.Tensor, num_users: int) -> "PriorWeights":
        """The same weights for every user."""
        none = torch.zeros(0, dtype=torch.long)
        return cls(shared, none, none, torch.zeros(0), num_users)

    def summed_entries(self) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The entries as sorted keys `row * num_items + item`, one for each item of a user, and the whole weights there,
        float32. Sums are taken in float64, on the prior's own device, since an entry may take nearly all of a shared
        weight away.
        """
        num_items = len(self.shared)
        keys, places = torch.unique(self.rows * num_items + self.items, return_inverse=True)
        values = self.shared.double()[keys % num_items].index_add(0, places, self.values.double())
        return keys, values.clamp(min=0).float()

    def to_dense(self) -> torch.Tensor:
        """Weights as one matrix `(batch, num_items)`, float32."""
        keys, values = self.summed_entries()
        weights = self.shared.float().repeat(self.num_users, 1)
        weights.view(-1)[keys] = values
        return (weights if self.dense is None else weights + self.dense.float()).clamp(min=0)


class ItemPrior(ABC):
    """
    Base of the item priors. A prior of one's own needs `weights`, and `state` and `from_state` to travel with a
    checkpoint.

    Args:
        index ([`SIDIndex`]):
            The catalogue, in whose order the weights are.

    Example:

    ```python
    >>> import torch
    >>> from tsrec_hf.models import ItemPrior, PriorWeights

    >>> class Uniform(ItemPrior):
    ...     def weights(self, histories):
    ...         return PriorWeights.of_all(torch.ones(len(self.index)), len(histories))
    >>> Uniform(sid_index).log_weights([["hammer"]]).shape
    torch.Size([1, 8])
    ```
    """

    kinds: ClassVar[dict[str, type["ItemPrior"]]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        ItemPrior.kinds[cls.__name__] = cls

    def __init__(self, index: SIDIndex):
        self.index = index

    @abstractmethod
    def weights(self, histories: Sequence[Sequence[str]]) -> PriorWeights:
        """Weights for a batch of histories, at least 0 each."""

    def weights_of(self, histories: Sequence[Sequence[str]], users: Sequence[int]) -> PriorWeights:
        """Weights for some of all histories of a call; priors that know users by number need more than these."""
        return self.weights([histories[user] for user in users])

    def log_weights(self, histories: Sequence[Sequence[str]]) -> torch.Tensor:
        """Logarithms of the weights, `(users, items)`; `-inf` for a weight of 0."""
        return self.weights(histories).to_dense().log()

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and facts to save, from which [`ItemPrior.from_state`] makes the prior again."""
        raise TypeError(
            f"Expected a prior that can be saved, but `{type(self).__name__}` has no `state`. Pass it to `recommend`, "
            "or give it `state` and `from_state`."
        )

    @classmethod
    def from_state(cls, index: SIDIndex, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> "ItemPrior":
        """Makes a prior of what `state` returned."""
        raise TypeError(f"Expected a prior that can be loaded, but `{cls.__name__}` has no `from_state`.")

    def for_index(self, index: SIDIndex) -> "ItemPrior":
        """
        The same prior over an index that grew out of its own: new items have no entries, and the least weight that
        the prior gives to all users.

        Raises:
            `ValueError`: an index that did not grow out of the prior's.
        """
        if index.fingerprint == self.index.fingerprint:
            return self
        if not index.fits(self.index.fingerprint):
            raise ValueError(
                f"Expected a prior of the tokenizer's SID index ({index}, {index.fingerprint}), but found one of "
                f"another, {self.index.fingerprint} ({self.index}). Fit the prior on this catalogue."
            )
        arrays, facts = self.state()
        known = np.array([item in self.index for item in index.item_ids])
        rows = np.full(len(index), -1)
        rows[known] = self.index.positions_of([item for item in index.item_ids if item in self.index])
        return self.from_state(index, self.moved(arrays, rows), facts)

    @staticmethod
    def moved(arrays: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays of `state` for other items: `rows` holds the old row of each new one, `-1` for a new item."""
        return {
            name: np.where((rows >= 0).reshape(-1, *[1] * (array.ndim - 1)), array[rows], array.min())
            for name, array in arrays.items()
        }
