"""
Item priors inside a search: rank by the model's probability of an item and a prior weight of the item together.

There are two forms. *Log-linear*: `log p(item | history) + weight * log prior(item | history)`. *Mixture*:
`log(p(item | history) + weight * prior(item | history))`, as nearest-neighbour language models do (Khandelwal et al.,
arXiv 1911.00172). Items that share a SID share its probability evenly, or else a SID of many items would fill lists
whatever the prior says of them. In both forms the best prior among the items below a prefix bounds what the prefix can
lead to, since a prefix is at least as probable as its continuations: beams therefore keep the prefixes of items that
the prior lifts, and a best-first search by these bounds is exact.

Most priors are sparse: weights that all users share, and a few entries of each user. The bounds of the shared weights
are computed once per call; a batch costs by its entries.
"""

from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import torch

from .trie_tsrec import SIDTrie


if TYPE_CHECKING:
    from .filtering_tsrec import ItemFilter
    from .item_prior_tsrec import PriorWeights


FORMS = ("log_linear", "mixture")


@dataclass(frozen=True)
class Fusion:
    """
    How a prior is combined with the model.

    Args:
        form (`str`, *optional*, defaults to `"log_linear"`):
            `"log_linear"` or `"mixture"`.
        weight (`float`, *optional*, defaults to `1.0`):
            Weight of the prior; positive.

    Example:

    ```python
    >>> import torch
    >>> from tsrec_hf.models.prior_search_tsrec import Fusion

    >>> fusion = Fusion("mixture", weight=0.5)
    >>> fusion.combine(torch.tensor(0.25).log(), fusion.scale(torch.tensor(0.1))).exp()
    tensor(0.3000)
    ```
    """

    form: str = "log_linear"
    weight: float = 1.0

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"Expected the form of a prior among {FORMS}, but found {self.form!r}.")
        if isinstance(self.weight, bool) or not isinstance(self.weight, Real):
            raise TypeError(f"Expected the weight of a prior as a number, but found {self.weight!r}. Convert it.")
        if not 0 < self.weight < float("inf"):
            raise ValueError(
                f"Expected a positive, finite weight of a prior, but found {self.weight}. Pass `prior=None` to search "
                "without one."
            )
        object.__setattr__(self, "weight", float(self.weight))  # a number of numpy is no JSON

    def scale(self, weights: torch.Tensor) -> torch.Tensor:
        """The term that a prior's weights add to a score, in the log domain; `-inf` for a weight of 0."""
        if self.form == "log_linear":
            return self.weight * weights.log()
        return (self.weight * weights).log()

    def combine(self, log_probs: torch.Tensor, terms: torch.Tensor) -> torch.Tensor:
        """Scores of log-probabilities and terms from [`Fusion.scale`], of one shape."""
        return log_probs + terms if self.form == "log_linear" else torch.logaddexp(log_probs, terms)


