"""
Business rules inside the trie: constrain a search to the items that a user may be recommended.

A rule removes leaves, and with them every prefix that leads to removed leaves only, so that beams never spend a place
on what could not be returned. Rules that all users share are one mask over the nodes, made once. Rules of single users
are short lists of nodes, looked up in sorted order, so that a step costs nothing per item of the catalogue.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from .indexing_tsrec import SIDIndex
from .trie_tsrec import SIDTrie


class ItemFilter:
    r"""
    Compiles `allowed_items`, `exclude_items` and excluded histories into rules over the trie.

    Args:
        index ([`SIDIndex`]):
            The catalogue.
        trie ([`SIDTrie`]):
            Its trie, on the device of the search.
        num_users (`int`):
            Users of the call.
        allowed_items (`Iterable[str]` or one such per user, or a mask `np.ndarray` of `bool`, *optional*):
            Items that may be given; all where absent. Users may have sets of their own: a list with a collection per
            user. A boolean array in the order of the index, from [`SIDIndex.mask_of`], says the same for all users
            without a lookup of ids, which is what costs where the items are many.
        exclude_items (`Iterable[str]` or one such per user, or a mask `np.ndarray` of `bool`, *optional*):
            Items that may not be given.
        exclude_per_user (`Sequence[Sequence[str]]`, *optional*):
            Further items that a user may not be given: histories.

    Raises:
        `KeyError`: an item that the index does not hold. `TypeError`: a single string. `ValueError`: sets for another
        number of users, a mask of another length; a user whose rules allow nothing, who is named.
    """

    def __init__(
        self,
        index: SIDIndex,
        trie: SIDTrie,
        num_users: int,
        allowed_items: Iterable[str] | Sequence[Iterable[str]] | None = None,
        exclude_items: Iterable[str] | Sequence[Iterable[str]] | None = None,
        exclude_per_user: Sequence[Sequence[str]] | None = None,
    ):
        self.trie = trie
        allowed, allowed_by_user = _rows(index, allowed_items, num_users, "allowed_items")
        excluded, excluded_by_user = _rows(index, exclude_items, num_users, "exclude_items")
        self._num_items = len(index)
        # Items that the shared rules leave, and how many of them lie below each node; the rules of single users
        # subtract from these counts. Without shared rules nothing here costs by the size of the catalogue.
        self._item_mask: np.ndarray | None = None
        self._counts, self._shared = trie.num_items_below, None
        if allowed is not None or excluded is not None:
            self._item_mask = np.full(len(index), allowed is None)
            if allowed is not None:
                self._item_mask[allowed] = True
            if excluded is not None:
                self._item_mask[excluded] = False
            self._counts = trie.count_items(torch.from_numpy(self._item_mask).to(trie.device))
            self._shared = self._counts > 0
        self._num_shared = self._num_items if self._item_mask is None else int(self._item_mask.sum())
        further = None
        if exclude_per_user is not None:
            # Of nothing, numpy would make floats.
            further = [np.unique(np.asarray(index.positions_of(ids), dtype=np.int64)) for ids in exclude_per_user]
        self._allowed_by_user = allowed_by_user
        self._excluded_by_user = _joined(excluded_by_user, further)
        self._check_users(num_users)

    def _check_users(self, num_users: int) -> None:
        personal = self._allowed_by_user is not None or self._excluded_by_user is not None
        barred = 0 if self._num_shared == 0 else None
        if barred is None and personal:
            barred = next((user for user in range(num_users) if self._left(user) == 0), None)
        if barred is not None:
            raise ValueError(
                f"Expected at least one item that user {barred} may be given, but the rules leave none of the "
                f"{self._num_items}. Widen `allowed_items`, or exclude less."
            )

    @property
    def item_mask(self) -> np.ndarray | None:
        """Items that the rules of all users leave, `(num_items,)`; `None` without such rules."""
        return self._item_mask

    @property
    def has_own_sets(self) -> bool:
        """Whether users have allowed items of their own."""
        return self._allowed_by_user is not None

    def excluded_rows(self, user: int) -> np.ndarray:
        """Rows of the items that are closed to this user alone."""
        return np.empty(0, dtype=np.int64) if self._excluded_by_user is None else self._excluded_by_user[user]

    def mask_of_user(self, user: int) -> np.ndarray:
        """Items that a user may be recommended, `(num_items,)`."""
        if self._allowed_by_user is not None:
            mask = np.zeros(self._num_items, dtype=bool)
            mask[self._allowed_rows(user)] = True
            return mask
        mask = np.ones(self._num_items, dtype=bool) if self._item_mask is None else self._item_mask.copy()
        mask[self.excluded_rows(user)] = False
        return mask

    def _left(self, user: int) -> int:
        """Number of items that the rules leave to a user."""
        if self._allowed_by_user is not None:
            return len(self._allowed_rows(user))
        assert self._excluded_by_user is not None  # the user has rules of their own
        return self._num_shared - len(self._shared_among(self._excluded_by_user[user]))

    def _shared_among(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows of the index that the shared rules leave."""
        return rows if self._item_mask is None else rows[self._item_mask[rows]]

    def batch(self, users: Sequence[int]) -> "NodeFilter":
        """The rules of some users, in the order of a batch, for the search."""
        trie, device = self.trie, self.trie.device
        if self._allowed_by_user is not None:
            own = [self._allowed_rows(user) for user in users]
            nodes, rows = _paths(trie, own)
            keys = torch.unique(rows * trie.num_nodes + nodes)
            return NodeFilter(shared=None, keys=keys, listed_are_legal=True, num_nodes=trie.num_nodes)
        if self._excluded_by_user is None:
            return NodeFilter(self._shared, None, False, trie.num_nodes)
        excluded = [self._excluded_by_user[user] for user in users]
        nodes, rows = _paths(trie, [self._shared_among(items) for items in excluded])
        keys, counts = torch.unique(rows * trie.num_nodes + nodes, return_counts=True)
        # A prefix is closed to a user when all that the shared rules leave below it is excluded.
        closed = (
            counts == self._counts[keys % trie.num_nodes]
            if len(keys)
            else torch.zeros(0, dtype=torch.bool, device=device)
        )
        return NodeFilter(self._shared, keys[closed], False, trie.num_nodes)

    def _allowed_rows(self, user: int) -> np.ndarray:
        assert self._allowed_by_user is not None
        own = self._allowed_by_user[user]
        if self._excluded_by_user is not None:
            own = np.setdiff1d(own, self._excluded_by_user[user])
        return self._shared_among(own)

    def allows(self, user: int, rows: Sequence[int]) -> list[int]:
        """Those of some rows of the index that a user may be given: items that share a SID may differ."""
        kept = self._shared_among(np.asarray(rows))
        if self._excluded_by_user is not None:
            kept = kept[~_contains(self._excluded_by_user[user], kept)]
        if self._allowed_by_user is not None:
            kept = kept[_contains(self._allowed_by_user[user], kept)]
        return kept.tolist()


