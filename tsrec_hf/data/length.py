"""Shorten rows that are too long by their oldest items, never by their instruction or their answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from tsrec_hf.models import PromptBuilder, TSRecTokenizer

from .rows import IGNORED


@dataclass(frozen=True)
class LengthReport:
    """How many rows were too long, and how many items and labelled targets were dropped from them."""

    rows: int
    items: int
    targets: int


def drop_oldest_items(rows: Dataset, tokenizer: TSRecTokenizer, max_length: int) -> tuple[Dataset, LengthReport]:
    r"""
    Shortens rows to `max_length` tokens by dropping whole items behind the instruction, oldest first.

    Rows of the tasks `"sequence"` and `"history_title"` have such items; one at least stays before the latter's text.

    Args:
        rows (`Dataset`):
            Rows with `input_ids` and `labels`, of any task.
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer that the rows were built with.
        max_length (`int`):
            Maximum number of tokens of a row.

    Returns:
        `tuple[Dataset, LengthReport]`: The rows, and how many of them lost how many items and targets.

    Raises:
        `ValueError`: rows whose instruction and text alone are too long (`max_text_tokens` of the builders bounds
        texts), or a `max_length` below the instruction and two items.
    """
    lengths = pc.list_value_length(rows.with_format("arrow")["input_ids"][:])
    long = np.flatnonzero(lengths.to_numpy() > max_length).tolist()
    if not long:
        return rows, LengthReport(0, 0, 0)
    shortener = RowShortener(tokenizer, max_length)
    dropped_items = dropped_targets = 0
    shortened: dict[int, dict[str, list[int]]] = {}
    for number in long:
        shortened[number], items, targets = shortener(rows[number], f"row {number}")
        dropped_items += items
        dropped_targets += targets
    rows = rows.map(lambda row, number: shortened.get(number, {}), with_indices=True, desc="Dropping the oldest items")
    return rows, LengthReport(len(shortened), dropped_items, dropped_targets)


class RowShortener:
    """
    Drops the oldest items of one row at a time.

    Args:
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer that the rows were built with.
        max_length (`int`):
            Maximum number of tokens of a row.

    Raises:
        `ValueError`: a `max_length` below the instruction and two items.
    """

    def __init__(self, tokenizer: TSRecTokenizer, max_length: int):
        self.instruction = PromptBuilder(tokenizer).instruction_ids
        self.levels = tokenizer.sid_index.num_levels
        self.max_length = max_length
        if len(self.instruction) + 2 * self.levels > max_length:
            raise ValueError(
                f"Expected `max_length` of at least {len(self.instruction) + 2 * self.levels}, the instruction and "
                f"two items, but found {max_length}. Raise it."
            )
        self._sid_tokens = frozenset(token_id for level in tokenizer.sid_token_ids for token_id in level)

    def __call__(self, row: Mapping[str, Any], name: str) -> tuple[dict[str, list[int]], int, int]:
        """The columns of a row that is too long, shortened, and how many items and targets it lost."""
        ids, levels = row["input_ids"], self.levels
        cut = -(-(len(ids) - self.max_length) // levels) * levels
        if cut > _droppable(row, self.instruction, self._sid_tokens, levels):
            raise ValueError(
                f"{name.capitalize()} of task {row.get('task')!r} has {len(ids)} tokens, more than "
                f"`max_length={self.max_length}`, and is not a history that could lose its oldest items. Raise "
                "`max_length`, or lower `max_text_tokens` of the function that built the rows."
            )
        start = len(self.instruction)
        labels = row["labels"][start:]
        kept = labels[cut:]
        # What is now the first item has no history left to be predicted from.
        kept[:levels] = [IGNORED] * levels
        shortened = {
            "input_ids": self.instruction + ids[start + cut :],
            "labels": [IGNORED] * start + kept,
        }
        return shortened, cut // levels, (_count(labels) - _count(kept)) // levels


def _droppable(row: Mapping[str, Any], instruction: list[int], sid_tokens: frozenset[int], levels: int) -> int:
    """Counts the tokens of the oldest items that a row may lose: all but two items, or all but one before a text."""
    ids = row["input_ids"]
    if ids[: len(instruction)] != instruction:
        return 0
    task = row.get("task", "sequence")
    if task == "sequence":
        return len(ids) - len(instruction) - 2 * levels
    items = sum(1 for _ in takewhile(sid_tokens.__contains__, ids[len(instruction) :]))
    has_text = len(instruction) + items < len(ids)
    return items - levels if task == "history_title" and has_text else 0


def _count(labels: list[int]) -> int:
    return sum(label != IGNORED for label in labels)
