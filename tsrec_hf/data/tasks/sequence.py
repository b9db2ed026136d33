"""
The sequence task: predict the SID of the next item from a history of SIDs.

A *session row* holds one user's items in order behind the instruction and carries the loss of every next item at once;
a *window row* holds one target and the items before it: up to `max_history` times the tokens.

Nothing is predicted from more than the last `max_history` items, in training as in a search. A user of more items is
cut into overlapping stretches of `max_history + 1`, of which the last ones are targets: the fewer, the more items of
their history all of them see, and the more often an item is read.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from datasets import Dataset, IterableDataset

from tsrec_hf.items import RecommendationDataset
from tsrec_hf.models import PromptBuilder, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types

from ..interactions import ADVICE, LOG_COLUMNS, ROW_COLUMNS, InteractionReader, columns_of, is_log
from ..rows import IGNORED, ROW_FEATURES, Piece, check_columns, hash_of_tables, rows_in_memory, rows_on_disk


@checks_types
def build_sequence_rows(
    interactions: Dataset | IterableDataset,
    tokenizer: TSRecTokenizer,
    mode: Literal["session", "window"] = "session",
    targets_per_stretch: int | None = None,
    num_proc: int | None = None,
) -> Dataset:
    r"""
    Builds the training rows of the sequence task.

    Rows of more than 50,000 interactions, and those of a stream, are written to the cache of `datasets` a piece at a
    time, so that memory stays flat. The same arguments then find them there; rows of a stream are made anew.

    Args:
        interactions (`Dataset` or `IterableDataset`):
            Rows with `user_id`, `history` (item ids, oldest first) and `target`, each user's in time order; or a log,
            rows with `user_id` and `item_id`, in which those of a user stand together, oldest first. All items of a
            log but each user's first are targets. A stream is a log. Next-item rows are read a piece at a time where
            each user's stand together; where users alternate, all at once.
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer with the SID index.
        mode (`"session"` or `"window"`, *optional*, defaults to `"session"`):
            One row per user, with a label at every target, or one row per target. Users of more than `max_history + 1`
            items are cut into overlapping stretches of that many, and every target is counted once.
        targets_per_stretch (`int`, *optional*):
            Most targets in each further stretch of a longer user, up to `max_history`. Each is predicted from at least
            `max_history + 1 - targets_per_stretch` items. With 1, every target keeps its last `max_history` items, as
            in window rows, at `max_history + 1` times the tokens of the targets. Defaults to
            [`default_targets_per_stretch`]: a stretch has at most twice the tokens of its targets.
        num_proc (`int`, *optional*):
            Processes that make the rows of a large data set.

    Returns:
        `Dataset` with `input_ids`, `labels` (`-100` outside the targets' SIDs) and `task` (`"sequence"`). The answer
        is exactly the SID's tokens: no end token, since a SID's length is known.

    Raises:
        `ValueError`: a missing column, an empty history, a log that is not sorted by user and time,
        `targets_per_stretch` below 1 or above `max_history`. `KeyError`: an item that the index does not hold.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tsrec_hf import build_sequence_rows

    >>> build_sequence_rows(dataset.train, tokenizer).num_rows
    3
    >>> build_sequence_rows(dataset.train, tokenizer, mode="window").num_rows
    6
    >>> log = Dataset.from_dict({"user_id": ["ann", "ann", "ann"], "item_id": ["nail", "saw", "hammer"]})
    >>> build_sequence_rows(log, tokenizer).num_rows
    1
    ```
    """
    check_columns(
        columns_of(interactions), LOG_COLUMNS if is_log(interactions) else ROW_COLUMNS, "interactions", ADVICE
    )
    if targets_per_stretch is None:
        targets_per_stretch = default_targets_per_stretch(tokenizer)
    if not 1 <= targets_per_stretch <= tokenizer.max_history:
        raise ValueError(
            f"Expected `targets_per_stretch` from 1 to {tokenizer.max_history}, the tokenizer's `max_history`, but "
            f"found {targets_per_stretch}. Lower it, or leave it out for the default."
        )
    if mode not in ("session", "window"):
        raise ValueError(f"Expected `mode` 'session' or 'window', but found {mode!r}. Choose one.")
    prompts = PromptBuilder(tokenizer)
    reader = InteractionReader(interactions, prompts.max_history)
    rows = _SequenceRows(reader, prompts, item_token_ids(tokenizer), mode, targets_per_stretch)
    pieces = reader.pieces(by_user=mode == "session")
    if reader.fits_in_memory:
        return rows_in_memory(rows(pieces), ROW_FEATURES)
    identity: list[Any] | None = None
    if isinstance(interactions, Dataset):
        identity = [hash_of_tables(reader.batches()), tokenizer.prompt_version, prompts.instruction_ids]
        identity += [tokenizer.sid_index.fingerprint, tokenizer.sid_token_ids, prompts.max_history]
        identity += [mode, targets_per_stretch]
    return rows_on_disk(rows, ROW_FEATURES, identity, pieces, num_proc)


def default_targets_per_stretch(tokenizer: TSRecTokenizer) -> int:
    """The least number of targets with which a stretch, instruction included, has at most twice their tokens."""
    longest, levels = tokenizer.max_history, tokenizer.sid_index.num_levels
    tokens = len(PromptBuilder(tokenizer).instruction_ids) + (longest + 1) * levels
    return min(longest, math.ceil(tokens / (2 * levels)))


@dataclass(frozen=True)
class SequenceTask:
    """
    History of SIDs -> SID of the next item, with the options of [`build_sequence_rows`]; of `interactions` instead of
    the split's, where they are given.

    Rows of other splits than `"train"` give every target its last `max_history` items, as a search does, unless
    `targets_per_stretch` says otherwise.
    """

    mode: Literal["session", "window"] = "session"
    targets_per_stretch: int | None = None
    weight: float = 1.0
    interactions: Dataset | None = None
    num_proc: int | None = None
    name: ClassVar[str] = "sequence"

    def rows(self, dataset: RecommendationDataset, split: str, tokenizer: TSRecTokenizer) -> Dataset:
        interactions = getattr(dataset, split) if self.interactions is None else self.interactions
        whole = self.targets_per_stretch is None and split != "train"
        targets_per_stretch = 1 if whole else self.targets_per_stretch
        return build_sequence_rows(interactions, tokenizer, self.mode, targets_per_stretch, self.num_proc)


def item_token_ids(tokenizer: TSRecTokenizer) -> np.ndarray:
    """Token ids of every item's SID, `(items, levels)`, in index order."""
    codes = tokenizer.sid_index.codes
    return np.stack([np.asarray(ids)[codes[:, level]] for level, ids in enumerate(tokenizer.sid_token_ids)], axis=1)


@dataclass(frozen=True)
class _SequenceRows:
    """Makes the rows of some pieces; without the tokenizer, so that it is quickly sent to another process."""

    reader: InteractionReader
    prompts: PromptBuilder
    sid_ids: np.ndarray  # (items, levels)
    mode: str
    targets_per_stretch: int

    def __call__(self, pieces: list[Piece]) -> Iterator[dict[str, Any]]:
        instruction = np.asarray(self.prompts.instruction_ids)
        positions_of, levels = self.prompts.sid_index.positions_of, self.sid_ids.shape[1]
        stretches = self._windows(pieces) if self.mode == "window" else self._stretches(pieces)
        for items, num_targets in stretches:
            row = np.concatenate([instruction, self.sid_ids[positions_of(items)].reshape(-1)])
            labels = np.full(len(row), IGNORED)
            answer = num_targets * levels
            labels[-answer:] = row[-answer:]
            # As lists, since `datasets` looks at every number of an array before it writes it.
            yield {"input_ids": row.tolist(), "labels": labels.tolist(), "task": "sequence"}

    def _windows(self, pieces: list[Piece]) -> Iterator[tuple[list[str], int]]:
        for history, target in self.reader.targets(pieces):
            yield [*self.prompts.kept_history(history), target], 1

    def _stretches(self, pieces: list[Piece]) -> Iterator[tuple[list[str], int]]:
        """Items of each session row and how many of them, at its end, are targets."""
        longest = self.prompts.max_history
        for items, first_target in self.reader.sessions(pieces):
            target = first_target
            start = max(0, target - longest)
            self.prompts.kept_history(items[start:target])
            while target < len(items):
                stop = min(len(items), start + longest + 1)
                yield items[start:stop], stop - target
                target = stop
                if target < len(items):
                    # As many stretches as needed, of about equal numbers of targets: all then see as much as they can.
                    left = len(items) - target
                    start = target + math.ceil(left / math.ceil(left / self.targets_per_stretch)) - longest - 1