class NodeFilter:
    """
    The rules of one batch of users, as a test of the trie's nodes.

    Args:
        shared (`torch.Tensor` of shape `(num_nodes,)`, *optional*):
            Nodes that the rules of all users leave open.
        keys (`torch.Tensor`, *optional*):
            Sorted `row * num_nodes + node` of the batch's rows that have rules of their own.
        listed_are_legal (`bool`):
            Whether those are the open nodes, or the closed ones.
        num_nodes (`int`):
            Nodes of the trie.
    """

    def __init__(self, shared: torch.Tensor | None, keys: torch.Tensor | None, listed_are_legal: bool, num_nodes: int):
        self.shared = shared
        self.keys = keys
        self.listed_are_legal = listed_are_legal
        self.num_nodes = num_nodes

    def __call__(self, nodes: torch.Tensor, legal: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """
        Masks out the nodes that the rules close.

        Takes nodes of shape `(batch, ...)`, or `(n, ...)` with the `rows` of the batch that they belong to, `(n,)`,
        and returns `legal` narrowed to those that stay. Makes no device synchronisation.
        """
        if self.shared is not None:
            legal = legal & self.shared[nodes]
        if self.keys is None:
            return legal
        if len(self.keys) == 0:
            return torch.zeros_like(legal) if self.listed_are_legal else legal
        rows = torch.arange(len(nodes), device=nodes.device) if rows is None else rows
        wanted = rows.view(-1, *[1] * (nodes.dim() - 1)) * self.num_nodes + nodes
        places = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        listed = self.keys[places] == wanted
        return legal & (listed if self.listed_are_legal else ~listed)


def _rows(index: SIDIndex, items: Any, num_users: int, name: str) -> tuple[np.ndarray | None, list[np.ndarray] | None]:
    """Rows of the index for a set that all users share, or for one set per user."""
    if items is None:
        return None, None
    if isinstance(items, str):
        raise TypeError(f"Expected `{name}` as a collection of item ids, but found the string {items!r}.")
    if isinstance(items, np.ndarray) and items.dtype == bool:
        if items.shape != (len(index),):
            raise ValueError(
                f"Expected `{name}` as a mask of shape ({len(index)},), an entry per item of the index, but found "
                f"shape {items.shape}. Make it by `sid_index.mask_of(item_ids)`."
            )
        return np.flatnonzero(items), None
    items = list(items) if isinstance(items, Iterable) else [items]
    if not items or isinstance(items[0], str):
        return np.array(index.positions_of(items), dtype=np.int64), None
    for entry in items:
        _check_set_of_a_user(entry, name)
    if len(items) != num_users:
        raise ValueError(
            f"Expected `{name}` as one collection of item ids, or one per user, but found {len(items)} collections "
            f"for {num_users} users."
        )
    return None, [np.unique(np.array(index.positions_of(list(ids)), dtype=np.int64)) for ids in items]


def _check_set_of_a_user(entry: object, name: str) -> None:
    # A string would be taken for the set of its characters, which may be ids as well.
    is_array = isinstance(entry, torch.Tensor) or (isinstance(entry, np.ndarray) and entry.dtype.kind not in "UO")
    if isinstance(entry, str) or is_array or not isinstance(entry, Iterable):
        raise TypeError(
            f"Expected `{name}` as a collection of item ids, a list of such collections, one per user, or a mask from "
            f"`sid_index.mask_of(item_ids)` for all users, but found {entry!r} of type `{type(entry).__name__}`. Pass "
            "ids as strings."
        )


def _joined(first: list[np.ndarray] | None, second: list[np.ndarray] | None) -> list[np.ndarray] | None:
    if first is None or second is None:
        return second if first is None else first
    return [np.union1d(*pair) for pair in zip(first, second)]


def _contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which values are in an ordered array."""
    if len(ordered) == 0:
        return np.zeros(len(values), dtype=bool)
    return ordered[np.searchsorted(ordered, values).clip(max=len(ordered) - 1)] == values


def _paths(trie: SIDTrie, item_rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes on the paths to items, root left out, and which row of the batch each belongs to; both flat."""
    counts = torch.tensor([len(rows) for rows in item_rows])
    items = torch.from_numpy(np.concatenate(item_rows).astype(np.int64)).to(trie.device)
    nodes = trie.paths_of(items)  # (items, levels)
    rows = torch.repeat_interleave(torch.arange(len(item_rows)), counts).to(trie.device)
    return nodes.flatten(), rows.unsqueeze(-1).expand_as(nodes).flatten()
