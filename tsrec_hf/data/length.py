"""Shorten rows that are too long by their oldest items, never by their instruction or their answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

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
    lengths = [len(ids) for ids in rows["input_ids"]]
    if max(lengths, default=0) <= max_length:
        return rows, LengthReport(0, 0, 0)
    instruction = PromptBuilder(tokenizer).instruction_ids
    levels = tokenizer.sid_index.num_levels
    if len(instruction) + 2 * levels > max_length:
        raise ValueError(
            f"Expected `max_length` of at least {len(instruction) + 2 * levels}, the instruction and two items, but "
            f"found {max_length}. Raise it."
        )
    sid_tokens = frozenset(token_id for level in tokenizer.sid_token_ids for token_id in level)
    dropped_items = dropped_targets = 0
    shortened: dict[int, dict[str, list[int]]] = {}
    for number, length in enumerate(lengths):
        if length <= max_length:
            continue
        row = rows[number]
        cut = -(-(length - max_length) // levels) * levels
        if cut > _droppable(row, instruction, sid_tokens, levels):
            raise ValueError(
                f"Row {number} of task {row.get('task')!r} has {length} tokens, more than `max_length={max_length}`, "
                "and is not a history that could lose its oldest items. Raise `max_length`, or lower "
                "`max_text_tokens` of the function that built the rows."
            )
        labels = row["labels"][len(instruction) :]
        kept = labels[cut:]
        # What is now the first item has no history left to be predicted from.
        kept[:levels] = [IGNORED] * levels
        dropped_items += cut // levels
        dropped_targets += (_count(labels) - _count(kept)) // levels
        shortened[number] = {
            "input_ids": instruction + row["input_ids"][len(instruction) + cut :],
            "labels": [IGNORED] * len(instruction) + kept,
        }
    rows = rows.map(lambda row, number: shortened.get(number, {}), with_indices=True, desc="Dropping the oldest items")
    return rows, LengthReport(len(shortened), dropped_items, dropped_targets)


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
