"""
Which items exist and how their semantic IDs (SIDs) are spelled: `SIDIndex`, and `SIDTrie`, the same SIDs as a search
tree.

A SID is a tuple of `L` integer codes. Code `c` of level `l` is spelled by the token `index.tokens[l][c]`, so that
codes are positions into the level's list of tokens. Indexes made from codes spell them `<a_0>`, `<a_1>`, ... (level
`a`), `<b_0>`, ... (level `b`); indexes read from a file keep the spelling of the file.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


SID_INDEX_FILE = "sid_index.safetensors"
MIN_LEVELS, MAX_LEVELS = 2, 8
TOKEN_PATTERN = re.compile(r"<[^<>\s]+>")


class SIDIndex:
    r"""
    The catalogue of a recommender: item ids and the semantic ID of each.

    Args:
        item_ids (`Sequence[str]`):
            Ids of the items, unique.
        codes (`np.ndarray` of shape `(num_items, num_levels)`):
            Codes of each item, integers from 0; 2 to 8 levels. Several items may share a SID.
        tokens (`Sequence[Sequence[str]]`, *optional*):
            Token of every code, level by level. Defaults to `<a_0>`, `<a_1>`, ..., `<b_0>`, ... up to each level's
            highest code.
        titles (`Sequence[str]`, *optional*):
            Title of each item, carried along for those who load the checkpoint.

    Raises:
        `TypeError`: item ids, titles or tokens that are not strings, codes that are not integers.
        `ValueError`: duplicate item ids, ragged or negative codes, codes without a token, tokens not of the form
        `<...>`.

    Example:

    ```python
    >>> from tsrec_hf import SIDIndex

    >>> index = SIDIndex(["apple", "pear", "nail"], [[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    >>> index.sid_of("pear")
    '<a_0><b_1><c_0>'
    >>> index.items_of("<a_0><b_1><c_0>")
    ['pear']
    >>> index.level_sizes
    (2, 2, 2)
    ```
    """

    def __init__(
        self,
        item_ids: Sequence[str],
        codes: np.ndarray | Sequence[Sequence[int]],
        tokens: Sequence[Sequence[str]] | None = None,
        titles: Sequence[str] | None = None,
    ):
        self.item_ids = list(item_ids)
        self.codes = _checked_codes(codes)
        self.tokens = _default_tokens(self.codes) if tokens is None else [list(level) for level in tokens]
        self.titles = None if titles is None else list(titles)
        # Of the index that this one grew out of, whose checkpoints it fits; `None` for one made whole.
        self.origin_fingerprint: str | None = None
        self._check()

    def _check(self) -> None:
        _check_strings(
            "item ids", self.item_ids, "Convert the ids with `str` wherever they are read, so that all agree."
        )
        _check_strings("titles", self.titles or [], "Give items without a title an empty one.")
        if len(self.item_ids) != len(self.codes):
            raise ValueError(
                f"Expected one row of codes per item, but found {len(self.item_ids)} item ids and {len(self.codes)} "
                "rows of codes. Pass both in the same order."
            )
        if len(self._positions) != len(self.item_ids):
            seen: set[str] = set()
            twice = next(item_id for item_id in self.item_ids if item_id in seen or seen.add(item_id))
            raise ValueError(
                f"Expected unique item ids, but {twice!r} occurs more than once. Remove the duplicate rows."
            )
        if self.titles is not None and len(self.titles) != len(self.item_ids):
            raise ValueError(f"Expected {len(self.item_ids)} titles, one per item, but found {len(self.titles)}.")
        if len(self.tokens) != self.num_levels:
            raise ValueError(
                f"Expected tokens for {self.num_levels} levels (the codes' width), but found {len(self.tokens)}."
            )
        for level, (level_tokens, highest) in enumerate(zip(self.tokens, self.codes.max(axis=0))):
            if highest >= len(level_tokens):
                raise ValueError(
                    f"Code {highest} of level {level} has no token: the level has {len(level_tokens)} tokens. "
                    "Codes are positions into `tokens[level]`."
                )
        flat = [token for level_tokens in self.tokens for token in level_tokens]
        _check_strings("SID tokens", flat, "Spell code 12 of the first level '<a_12>'.")
        malformed = next((token for token in flat if not TOKEN_PATTERN.fullmatch(token)), None)
        if malformed is not None:
            raise ValueError(
                f"Expected SID tokens of the form '<a_12>' (no spaces, no inner brackets), but found {malformed!r}."
            )
        if len(set(flat)) != len(flat):
            raise ValueError(
                "Expected every SID token to belong to one code of one level, but a token occurs twice. "
                "Give each level its own letter, such as '<a_12>' and '<b_12>'."
            )

    def __len__(self) -> int:
        return len(self.item_ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._positions

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SIDIndex):
            return NotImplemented
        return (
            self.item_ids == other.item_ids
            and self.tokens == other.tokens
            and self.titles == other.titles
            and np.array_equal(self.codes, other.codes)
        )

    __hash__ = None

    def __repr__(self) -> str:
        sizes = " x ".join(map(str, self.level_sizes))
        return f"SIDIndex({len(self)} items, {self.num_levels} levels of {sizes} tokens)"

    def __getstate__(self) -> dict:
        # Cached look-ups are derived: dropping them keeps pickles small and `datasets` fingerprints stable.
        return {name: self.__dict__[name] for name in ("item_ids", "codes", "tokens", "titles", "origin_fingerprint")}

    @property
    def num_levels(self) -> int:
        """Number of codes in a SID."""
        return self.codes.shape[1]

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Number of tokens of each level."""
        return tuple(len(level_tokens) for level_tokens in self.tokens)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {item_id: position for position, item_id in enumerate(self.item_ids)}

    @cached_property
    def _code_of_token(self) -> list[dict[str, int]]:
        return [{token: code for code, token in enumerate(level_tokens)} for level_tokens in self.tokens]

    @cached_property
    def trie(self) -> "SIDTrie":
        """The legal SIDs as a [`SIDTrie`] on the CPU, built on first use."""
        return SIDTrie(self.codes)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of item ids, codes and tokens: equal for two indexes that recommend the same items by the same SIDs."""
        digest = hashlib.sha256(json.dumps([self.item_ids, self.tokens], ensure_ascii=False).encode())
        digest.update(np.ascontiguousarray(self.codes).tobytes())
        return digest.hexdigest()[:16]

    def fits(self, fingerprint: str | None) -> bool:
        """
        Whether a checkpoint made for the index of this fingerprint may use this one: it is that index, or grew out of
        it by [`~SIDIndex.add_items`] and [`~SIDIndex.remove_items`]. `None` fits every index.
        """
        return fingerprint in (None, self.fingerprint, self.origin_fingerprint)

    def add_items(
        self,
        item_ids: Sequence[str],
        codes: np.ndarray | Sequence[Sequence[int]] | None = None,
        titles: Sequence[str] | None = None,
        sids: Sequence[str] | None = None,
    ) -> "SIDIndex":
        """
        Adds items in place: a recommender can give them at once, without training.

        Args:
            item_ids (`Sequence[str]`):
                Their ids, new to the index.
            codes (`np.ndarray` of shape `(items, levels)`, *optional*):
                Their codes, from the quantiser that made the index: `quantizer.encode(embeddings)`.
            titles (`Sequence[str]`, *optional*):
                Their titles; empty where absent and the index has titles.
            sids (`Sequence[str]`, *optional*):
                Their spelled SIDs, in the place of `codes`.

        Returns:
            [`SIDIndex`]: Itself.

        Raises:
            `ValueError`: known ids, codes or tokens that the index does not have (the model has learned nothing of
            them), codes for an index whose tokens are numbered otherwise, such as one read from a file that leaves
            numbers out. The index is then as it was.

        Example:

        ```python
        >>> from tsrec_hf import SIDIndex

        >>> index = SIDIndex(["apple", "nail"], [[0, 1], [1, 0]])
        >>> index.add_items(["pear"], codes=[[0, 0]]).items_of("<a_0><b_0>")
        ['pear']
        >>> len(index.remove_items(["apple"]))
        2
        ```
        """
        item_ids = list(item_ids)
        if (codes is None) == (sids is None):
            raise ValueError("Expected either `codes` or `sids` of the new items. Pass one of the two.")
        if sids is not None:
            rows = np.array([self.parse(sid) for sid in sids], dtype=np.int32).reshape(-1, self.num_levels)
        else:
            rows = self._checked_new_codes(codes)
        if len(rows) != len(item_ids):
            raise ValueError(f"Expected a SID for each of {len(item_ids)} new items, but found {len(rows)}.")
        if titles is not None and len(titles) != len(item_ids):
            raise ValueError(f"Expected a title for each of {len(item_ids)} new items, but found {len(titles)}.")
        if titles is not None or self.titles is not None:
            old = [""] * len(self) if self.titles is None else self.titles
            titles = [*old, *([""] * len(item_ids) if titles is None else titles)]
        grown = SIDIndex([*self.item_ids, *item_ids], np.concatenate([self.codes, rows]), self.tokens, titles)
        return self._become(grown)

    def remove_items(self, item_ids: Sequence[str]) -> "SIDIndex":
        """
        Removes items in place: they are recommended no more, and histories may not hold them.

        Args:
            item_ids (`Sequence[str]`):
                Their ids.

        Returns:
            [`SIDIndex`]: Itself.

        Raises:
            `KeyError`: an unknown item. `TypeError`: a single string. `ValueError`: no item would be left.
        """
        kept = ~self.mask_of(item_ids)
        if not kept.any():
            raise ValueError(f"Expected at least one item to be left, but all {len(self)} would be removed.")
        rows = np.flatnonzero(kept).tolist()
        titles = None if self.titles is None else [self.titles[row] for row in rows]
        return self._become(SIDIndex([self.item_ids[row] for row in rows], self.codes[kept], self.tokens, titles))

    def _become(self, other: "SIDIndex") -> "SIDIndex":
        # With all that was derived: tries, positions, the fingerprint.
        origin = self.origin_fingerprint or self.fingerprint
        self.__dict__ = {**other.__dict__, "origin_fingerprint": origin}
        return self

    def _checked_new_codes(self, codes: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        for level, tokens in enumerate(self.tokens):
            numbers = [re.findall(r"\d+", token) for token in tokens]
            other = next((code for code, number in enumerate(numbers) if [str(code)] != number[-1:]), None)
            if other is not None:
                raise ValueError(
                    f"Expected an index whose tokens carry their codes' numbers, but code {other} of level {level} is "
                    f"spelled {tokens[other]!r}: a quantiser's codes would mean other tokens. Pass `sids`, the new "
                    "items' SIDs as strings."
                )
        rows = _checked_codes(codes)
        if rows.shape[1] != self.num_levels or (rows.max(axis=0) >= self.level_sizes).any():
            raise ValueError(
                f"Expected codes of {self.num_levels} levels below their sizes {self.level_sizes}, but found "
                f"{rows.shape[1]} levels with codes up to {tuple(rows.max(axis=0).tolist())}. Encode the items with "
                "the quantiser that made this index."
            )
        return rows

    def position_of(self, item_id: str) -> int:
        """Row of `item_id` in `item_ids` and `codes`. Raises `KeyError` for an unknown item."""
        try:
            return self._positions[item_id]
        except (KeyError, TypeError):
            hint = f" Ids are strings: did you mean {str(item_id)!r}?" if str(item_id) in self._positions else ""
            raise KeyError(
                f"Item {item_id!r} is not among the {len(self)} items of this SID index.{hint} "
                "Use ids of `sid_index.item_ids`, or build an index that holds the item."
            ) from None

    def positions_of(self, item_ids: Sequence[str]) -> list[int]:
        """Rows of several items. Raises `KeyError` for an unknown item."""
        if len(item_ids) < 2:
            return [self.position_of(item_id) for item_id in item_ids]
        try:
            # Half a million ids are looked up a third faster this way than one by one.
            return list(itemgetter(*item_ids)(self._positions))
        except (KeyError, TypeError):
            # One of them is unknown: the slow way says which.
            return [self.position_of(item_id) for item_id in item_ids]

    def mask_of(self, item_ids: Iterable[str]) -> np.ndarray:
        """
        Which items of the index are among some: what `recommend(allowed_items=...)` takes.

        Looking up ids is what costs where they are many. A mask of what is in stock is made once and serves every
        call until the stock or the index changes.

        Args:
            item_ids (`Iterable[str]`):
                Item ids, each as often as it likes.

        Returns:
            `np.ndarray` of `bool` of shape `(items,)`: In the order of `item_ids` of the index.

        Raises:
            `KeyError`: an item that the index does not hold. `TypeError`: a single string.

        Example:

        ```python
        >>> sid_index.mask_of(["nail", "apple"]).sum()
        np.int64(2)
        ```
        """
        if isinstance(item_ids, str):
            raise TypeError(f"Expected a collection of item ids, but found the string {item_ids!r}.")
        mask = np.zeros(len(self), dtype=bool)
        mask[self.positions_of(list(item_ids))] = True
        return mask

    def spell(self, codes: Sequence[int]) -> str:
        """The SID with these codes as a string, `<a_0><b_1><c_0>`. Raises `ValueError` for codes without a token."""
        self._check_sid(codes)
        return "".join(level_tokens[code] for level_tokens, code in zip(self.tokens, codes))

    def parse(self, sid: str) -> tuple[int, ...]:
        """Codes of a spelled SID. Raises `ValueError` where a token is not of this index."""
        found = TOKEN_PATTERN.findall(sid)
        if "".join(found) != sid or len(found) != self.num_levels:
            raise ValueError(
                f"Expected a SID of {self.num_levels} tokens such as {self.spell(self.codes[0])!r}, but found {sid!r}."
            )
        for level, token in enumerate(found):
            if token not in self._code_of_token[level]:
                raise ValueError(f"Token {token!r} in {sid!r} is not a token of level {level} of this SID index.")
        return tuple(self._code_of_token[level][token] for level, token in enumerate(found))

    def sid_of(self, item_id: str) -> str:
        """SID of an item as a string, `<a_0><b_1><c_0>`. Raises `KeyError` for an unknown item."""
        return self.spell(self.codes[self.position_of(item_id)])

    def items_of(self, sid: str | Sequence[int]) -> list[str]:
        """
        Ids of the items that carry a SID, in index order.

        Args:
            sid (`str` or `Sequence[int]`):
                The SID, spelled or as codes.

        Returns:
            `list[str]`: Empty for a SID of known tokens that no item carries.

        Raises:
            `ValueError`: another number of levels, a token or code that the index does not have.
        """
        codes = self.parse(sid) if isinstance(sid, str) else tuple(int(code) for code in sid)
        self._check_sid(codes)
        leaf = self.trie.find(codes)
        return [] if leaf is None else [self.item_ids[position] for position in self.trie.items_of_leaf(leaf)]

    def _check_sid(self, codes: Sequence[int]) -> None:
        if len(codes) != self.num_levels or not all(0 <= code < size for code, size in zip(codes, self.level_sizes)):
            raise ValueError(
                f"Expected {self.num_levels} codes, from 0 and below the levels' sizes {self.level_sizes}, but found "
                f"{tuple(map(int, codes))}."
            )

    def collisions(self) -> dict[str, list[str]]:
        """SIDs that several items share, each with its items in index order."""
        trie = self.trie
        shared = (trie.leaf_offsets.diff() > 1).nonzero().flatten().tolist()
        groups = [trie.items_of_leaf(leaf) for leaf in shared]
        return {self.spell(self.codes[group[0]]): [self.item_ids[row] for row in group] for group in groups}

    @classmethod
    def from_json(cls, path: str | Path) -> "SIDIndex":
        """
        Reads MiniOneRec's `index.json`: `{"item id": ["<a_236>", "<b_231>", "<c_226>"], ...}`.

        The levels' tokens are those that occur in the file, ordered by number, so `codes` are positions among them and
        not the numbers in the tokens.

        Raises:
            `ValueError`: a truncated file, duplicate item ids, SIDs of unequal length, tokens not of the form `<...>`.
        """
        path = Path(path)
        try:
            pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is not valid JSON ({error}). The file may be truncated: fetch or write it again."
            ) from error
        if not (isinstance(pairs, list) and pairs and all(_is_json_item(pair) for pair in pairs)):
            raise ValueError(
                f'Expected {path} to hold an object such as {{"item id": ["<a_1>", "<b_2>", "<c_3>"]}} with at least '
                "one item."
            )
        item_ids, sids = zip(*pairs)
        widths = {len(sid) for sid in sids}
        if len(widths) != 1:
            ragged, width = next((item, len(sid)) for item, sid in pairs if len(sid) != len(sids[0]))
            raise ValueError(
                f"Expected SIDs of equal length in {path}, but item {item_ids[0]!r} has {len(sids[0])} tokens and "
                f"item {ragged!r} has {width}. Rebuild the index with one number of levels."
            )
        tokens = [sorted(set(level), key=_natural_key) for level in zip(*sids)]
        code_of = [{token: code for code, token in enumerate(level)} for level in tokens]
        codes = [[lookup[token] for lookup, token in zip(code_of, sid)] for sid in sids]
        return cls(item_ids, codes, tokens=tokens)

    def to_json(self, path: str | Path) -> None:
        """Writes MiniOneRec's `index.json`, the reverse of [`SIDIndex.from_json`]."""
        sids = {
            item_id: [level_tokens[code] for level_tokens, code in zip(self.tokens, codes)]
            for item_id, codes in zip(self.item_ids, self.codes.tolist())
        }
        Path(path).write_text(json.dumps(sids, ensure_ascii=False), encoding="utf-8")

    def save(self, directory: str | Path) -> Path:
        """Writes the index to `directory/sid_index.safetensors` and returns the file's path."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        arrays = {"codes": self.codes, **_pack_strings("item_ids", self.item_ids)}
        if self.titles is not None:
            arrays |= _pack_strings("titles", self.titles)
        path = directory / SID_INDEX_FILE
        # One entry alone: several would be written in an order that changes from save to save.
        facts = {"version": 1, "tokens": self.tokens}
        if self.origin_fingerprint is not None:
            facts["origin_fingerprint"] = self.origin_fingerprint
        save_file(arrays, path, metadata={"tsrec_sid_index": json.dumps(facts)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> "SIDIndex":
        """
        Reads an index that [`SIDIndex.save`] wrote.

        Args:
            path (`str` or `Path`):
                The folder that was saved to, or the file itself.

        Raises:
            `FileNotFoundError`: no such file. `ValueError`: a truncated file, or one of another format.
        """
        path = Path(path)
        path = path / SID_INDEX_FILE if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(
                f"Expected a SID index at {path}, but there is no such file. Write it with `save`."
            )
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = json.loads((file.metadata() or {}).get("tsrec_sid_index", "{}"))
                arrays = {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a whole safetensors file ({error}). It may be truncated: fetch or save it again."
            ) from error
        if metadata.get("version") != 1:
            raise ValueError(
                f"Expected {path} to be a SID index of version 1, but found version {metadata.get('version')}. Write "
                "it with `SIDIndex.save` of this release."
            )
        titles = _unpack_strings(arrays, "titles") if "titles" in arrays else None
        index = cls(_unpack_strings(arrays, "item_ids"), arrays["codes"], metadata["tokens"], titles)
        index.origin_fingerprint = metadata.get("origin_fingerprint")
        return index


class SIDTrie:
    r"""
    The set of legal SIDs as flat tensors: a prefix tree in compressed sparse rows.

    Node 0 is the root; the nodes of depth `d` (prefixes of `d` codes) are numbered in lexicographic order right after
    those of depth `d - 1`, so the children of a node are a contiguous range. Leaves are numbered from 0 as well, in
    the same order.

    Args:
        codes (`np.ndarray` or `torch.Tensor` of shape `(num_items, num_levels)`):
            Codes of each item.

    Attributes:
        first_child (`torch.Tensor` of shape `(num_nodes + 1,)`):
            Children of node `n` are `first_child[n]` to `first_child[n + 1]`, exclusive.
        node_codes (`torch.Tensor` of shape `(num_nodes,)`):
            Last code of each node's prefix; 0 for the root.
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

    def __init__(self, codes: np.ndarray | torch.Tensor | Sequence[Sequence[int]]):
        codes = _checked_codes(codes)
        num_items, self.num_levels = codes.shape
        order = _lexicographic_order(codes)
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
        """The same trie with its tensors on `device`; itself if they lie there already."""
        if torch.device(device) == self.device:
            return self
        moved = object.__new__(SIDTrie)
        moved.__dict__ |= {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in self.__dict__.items()
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
        # Items lie in the order of the leaves, so those below any node are a range: two looks at a running sum.
        running = torch.zeros(len(item_mask) + 1, dtype=torch.int32, device=self.device)
        torch.cumsum(item_mask[self.leaf_items], 0, dtype=torch.int32, out=running[1:])
        first, last = self._item_ranges
        return running[last] - running[first]

    @cached_property
    def _item_ranges(self) -> tuple[torch.Tensor, torch.Tensor]:
        """First and last place (exclusive) of each node's items in the order of the leaves."""
        firsts, lasts = [self.leaf_offsets[:-1]], [self.leaf_offsets[1:]]
        for depth in range(self.num_levels - 1, -1, -1):
            start, stop = self.depth_starts[depth], self.depth_starts[depth + 1]
            children = self.first_child[start : stop + 1].long() - stop  # (nodes + 1,), places among the next depth
            firsts.insert(0, firsts[0][children[:-1]])
            lasts.insert(0, lasts[0][children[1:] - 1])
        return torch.cat(firsts), torch.cat(lasts)

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
        firsts = self._item_ranges[0]
        nodes = [
            torch.searchsorted(firsts[start:stop], places, right=True) - 1 + start
            for start, stop in zip(self.depth_starts[1:-1], self.depth_starts[2:])
        ]
        return torch.stack(nodes, dim=-1)

    def items_of_leaf(self, leaf: int) -> list[int]:
        """Rows of the items that carry a leaf's SID, in index order."""
        start, stop = self.leaf_offsets[leaf : leaf + 2].tolist()
        return self.leaf_items[start:stop].tolist()


def _checked_codes(codes: np.ndarray | torch.Tensor | Sequence[Sequence[int]]) -> np.ndarray:
    if isinstance(codes, torch.Tensor):
        codes = codes.detach().cpu().numpy()
    if not isinstance(codes, np.ndarray):
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
    # A copy: look-ups are cached, and would go stale if the caller's array changed.
    return np.array(codes, dtype=np.int32, order="C")


def _check_strings(name: str, values: Sequence[object], remedy: str) -> None:
    stray = next((value for value in values if not isinstance(value, str)), "")
    if not isinstance(stray, str):
        raise TypeError(
            f"Expected {name} of type `str`, but found {stray!r} of type `{type(stray).__name__}`. {remedy}"
        )


def _is_json_item(pair: object) -> bool:
    return isinstance(pair, tuple) and isinstance(pair[1], list) and all(isinstance(token, str) for token in pair[1])


def _default_tokens(codes: np.ndarray) -> list[list[str]]:
    sizes = (codes.max(axis=0) + 1).tolist()
    return [[f"<{chr(ord('a') + level)}_{code}>" for code in range(size)] for level, size in enumerate(sizes)]


def _lexicographic_order(codes: np.ndarray) -> np.ndarray:
    # One stable sort of a mixed-radix key is several times faster than a sort per level, where the key fits.
    sizes = codes.max(axis=0).astype(object) + 1
    if np.prod(sizes) >= 2**63:
        return np.lexsort(codes.T[::-1])
    key = codes[:, 0].astype(np.int64)
    for level in range(1, codes.shape[1]):
        key *= int(sizes[level])
        key += codes[:, level]
    return np.argsort(key, kind="stable")


def _natural_key(token: str) -> tuple:
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", token))


def _pack_strings(name: str, strings: Sequence[str]) -> dict[str, np.ndarray]:
    encoded = [string.encode() for string in strings]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in encoded], out=offsets[1:])
    return {name: np.frombuffer(b"".join(encoded), dtype=np.uint8), f"{name}_offsets": offsets}


def _unpack_strings(arrays: dict[str, np.ndarray], name: str) -> list[str]:
    data, offsets = arrays[name].tobytes(), arrays[f"{name}_offsets"].tolist()
    return [data[start:stop].decode() for start, stop in zip(offsets[:-1], offsets[1:])]
