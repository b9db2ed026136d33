"""Shorten rows that are too long by their oldest items, never by their instruction or their answer."""

from dataclasses import dataclass

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
    Shortens sequence rows to `max_length` tokens by dropping whole items behind the instruction, oldest first.

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
        `ValueError`: rows of text tasks that are too long, or a `max_length` below the instruction and two items.
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
    dropped_items = dropped_targets = 0
    shortened: dict[int, dict[str, list[int]]] = {}
    for number, length in enumerate(lengths):
        if length <= max_length:
            continue
        row = rows[number]
        if row["input_ids"][: len(instruction)] != instruction or row.get("task", "sequence") != "sequence":
            raise ValueError(
                f"Row {number} of task {row.get('task')!r} has {length} tokens, more than `max_length={max_length}`, "
                "and is not a history that could lose its oldest items. Raise `max_length`, or shorten the texts it "
                "was built from."
            )
        cut = -(-(length - max_length) // levels) * levels
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


def _count(labels: list[int]) -> int:
    return sum(label != IGNORED for label in labels)
