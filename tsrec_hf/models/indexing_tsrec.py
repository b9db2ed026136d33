"""
Which items exist and how their semantic IDs (SIDs) are spelled: `SIDIndex`.

A SID is a tuple of `L` integer codes. Code `c` of level `l` is spelled by the token `index.tokens[l][c]`, so that
codes are positions into the level's list of tokens. Indexes made from codes spell them `<a_0>`, `<a_1>`, ... (level
`a`), `<b_0>`, ... (level `b`); indexes read from a file keep the spelling of the file.

An index does not change: a grown catalogue is another index, which knows its ancestors. What is derived from an index,
the trie above all, therefore stays right for as long as somebody holds it, in other threads too.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from numbers import Integral
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from .checking_tsrec import checks_types
from .index_checks_tsrec import TOKEN_PATTERN, check_index, checked_counts, checked_new_codes, default_tokens
from .index_files_tsrec import read_index, read_index_json, write_index
from .replacing_tsrec import write_text
from .trie_tsrec import SIDTrie, checked_codes


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
        counts (`Sequence[int]` of shape `(num_items,)`, *optional*):
            Training count of each item: how many training rows have it as their target. Items that share a SID are
            ranked by it; in index order where absent.
        ancestors (`Sequence[str]`, *optional*):
            Fingerprints of the indexes that this one grew out of, whose checkpoints it fits.
        delisted ([`SIDIndex`], *optional*):
            Items that were removed, with their titles and the SIDs by which models still know them, in the order in
            which they went.

    Raises:
        `TypeError`: item ids, titles or tokens that are not strings, codes or counts that are not integers.
        `ValueError`: duplicate item ids, ragged or negative codes, codes without a token, tokens not of the form
        `<...>`, another number of titles or counts than of items, delisted items of other tokens or that are not gone.
        `AttributeError`: an attribute that is to be set.

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

    item_ids: list[str]
    codes: np.ndarray
    tokens: list[list[str]]
    titles: list[str] | None
    counts: np.ndarray | None
    delisted: "SIDIndex | None"
    _given_ancestors: tuple[str, ...]
    _tries: dict[torch.device, SIDTrie]

    def __init__(
        self,
        item_ids: Sequence[str],
        codes: np.ndarray | Sequence[Sequence[int]],
        tokens: Sequence[Sequence[str]] | None = None,
        titles: Sequence[str] | None = None,
        counts: np.ndarray | Sequence[int] | None = None,
        ancestors: Sequence[str] = (),
        delisted: "SIDIndex | None" = None,
    ):
        rows = checked_codes(codes)
        # The arrays are this index's own copies, and nobody may write to them.
        rows.setflags(write=False)
        self.__dict__.update(
            item_ids=list(item_ids),
            codes=rows,
            tokens=default_tokens(rows) if tokens is None else [list(level) for level in tokens],
            titles=None if titles is None else list(titles),
            counts=None if counts is None else checked_counts(counts, len(rows)),
            delisted=delisted,
            _given_ancestors=tuple(ancestors),
            _tries={},
        )
        check_index(self)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"Expected a `SIDIndex` to stay as it is, but `{name}` is to be set. Make another index: `with_items`, "
            "`without_items` or `with_counts`."
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._positions

    def __eq__(self, other: object) -> bool:
        """Whether two indexes hold the same items, SIDs and titles; counts and what was before do not matter."""
        if not isinstance(other, SIDIndex):
            return NotImplemented
        return (
            self.item_ids == other.item_ids
            and self.tokens == other.tokens
            and self.titles == other.titles
            and np.array_equal(self.codes, other.codes)
        )

    # Mutable or not, an index is compared by what it holds: hash its `fingerprint`.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        sizes = " x ".join(map(str, self.level_sizes))
        return f"SIDIndex({len(self)} items, {self.num_levels} levels of {sizes} tokens)"

    def __getstate__(self) -> dict:
        # What is derived stays behind: that keeps pickles small and the fingerprints of `datasets` stable.
        names = ("item_ids", "codes", "tokens", "titles", "counts", "delisted", "_given_ancestors")
        return {name: self.__dict__[name] for name in names} | {"_tries": {}}

    def __setstate__(self, state: dict) -> None:
        # Pickles of releases that knew no delisted items have none.
        self.__dict__.update({"delisted": None} | state)

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

    @property
    def trie(self) -> SIDTrie:
        """The legal SIDs as a [`SIDTrie`] on the CPU, built on first use."""
        return self.trie_on("cpu")

    def trie_on(self, device: torch.device | str) -> SIDTrie:
        """The index's trie on a device; it is copied there once and kept with the index."""
        device = torch.device(device)
        trie = self._tries.get(device)
        if trie is None:
            # Two threads may build the same trie; one of the two equal ones stays.
            on_cpu = torch.device("cpu")
            trie = SIDTrie(self.codes, self.counts) if device == on_cpu else self.trie_on(on_cpu).to(device)
            trie = self._tries.setdefault(device, trie)
        return trie

    @cached_property
    def fingerprint(self) -> str:
        """Hash of item ids, codes and tokens: equal for two indexes that recommend the same items by the same SIDs."""
        digest = hashlib.sha256(json.dumps([self.item_ids, self.tokens], ensure_ascii=False).encode())
        digest.update(np.ascontiguousarray(self.codes).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def ancestors(self) -> tuple[str, ...]:
        """Fingerprints of all indexes that this one grew out of by `with_items` and `without_items`, oldest first."""
        return tuple(dict.fromkeys(known for known in self._given_ancestors if known != self.fingerprint))

    def fits(self, fingerprint: str | None) -> bool:
        """
        Whether a checkpoint made for the index of this fingerprint may use this one: it is that index, or grew out of
        it. `None` fits every index.
        """
        return fingerprint is None or fingerprint == self.fingerprint or fingerprint in self.ancestors

    @checks_types
    def with_items(
        self,
        item_ids: Sequence[str],
        codes: np.ndarray | Sequence[Sequence[int]] | None = None,
        titles: Sequence[str] | None = None,
        sids: Sequence[str] | None = None,
    ) -> "SIDIndex":
        """
        A new index with further items: a recommender of this one can recommend them at once, without training.

        Args:
            item_ids (`Sequence[str]`):
                Their ids, new to the index.
            codes (`np.ndarray` of shape `(items, levels)`, *optional*):
                Their codes, from the quantiser that made the index: `quantizer.encode(embeddings)`.
            titles (`Sequence[str]`, *optional*):
                Their titles. Where absent and the index has titles, those of items that are back are what they were,
                others are empty.
            sids (`Sequence[str]`, *optional*):
                Their spelled SIDs, instead of `codes`.

        Returns:
            [`SIDIndex`]: With the items at its end, a training count of 0 for each, and this index and its ancestors
            among its ancestors.

        Raises:
            `ValueError`: known ids, codes or tokens that the index does not have (the model has learned nothing of
            them), codes for an index whose tokens are numbered otherwise, such as one read from a file that leaves
            numbers out.

        Example:

        ```python
        >>> from tsrec_hf import SIDIndex

        >>> index = SIDIndex(["apple", "nail"], [[0, 1], [1, 0]])
        >>> grown = index.with_items(["pear"], codes=[[0, 0]])
        >>> grown.items_of("<a_0><b_0>"), grown.fits(index.fingerprint), len(index)
        (['pear'], True, 2)
        ```
        """
        item_ids = list(item_ids)
        if (codes is None) == (sids is None):
            raise ValueError("Expected either `codes` or `sids` of the new items. Pass one of the two.")
        if sids is not None:
            rows = np.array([self.parse(sid) for sid in sids], dtype=np.int32).reshape(-1, self.num_levels)
        else:
            assert codes is not None
            rows = checked_new_codes(self, codes)
        if len(rows) != len(item_ids):
            raise ValueError(f"Expected a SID for each of {len(item_ids)} new items, but found {len(rows)}.")
        if titles is not None and len(titles) != len(item_ids):
            raise ValueError(f"Expected a title for each of {len(item_ids)} new items, but found {len(titles)}.")
        if titles is not None or self.titles is not None:
            old = [""] * len(self) if self.titles is None else self.titles
            titles = [*old, *(self._titles_before(item_ids) if titles is None else titles)]
        counts = None if self.counts is None else np.append(self.counts, np.zeros(len(item_ids), dtype=np.int64))
        return self._descendant(
            item_ids=[*self.item_ids, *item_ids],
            codes=np.concatenate([self.codes, rows]),
            titles=titles,
            counts=counts,
            delisted=self._still_delisted(set(item_ids)),
        )

    @checks_types
    def without_items(self, item_ids: Sequence[str]) -> "SIDIndex":
        """
        A new index that lacks some items: they are recommended no more, and histories may not hold them. Their SIDs
        stay in `delisted`, for [`extend_index`] to keep them free, and to give them back.

        Args:
            item_ids (`Sequence[str]`):
                Their ids.

        Returns:
            [`SIDIndex`]: With this index and its ancestors among its ancestors.

        Raises:
            `KeyError`: an unknown item. `TypeError`: a single string. `ValueError`: no item would be left.

        Example:

        ```python
        >>> from tsrec_hf import SIDIndex

        >>> SIDIndex(["apple", "nail"], [[0, 1], [1, 0]]).without_items(["apple"]).item_ids
        ['nail']
        ```
        """
        kept = ~self.mask_of(item_ids)
        if not kept.any():
            raise ValueError(f"Expected at least one item to be left, but all {len(self)} would be removed.")
        rows = np.flatnonzero(kept).tolist()
        return self._descendant(
            item_ids=[self.item_ids[row] for row in rows],
            codes=self.codes[kept],
            titles=None if self.titles is None else [self.titles[row] for row in rows],
            counts=None if self.counts is None else self.counts[kept],
            delisted=self._delisted_with(~kept),
        )

    def _delisted_with(self, gone: np.ndarray) -> "SIDIndex | None":
        """The items that went before, and then those of a mask."""
        if not gone.any():
            return self.delisted
        went = self._part(np.flatnonzero(gone))
        before = self.delisted
        if before is None:
            return went
        titles = None
        if before.titles is not None or went.titles is not None:
            titles = [title for part in (before, went) for title in part.titles or [""] * len(part)]
        codes = np.concatenate([before.codes, went.codes])
        return SIDIndex(before.item_ids + went.item_ids, codes, self.tokens, titles)

    def _still_delisted(self, returned: set[str]) -> "SIDIndex | None":
        """The items that went before and are not back."""
        if self.delisted is None or returned.isdisjoint(self.delisted.item_ids):
            return self.delisted
        rows = [row for row, item_id in enumerate(self.delisted.item_ids) if item_id not in returned]
        return self.delisted._part(np.array(rows)) if rows else None

    def _titles_before(self, item_ids: Sequence[str]) -> list[str]:
        """Titles that items had before they went; empty for others."""
        gone = self.delisted
        titles = {} if gone is None or gone.titles is None else dict(zip(gone.item_ids, gone.titles))
        return [titles.get(item_id, "") for item_id in item_ids]

    def _part(self, rows: np.ndarray) -> "SIDIndex":
        """Some items with their SIDs and titles, and nothing else."""
        titles = None if self.titles is None else [self.titles[row] for row in rows]
        return SIDIndex([self.item_ids[row] for row in rows], self.codes[rows], self.tokens, titles)

    def with_counts(self, counts: np.ndarray | Sequence[int]) -> "SIDIndex":
        """
        The same index with the training count of each item, by which items that share a SID are ranked.

        Args:
            counts (`np.ndarray` of shape `(num_items,)`):
                How many training rows have the item as their target, in the order of `item_ids`.

        Raises:
            `TypeError`: counts that are not integers. `ValueError`: negative ones, another number than of items.
        """
        return self._replace(counts=counts)

    def _replace(self, **changes: Any) -> "SIDIndex":
        """The same index but for some arguments of the constructor."""
        names = ("item_ids", "codes", "tokens", "titles", "counts", "delisted")
        parts = {name: self.__dict__[name] for name in names} | {"ancestors": self._given_ancestors}
        return SIDIndex(**(parts | changes))

    def _descendant(self, **changes: Any) -> "SIDIndex":
        return self._replace(ancestors=(*self.ancestors, self.fingerprint), **changes)

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
        Boolean mask over the index of some items, as `recommend(allowed_items=...)` takes it.

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
        Ids of the items that carry a SID, by training count where the index has counts, else in index order.

        Args:
            sid (`str` or `Sequence[int]`):
                The SID, spelled or as codes.

        Returns:
            `list[str]`: Empty for a SID of known tokens that no item carries.

        Raises:
            `ValueError`: another number of levels, a token or code that the index does not have.
        """
        codes = self.parse(sid) if isinstance(sid, str) else _as_codes(sid)
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
        """SIDs that several items share, each with its items as [`~SIDIndex.items_of`] orders them."""
        trie = self.trie
        shared = (trie.leaf_offsets.diff() > 1).nonzero().flatten().tolist()
        groups = [trie.items_of_leaf(leaf) for leaf in shared]
        return {self.spell(self.codes[group[0]]): [self.item_ids[row] for row in group] for group in groups}

    @classmethod
    @checks_types
    def from_json(cls, path: str | Path) -> "SIDIndex":
        """
        Reads MiniOneRec's `index.json`: `{"item id": ["<a_236>", "<b_231>", "<c_226>"], ...}`.

        The levels' tokens are those that occur in the file, ordered by number, so `codes` are positions among them and
        not the numbers in the tokens.

        Raises:
            `ValueError`: a truncated file, duplicate item ids, SIDs of unequal length, tokens not of the form `<...>`.
        """
        item_ids, codes, tokens = read_index_json(path)
        return cls(item_ids, codes, tokens=tokens)

    @checks_types
    def to_json(self, path: str | Path) -> None:
        """Writes MiniOneRec's `index.json`, the reverse of [`SIDIndex.from_json`]."""
        sids = {
            item_id: [level_tokens[code] for level_tokens, code in zip(self.tokens, codes)]
            for item_id, codes in zip(self.item_ids, self.codes.tolist())
        }
        write_text(path, json.dumps(sids, ensure_ascii=False))

    @checks_types
    def save(self, directory: str | Path) -> Path:
        """Writes the index to `directory/sid_index.safetensors` and returns the file's path."""
        arrays = {"codes": self.codes}
        if self.counts is not None:
            arrays["counts"] = self.counts
        strings = {"item_ids": self.item_ids}
        if self.titles is not None:
            strings["titles"] = self.titles
        if self.delisted is not None:
            arrays["delisted_codes"] = self.delisted.codes
            strings["delisted_ids"] = self.delisted.item_ids
            if self.delisted.titles is not None:
                strings["delisted_titles"] = self.delisted.titles
        facts: dict[str, list] = {"tokens": self.tokens}
        if self.ancestors:
            facts["ancestors"] = list(self.ancestors)
        return write_index(directory, arrays, strings, facts)

    @classmethod
    @checks_types
    def load(cls, path: str | Path) -> "SIDIndex":
        """
        Reads an index that [`SIDIndex.save`] wrote.

        Args:
            path (`str` or `Path`):
                The folder that was saved to, or the file itself.

        Raises:
            `FileNotFoundError`: no such file. `ValueError`: a truncated file, or one of another format.
        """
        arrays, strings, facts = read_index(path)
        delisted = None
        if "delisted_ids" in strings:
            ids, titles = strings["delisted_ids"], strings.get("delisted_titles")
            delisted = cls(ids, arrays["delisted_codes"], facts["tokens"], titles)
        return cls(
            strings["item_ids"],
            arrays["codes"],
            facts["tokens"],
            strings.get("titles"),
            arrays.get("counts"),
            facts.get("ancestors", ()),
            delisted,
        )


def _as_codes(sid: Any) -> tuple[int, ...]:
    sid = sid.tolist() if hasattr(sid, "tolist") else sid
    codes = tuple(sid) if isinstance(sid, Iterable) and not isinstance(sid, (str, bytes, Mapping)) else (None,)
    if not all(isinstance(code, Integral) and not isinstance(code, bool) for code in codes):
        raise TypeError(
            f"Expected a SID as a string such as '<a_0><b_1>', or as whole numbers, but found {repr(sid)[:80]}. Take "
            "one of `sid_index.sid_of` or a row of `sid_index.codes`."
        )
    return tuple(map(int, codes))  # type: ignore[arg-type]  # integers, which was checked
