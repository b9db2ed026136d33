"""
The legal semantic IDs (SIDs) of a catalogue as a prefix tree of flat tensors, so that a step of a search is a few
indexing operations whatever the size of the catalogue.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch


MIN_LEVELS, MAX_LEVELS = 2, 8


class SIDTrie:
    r"""
    The set of legal SIDs as flat tensors: a prefix tree in compressed sparse rows.

    Node 0 is the root; the nodes of depth `d` (prefixes of `d` codes) are numbered in lexicographic order right after
    those of depth `d - 1`, so the children of a node are a contiguous range. Leaves are numbered from 0 as well, in
    the same order. A trie does not change once it is built.

    Args:
        codes (`np.ndarray` or `torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item.
        counts (`np.ndarray` of shape `(num_items,)`, *optional*):
            Rank of items that share a SID: higher counts come first. Index order where absent, and among equals.

    Attributes:
        first_child (`torch.Tensor` of shape `(num_nodes + 1,)`):
            Children of node `n` are `first_child[n]` to `first_child[n + 1]`, exclusive.
        node_codes (`torch.Tensor` of shape `(num_nodes,)`):
            Last code of each node's prefix; 0 for the root.
        leaf_items (`torch.Tensor` of shape `(num_items,)`):
            Rows of the items in the order of their leaves, those of one leaf by rank.
        leaf_offsets (`torch.Tensor` of shape `(num_leaves + 1,)`):
            Items of leaf `n` are `leaf_items[leaf_offsets[n] : leaf_offsets[n + 1]]`.
        max_children (`tuple[int]`):
            Most children of any node, by depth of the parent.

    Example:

    ```python
    >>> import torch
    >>> from tsrec_hf import SIDTrie

    >>> trie = SIDTrie([[0, 0], [0, 2], [3, 1]])
    >>> nodes, codes, legal = trie.children(torch.tensor([0]), depth=0)
    >>> codes.tolist(), legal.tolist()
    ([[0, 3]], [[True, True]])
    >>> trie.children(nodes[0], depth=1)[1:]
    (tensor([[0, 2],
            [1, 0]]), tensor([[ True,  True],
            [ True, False]]))
    ```
    """

    def __init__(self, codes: np.ndarray | torch.Tensor | Sequence[Sequence[int]], counts: np.ndarray | None = None):
        codes = checked_codes(codes)
        num_items, self.num_levels = codes.shape
        order = _lexicographic_order(codes, counts)
        ordered = codes[order]
        begins = np.zeros(num_items, dtype=bool)
        begins[0] = True
        # Rows of `ordered` where a new prefix of the current depth begins; the root begins at row 0.
        firsts = [np.zeros(1, dtype=np.int64)]
        for level in range(self.num_levels):
            begins[1:] |= ordered[1:, level] != ordered[:-1, level]
            firsts.append(np.flatnonzero(begins))
        self.depth_starts = tuple(np.cumsum([0] + [len(first) for first in firsts]).tolist())
        first_child, node_codes = [], [np.zeros(1, dtype=np.int32)]
        for depth in range(self.num_levels):
            children = np.searchsorted(firsts[depth + 1], firsts[depth]) + self.depth_starts[depth + 1]
            first_child.append(children.astype(np.int32))
            node_codes.append(ordered[firsts[depth + 1], depth])
        num_nodes = self.depth_starts[-1]
        # Leaves have no children: their ranges, and the range end of the last inner node, all stand at `num_nodes`.
        first_child.append(np.full(len(firsts[-1]) + 1, num_nodes, dtype=np.int32))
        self.first_child = torch.from_numpy(np.concatenate(first_child))
        self.node_codes = torch.from_numpy(np.concatenate(node_codes))
        self.leaf_offsets = torch.from_numpy(np.append(firsts[-1], num_items))
        self.leaf_items = torch.from_numpy(order)
        widths = self.first_child.diff()
        self.max_children = tuple(
            int(widths[start:stop].max()) for start, stop in zip(self.depth_starts[:-2], self.depth_starts[1:-1])
        )

    @property
    def num_nodes(self) -> int:
        """Number of prefixes, the empty one included."""
        return self.depth_starts[-1]

    @property
    def num_leaves(self) -> int:
        """Number of distinct SIDs."""
        return self.num_nodes - self.depth_starts[-2]

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.first_child.device

    def to(self, device: torch.device | str) -> "SIDTrie":
        """
        The same trie with all its tensors on `device`; itself if they lie there already.

        [`SIDIndex.trie_on`] keeps the copy of an index's trie, so that a second search copies nothing.
        """
        if torch.device(device) == self.device:
            return self
        moved = object.__new__(SIDTrie)
        # What is derived from the tensors is derived again, on the device.
        derived = (
            "item_ranges",
            "num_items_below",
            "parents",
            "leaf_of_item",
            "_place_of_item",
            "first_items",
            "log_shares",
        )
        moved.__dict__ |= {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in self.__dict__.items()
            if name not in derived
        }
        return moved

    def num_prefixes(self, depth: int) -> int:
        """Number of legal prefixes of `depth` codes."""
        return self.depth_starts[depth + 1] - self.depth_starts[depth]

    def children(self, nodes: torch.Tensor, depth: int | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Children of many prefixes, padded to the widest node of their depth. Makes no device synchronisation.

        Args:
            nodes (`torch.Tensor` of shape `(...)`):
                Nodes of depth `depth`, on the trie's device.
            depth (`int`, *optional*):
                Number of codes in the prefixes, from 0 (the root) to `num_levels - 1`; `None` where it differs among
                them.

        Returns:
            `tuple` of three `torch.Tensor` of shape `(..., max_children[depth])`: the children's nodes, their codes,
            and which entries are real. Padding entries hold node 0 and code 0.
        """
        if depth is not None and not 0 <= depth < self.num_levels:
            raise ValueError(f"Expected a depth from 0 to {self.num_levels - 1}, but found {depth}.")
        nodes = nodes.long()
        width = max(self.max_children) if depth is None else self.max_children[depth]
        candidates = self.first_child[nodes].long().unsqueeze(-1) + torch.arange(width, device=self.device)
        legal = candidates < self.first_child[nodes + 1].unsqueeze(-1)
        candidates = torch.where(legal, candidates, 0)
        return candidates, self.node_codes[candidates].long(), legal

    def find(self, codes: Sequence[int]) -> int | None:
        """Leaf of a SID, or `None` where no item carries it. Raises `ValueError` for another number of codes."""
        if len(codes) != self.num_levels:
            raise ValueError(f"Expected {self.num_levels} codes, but found {len(codes)}: {tuple(codes)}.")
        node = 0
        for code in codes:
            start, stop = self.first_child[node : node + 2].tolist()
            child = start + int(torch.searchsorted(self.node_codes[start:stop], code))
            if child == stop or int(self.node_codes[child]) != code:
                return None
            node = child
        return node - self.depth_starts[-2]

    def leaves_of(self, nodes: torch.Tensor) -> torch.Tensor:
        """Leaf numbers, from 0, of nodes of the deepest level."""
        return nodes - self.depth_starts[-2]

    def count_items(self, item_mask: torch.Tensor) -> torch.Tensor:
        """
        How many of some items lie below each node.

        Args:
            item_mask (`torch.Tensor` of shape `(num_items,)`):
                Which items to count, on the trie's device.

        Returns:
            `torch.Tensor` of shape `(num_nodes,)`: Counts, int32.
        """
        # Items lie in the order of the leaves, so those below a node are a range: a difference of two running sums.
        running = torch.zeros(len(item_mask) + 1, dtype=torch.int32, device=self.device)
        torch.cumsum(item_mask[self.leaf_items], 0, dtype=torch.int32, out=running[1:])
        first, last = self.item_ranges
        return running[last] - running[first]

    @cached_property
    def item_ranges(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where in `leaf_items` each node's items begin and where they end (exclusive), `(num_nodes,)` each."""
        firsts, lasts = [self.leaf_offsets[:-1]], [self.leaf_offsets[1:]]
        for depth in range(self.num_levels - 1, -1, -1):
            start, stop = self.depth_starts[depth], self.depth_starts[depth + 1]
            children = self.first_child[start : stop + 1].long() - stop  # (nodes + 1,), places among the next depth
            firsts.insert(0, firsts[0][children[:-1]])
            lasts.insert(0, lasts[0][children[1:] - 1])
        return torch.cat(firsts), torch.cat(lasts)

    @cached_property
    def num_items_below(self) -> torch.Tensor:
        """How many items lie below each node: `(num_nodes,)`."""
        first, last = self.item_ranges
        return last - first

    @cached_property
    def parents(self) -> torch.Tensor:
        """Parent of each node, `(num_nodes,)`; the root is its own."""
        inner = self.num_nodes - self.num_leaves
        widths = self.first_child[: inner + 1].diff().long()
        parents = torch.repeat_interleave(torch.arange(inner, device=self.device), widths)
        return torch.cat([parents.new_zeros(1), parents])

    @cached_property
    def leaf_of_item(self) -> torch.Tensor:
        """Leaf of each item, `(num_items,)`."""
        leaves = torch.empty_like(self.leaf_items)
        leaves[self.leaf_items] = self._leaf_of_place
        return leaves

    @property
    def _leaf_of_place(self) -> torch.Tensor:
        return torch.repeat_interleave(torch.arange(self.num_leaves, device=self.device), self.leaf_offsets.diff())

    def max_below(self, values: torch.Tensor) -> torch.Tensor:
        """
        Largest value among the items below each node: what bounds a sum of a node's score and its items' values.

        Args:
            values (`torch.Tensor` of shape `(..., num_items)`):
                A value for each item, on the trie's device.

        Returns:
            `torch.Tensor` of shape `(..., num_nodes)`.
        """
        level = _max_of_groups(values.index_select(-1, self.leaf_items), self._leaf_of_place, self.num_leaves)
        levels = [level]
        for depth in range(self.num_levels - 1, -1, -1):
            start, middle, stop = self.depth_starts[depth : depth + 3]
            level = _max_of_groups(level, self.parents[middle:stop] - start, middle - start)
            levels.insert(0, level)
        return torch.cat(levels, dim=-1)

    @cached_property
    def first_items(self) -> torch.Tensor:
        """The first item of the index below each node, `(num_nodes,)`: its place among equal scores."""
        rows = torch.arange(len(self.leaf_items), dtype=torch.float64, device=self.device)
        return -self.max_below(-rows).long()

    @cached_property
    def log_shares(self) -> torch.Tensor | None:
        """
        For each leaf the logarithm of one item's even share of its SID, `-log(items)`, for each node above the largest
        below it: `(num_nodes,)`. `None` where no two items share a SID.
        """
        if self.num_leaves == len(self.leaf_items):
            return None
        shares = -self.leaf_offsets.diff().float().log()
        return self.max_below(shares[self.leaf_of_item])

    @cached_property
    def _place_of_item(self) -> torch.Tensor:
        """Place of each item in the order of the leaves."""
        places = torch.empty_like(self.leaf_items)
        places[self.leaf_items] = torch.arange(len(places), device=self.device)
        return places

    def paths_of(self, items: torch.Tensor) -> torch.Tensor:
        """
        The nodes on the way from the root, which is left out, to some items.

        Args:
            items (`torch.Tensor` of shape `(n,)`):
                Rows of items, on the trie's device.

        Returns:
            `torch.Tensor` of shape `(n, num_levels)`: Nodes of depth 1, 2, ..., `num_levels`.
        """
        places = self._place_of_item[items]
        firsts = self.item_ranges[0]
        nodes = [
            torch.searchsorted(firsts[start:stop], places, right=True) - 1 + start
            for start, stop in zip(self.depth_starts[1:-1], self.depth_starts[2:])
        ]
        return torch.stack(nodes, dim=-1)

    def items_of_leaf(self, leaf: int) -> list[int]:
        """Rows of the items that carry a leaf's SID, by rank."""
        start, stop = self.leaf_offsets[leaf : leaf + 2].tolist()
        return self.leaf_items[start:stop].tolist()


def _max_of_groups(values: torch.Tensor, groups: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Largest of the values `(..., n)` of each group, `(..., num_groups)`; `-inf` for a group without values."""
    largest = values.new_full((*values.shape[:-1], num_groups), -torch.inf)
    return largest.scatter_reduce(-1, groups.expand(values.shape), values, "amax")


def _lexicographic_order(codes: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    """Rows in the order of their codes; rows of equal codes by falling count, then as they come."""
    if counts is not None:
        by_count = np.argsort(-np.asarray(counts), kind="stable")
        return by_count[_lexicographic_order(codes[by_count], None)]
    # One stable sort of a mixed-radix key is several times faster than a sort per level, where the key fits.
    sizes = codes.max(axis=0).astype(object) + 1
    if np.prod(sizes) >= 2**63:
        return np.lexsort(codes.T[::-1])
    key = codes[:, 0].astype(np.int64)
    for level in range(1, codes.shape[1]):
        key *= int(sizes[level])
        key += codes[:, level]
    return np.argsort(key, kind="stable")


def checked_codes(codes: np.ndarray | torch.Tensor | Sequence[Sequence[int]]) -> np.ndarray:
    """
    Codes as a new `int32` array of shape `(items, levels)`.

    Raises:
        `ValueError`: another shape or range. `TypeError`: numbers that are not integers.
    """
    if isinstance(codes, torch.Tensor):
        codes = codes.detach().cpu().numpy()
    if not isinstance(codes, np.ndarray):
        if isinstance(codes, (str, bytes, Mapping)) or not hasattr(codes, "__len__"):
            raise TypeError(
                f"Expected codes as an array or a list of rows of integers, but found `{type(codes).__name__}`. Pass "
                "what a quantiser's `encode` returns."
            )
        widths = {len(row) for row in codes if hasattr(row, "__len__")}
        if len(widths) > 1:
            raise ValueError(
                f"Expected SIDs with equally many codes, but found rows of {min(widths)} and of {max(widths)} codes. "
                "Rebuild the codes with one number of levels."
            )
        codes = np.asarray(codes)
    if codes.ndim != 2 or len(codes) == 0 or not MIN_LEVELS <= codes.shape[1] <= MAX_LEVELS:
        raise ValueError(
            f"Expected codes of shape (items, levels) with at least one item and {MIN_LEVELS} to {MAX_LEVELS} levels, "
            f"but found shape {codes.shape}."
        )
    if not np.issubdtype(codes.dtype, np.integer):
        raise TypeError(f"Expected integer codes, but found dtype `{codes.dtype}`. Codes are cluster numbers, from 0.")
    if codes.min() < 0 or codes.max() > np.iinfo(np.int32).max:
        raise ValueError(f"Expected codes from 0 to 2**31 - 1, but found {codes.min()} to {codes.max()}.")
    # A copy: what is derived from it is cached, and would go stale if the caller's array changed.
    return np.array(codes, dtype=np.int32, order="C")