class SearchPrior:
    """
    The prior of one call of `recommend`.

    Args:
        trie ([`SIDTrie`]):
            Trie of the catalogue, on the device of the search.
        fusion ([`Fusion`]):
            Form and weight.
        item_filter ([`ItemFilter`], *optional*):
            The rules of the call: items that they close lift no prefix.
    """

    def __init__(self, trie: SIDTrie, fusion: Fusion, item_filter: "ItemFilter | None" = None):
        self.trie = trie
        self.fusion = fusion
        self.item_filter = item_filter
        self._shared_of: torch.Tensor | None = None
        self._shared_terms: torch.Tensor
        self._closed: torch.Tensor | None = None
        if item_filter is not None and item_filter.item_mask is not None:
            self._closed = torch.from_numpy(~item_filter.item_mask).to(trie.device)
        self._shared_bounds: torch.Tensor

    def batch(self, weights: "PriorWeights", users: list[int]) -> "NodePrior":
        """Bounds over the trie for the users of a batch, whose weights are given in the same order."""
        rules = self.item_filter
        if weights.dense is not None or (rules is not None and rules.has_own_sets):
            return self._dense(weights, users)
        self._bound_shared(weights.shared)
        excluded = [np.empty(0, dtype=np.int64) if rules is None else rules.excluded_rows(user) for user in users]
        if len(weights.items) == 0 and not any(map(len, excluded)):
            return self._node_prior()
        return self._sparse(weights, excluded)

    def _bound_shared(self, shared: torch.Tensor) -> None:
        if shared is self._shared_of:
            return
        terms = self.fusion.scale(shared.to(self.trie.device, torch.float32))
        if self._closed is not None:
            terms = terms.masked_fill(self._closed, -torch.inf)
        self._shared_of, self._shared_terms, self._shared_bounds = shared, terms, self.trie.max_below(terms)

    def _dense(self, weights: "PriorWeights", users: list[int]) -> "NodePrior":
        terms = self.fusion.scale(weights.to_dense().to(self.trie.device))
        if self.item_filter is not None:
            closed = np.stack([~self.item_filter.mask_of_user(user) for user in users])
            terms = terms.masked_fill(torch.from_numpy(closed).to(terms.device), -torch.inf)
        return NodePrior(self.fusion, self.trie.max_below(terms), terms, log_shares=self.trie.log_shares)

    def _node_prior(self, own_bounds=None, own_terms=None) -> "NodePrior":
        """Bounds and terms that all users share, and those of single ones."""
        shared = (self._shared_bounds, self._shared_terms)
        return NodePrior(self.fusion, *shared, own_bounds, own_terms, self.trie.log_shares)

    def _sparse(self, weights: "PriorWeights", excluded: list[np.ndarray]) -> "NodePrior":
        trie, device = self.trie, self.trie.device
        num_items, num_leaves = len(trie.leaf_items), trie.num_leaves
        # Entries of the batch as keys `row * num_items + item`; several entries of one item add up.
        keys, own = weights.summed_entries()
        keys, terms = keys.to(device), self.fusion.scale(own.to(device))
        if self._closed is not None:
            terms = terms.masked_fill(self._closed[keys % num_items], -torch.inf)
        closed_rows = np.repeat(np.arange(len(excluded)), [len(part) for part in excluded])
        closed = torch.from_numpy(closed_rows * num_items + np.concatenate(excluded).astype(np.int64)).to(device)
        if len(closed):
            keys, terms = torch.cat([keys, closed]), torch.cat([terms, terms.new_full((len(closed),), -torch.inf)])
            keys, places = torch.unique(keys, return_inverse=True)
            terms = terms.new_full((len(keys),), torch.inf).scatter_reduce(0, places, terms, "amin")

        # The leaves that have entries: their terms are exact, the largest among all of their items.
        leaf_keys = torch.unique(keys // num_items * num_leaves + trie.leaf_of_item[keys % num_items])
        rows, leaves = leaf_keys // num_leaves, leaf_keys % num_leaves
        sizes = trie.leaf_offsets[leaves + 1] - trie.leaf_offsets[leaves]
        which = torch.repeat_interleave(torch.arange(len(leaves), device=device), sizes)
        starts = sizes.cumsum(0) - sizes
        items = trie.leaf_items[
            trie.leaf_offsets[leaves][which] + torch.arange(len(which), device=device) - starts[which]
        ]
        item_terms = self._node_prior(own_terms=(keys, terms)).item_terms(items, rows[which])
        leaf_terms = item_terms.new_full((len(leaves),), -torch.inf).scatter_reduce(0, which, item_terms, "amax")

        # The prefixes above them: bounded by the larger of these and of the shared bound.
        paths = trie.paths_of(trie.leaf_items[trie.leaf_offsets[leaves]])[:, :-1]  # (leaves, levels - 1)
        inner, places = torch.unique((rows.unsqueeze(-1) * trie.num_nodes + paths).flatten(), return_inverse=True)
        bounds = self._shared_bounds[inner % trie.num_nodes].scatter_reduce(
            0, places, leaf_terms.unsqueeze(-1).expand_as(paths).flatten(), "amax"
        )
        node_keys = torch.cat([inner, rows * trie.num_nodes + leaves + trie.depth_starts[-2]])
        node_keys, order = node_keys.sort()
        node_bounds = torch.cat([bounds, leaf_terms])[order]
        return self._node_prior((node_keys, node_bounds), (keys, terms))


class NodePrior:
    """
    Bounds of a batch's prior over the trie's nodes.

    Args:
        fusion ([`Fusion`]):
            Form and weight.
        bounds (`torch.Tensor` of shape `(num_nodes,)` or `(batch, num_nodes)`):
            Largest term of the items below each node, for all users or for each.
        terms (`torch.Tensor` of shape `(num_items,)` or `(batch, num_items)`):
            Term of each item.
        own_bounds (`tuple` of keys and values, *optional*):
            Bounds that differ for single users, by sorted key `row * num_nodes + node`.
        own_terms (`tuple` of keys and values, *optional*):
            Terms that differ for single users, by sorted key `row * num_items + item`.
        log_shares (`torch.Tensor` of shape `(num_nodes,)`, *optional*):
            [`SIDTrie.log_shares`], where items share SIDs.
    """

    def __init__(
        self,
        fusion: Fusion,
        bounds: torch.Tensor,
        terms: torch.Tensor,
        own_bounds: tuple[torch.Tensor, torch.Tensor] | None = None,
        own_terms: tuple[torch.Tensor, torch.Tensor] | None = None,
        log_shares: torch.Tensor | None = None,
    ):
        self.fusion = fusion
        self.log_shares = log_shares
        self.bounds, self.terms = bounds, terms
        self.own_bounds, self.own_terms = own_bounds, own_terms

    def __call__(self, nodes: torch.Tensor, log_probs: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """
        Upper bounds of the scores of all items below some prefixes; at a leaf, the best item's score.

        Args:
            nodes (`torch.Tensor` of shape `(batch, ...)`, or `(n, ...)` with `rows`):
                Nodes of the trie.
            log_probs (`torch.Tensor` of the same shape):
                Log-probabilities of their prefixes.
            rows (`torch.Tensor` of shape `(n,)`, *optional*):
                Which row of the batch each belongs to.

        Returns:
            `torch.Tensor` of the same shape; `-inf` where the log-probability is. Makes no device synchronisation.
        """
        rows = torch.arange(len(nodes), device=nodes.device) if rows is None else rows
        rows = rows.view(-1, *[1] * (nodes.dim() - 1)).expand_as(nodes)
        terms = _look_up(self.bounds, self.own_bounds, nodes, rows)
        scores = self.fusion.combine(self.item_log_probs(nodes, log_probs), terms)
        # A closed prefix has no probability, whatever its prior.
        return scores.masked_fill(log_probs == -torch.inf, -torch.inf)

    def item_log_probs(self, nodes: torch.Tensor | int, log_probs: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the items of leaves, or bounds of those below other nodes, from the nodes' own."""
        return log_probs if self.log_shares is None else log_probs + self.log_shares[nodes]

    def item_terms(self, items: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Terms of items `(n,)` for the users of some rows of the batch `(n,)`: `(n,)`."""
        return _look_up(self.terms, self.own_terms, items, rows)


def _look_up(
    table: torch.Tensor,
    own: tuple[torch.Tensor, torch.Tensor] | None,
    columns: torch.Tensor,
    rows: torch.Tensor,
) -> torch.Tensor:
    if table.dim() == 2:
        return table[rows, columns]
    values = table[columns]
    if own is None or len(own[0]) == 0:
        return values
    keys, own_values = own
    wanted = rows * len(table) + columns
    places = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[places] == wanted, own_values[places], values)
