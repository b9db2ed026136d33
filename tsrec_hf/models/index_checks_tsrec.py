"""Checks of the parts of a SID index, with the errors that users see."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .trie_tsrec import checked_codes


if TYPE_CHECKING:
    from .indexing_tsrec import SIDIndex


# Of a level. Codebooks have hundreds or thousands.
MOST_TOKENS = 1 << 20
TOKEN_PATTERN = re.compile(r"<[^<>\s]+>")


def check_index(index: "SIDIndex") -> None:
    """Raises `TypeError` or `ValueError` where the parts of an index do not fit each other."""
    _check_strings("item ids", index.item_ids, "Convert the ids with `str` wherever they are read, so that all agree.")
    _check_strings("titles", index.titles or [], "Give items without a title an empty one.")
    if len(index.item_ids) != len(index.codes):
        raise ValueError(
            f"Expected one row of codes per item, but found {len(index.item_ids)} item ids and {len(index.codes)} "
            "rows of codes. Pass both in the same order."
        )
    if len(index._positions) != len(index.item_ids):
        # The last row of a duplicated id is the one that is looked up; its first is elsewhere.
        twice = next(item for row, item in enumerate(index.item_ids) if index._positions[item] != row)
        raise ValueError(f"Expected unique item ids, but {twice!r} occurs more than once. Remove the duplicate rows.")
    if index.titles is not None and len(index.titles) != len(index.item_ids):
        raise ValueError(f"Expected {len(index.item_ids)} titles, one per item, but found {len(index.titles)}.")
    if len(index.tokens) != index.num_levels:
        raise ValueError(
            f"Expected tokens for {index.num_levels} levels (the codes' width), but found {len(index.tokens)}."
        )
    for level, (level_tokens, highest) in enumerate(zip(index.tokens, index.codes.max(axis=0))):
        if highest >= len(level_tokens):
            raise ValueError(
                f"Code {highest} of level {level} has no token: the level has {len(level_tokens)} tokens. "
                "Codes are positions into `tokens[level]`."
            )
    flat = [token for level_tokens in index.tokens for token in level_tokens]
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
    if index.delisted is not None:
        _check_delisted(index, index.delisted)


def _check_delisted(index: "SIDIndex", delisted: "SIDIndex") -> None:
    if not isinstance(delisted, type(index)):
        raise TypeError(
            f"Expected `delisted` as a `SIDIndex`, but found `{type(delisted).__name__}`. Remove items by "
            "`without_items`."
        )
    if delisted.tokens != index.tokens:
        raise ValueError(
            f"Expected delisted items of the tokens of the index, {index}, but found {delisted}. Remove items by "
            "`without_items`."
        )
    both = next((item_id for item_id in delisted.item_ids if item_id in index), None)
    if both is not None:
        raise ValueError(
            f"Expected delisted items that are gone, but {both!r} is an item of the index. Remove items by "
            "`without_items`."
        )


def checked_new_codes(index: "SIDIndex", codes: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
    """Codes of items that an index is to get, if the index has their tokens; else raises `ValueError`."""
    for level, tokens in enumerate(index.tokens):
        numbers = [re.findall(r"\d+", token) for token in tokens]
        other = next((code for code, number in enumerate(numbers) if [str(code)] != number[-1:]), None)
        if other is not None:
            raise ValueError(
                f"Expected an index whose tokens carry their codes' numbers, but code {other} of level {level} is "
                f"spelled {tokens[other]!r}: a quantiser's codes would mean other tokens. Pass `sids`, the new "
                "items' SIDs as strings."
            )
    rows = checked_codes(codes)
    if rows.shape[1] != index.num_levels or (rows.max(axis=0) >= index.level_sizes).any():
        raise ValueError(
            f"Expected codes of {index.num_levels} levels below their sizes {index.level_sizes}, but found "
            f"{rows.shape[1]} levels with codes up to {tuple(rows.max(axis=0).tolist())}. Encode the items with "
            "the quantiser that made this index."
        )
    return rows


def _check_strings(name: str, values: Sequence[object], remedy: str) -> None:
    stray = next((value for value in values if not isinstance(value, str)), "")
    if not isinstance(stray, str):
        raise TypeError(
            f"Expected {name} of type `str`, but found {stray!r} of type `{type(stray).__name__}`. {remedy}"
        )


def checked_counts(counts: np.ndarray | Sequence[int], num_items: int) -> np.ndarray:
    """Training counts as a read-only `int64` array of shape `(num_items,)`; raises for what is none."""
    array = np.asarray(counts)
    if array.shape != (num_items,) or (array < 0).any():
        raise ValueError(
            f"Expected a training count of at least 0 for each of {num_items} items, but found shape {array.shape}"
            + (f" and a least count of {array.min()}." if array.size else ".")
            + " Count the targets of the training rows in the order of `item_ids`."
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"Expected training counts as integers, but found dtype `{array.dtype}`.")
    array = array.astype(np.int64)
    array.setflags(write=False)
    return array


def default_tokens(codes: np.ndarray) -> list[list[str]]:
    """`<a_0>`, `<a_1>`, ..., `<b_0>`, ... up to each level's highest code."""
    sizes = (codes.max(axis=0).astype(np.int64) + 1).tolist()
    if max(sizes) > MOST_TOKENS:
        raise ValueError(
            f"Expected codes that number the clusters of a level from 0, but found a code of {max(sizes) - 1:,}: "
            f"a token for each code below it would be more than {MOST_TOKENS:,}. Number the codes that occur, by "
            "`np.unique(codes[:, level], return_inverse=True)`, or pass `tokens`."
        )
    return [[f"<{chr(ord('a') + level)}_{code}>" for code in range(size)] for level, size in enumerate(sizes)]
