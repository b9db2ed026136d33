"""
The sequence task: predict the SID of the next item from a history of SIDs.

A *session row* holds one user's items in order behind the instruction and carries the loss of every next item at once;
a *window row* holds one target and the items before it: up to `max_history` times the tokens.

Nothing is predicted from more than the last `max_history` items, in training as in a search. A user of more items is
cut into overlapping stretches of `max_history + 1`, of which the last ones are targets: the fewer, the more items of
their history all of them see, and the more often an item is read.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from datasets import Dataset

from tsrec_hf.items import RecommendationDataset
from tsrec_hf.models import PromptBuilder, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types

from ..rows import IGNORED, ROW_FEATURES, check_columns


@checks_types
def build_sequence_rows(
    interactions: Dataset,
    tokenizer: TSRecTokenizer,
    mode: Literal["session", "window"] = "session",
    targets_per_stretch: int | None = None,
) -> Dataset:
    r"""
    Builds the training rows of the sequence task.

    Args:
        interactions (`Dataset`):
            Rows with `user_id`, `history` (item ids, oldest first) and `target`, each user's in time order.
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

    Returns:
        `Dataset` with `input_ids`, `labels` (`-100` outside the targets' SIDs) and `task` (`"sequence"`). The answer
        is exactly the SID's tokens: no end token, since a SID's length is known.

    Raises:
        `ValueError`: a missing column, an empty history, `targets_per_stretch` below 1 or above `max_history`.
        `KeyError`: an item that the index does not hold.

    Example:

    ```python
    >>> from tsrec_hf import build_sequence_rows

    >>> build_sequence_rows(dataset.train, tokenizer).num_rows
    3
    >>> build_sequence_rows(dataset.train, tokenizer, mode="window").num_rows
    6
    ```
    """
    check_columns(
        interactions,
        ("user_id", "history", "target"),
        "interactions",
        "Load them with `load_minionerec` or `chronological_split`.",
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
    users, histories, targets = (interactions[name][:] for name in ("user_id", "history", "target"))
    stretches: Iterator[tuple[list[str], int]]
    if mode == "window":
        stretches = (([*prompts.kept_history(history), target], 1) for history, target in zip(histories, targets))
    else:
        stretches = _session_stretches(users, histories, targets, prompts, targets_per_stretch)
    instruction = np.asarray(prompts.instruction_ids)
    sid_ids = item_token_ids(tokenizer)
    input_ids, labels = [], []
    for items, num_targets in stretches:
        tokens = sid_ids[tokenizer.sid_index.positions_of(items)].reshape(-1)
        row = np.concatenate([instruction, tokens])
        row_labels = np.full(len(row), IGNORED)
        answer = num_targets * sid_ids.shape[1]
        row_labels[-answer:] = row[-answer:]
        input_ids.append(row)
        labels.append(row_labels)
    columns = {"input_ids": input_ids, "labels": labels, "task": ["sequence"] * len(input_ids)}
    return Dataset.from_dict(columns, features=ROW_FEATURES)


def default_targets_per_stretch(tokenizer: TSRecTokenizer) -> int:
    """The least number of targets with which a stretch, instruction included, has at most twice their tokens."""
    longest, levels = tokenizer.max_history, tokenizer.sid_index.num_levels
    tokens = len(PromptBuilder(tokenizer).instruction_ids) + (longest + 1) * levels
    return min(longest, math.ceil(tokens / (2 * levels)))


@dataclass(frozen=True)
class SequenceTask:
    """
    History of SIDs -> SID of the next item, with the options of [`build_sequence_rows`].

    Rows of other splits than `"train"` give every target its last `max_history` items, as a search does, unless
    `targets_per_stretch` says otherwise.
    """

    mode: Literal["session", "window"] = "session"
    targets_per_stretch: int | None = None
    weight: float = 1.0
    name: ClassVar[str] = "sequence"

    def rows(self, dataset: RecommendationDataset, split: str, tokenizer: TSRecTokenizer) -> Dataset:
        whole = self.targets_per_stretch is None and split != "train"
        return build_sequence_rows(
            getattr(dataset, split), tokenizer, self.mode, 1 if whole else self.targets_per_stretch
        )


def item_token_ids(tokenizer: TSRecTokenizer) -> np.ndarray:
    """Token ids of every item's SID, `(items, levels)`, in index order."""
    codes = tokenizer.sid_index.codes
    return np.stack([np.asarray(ids)[codes[:, level]] for level, ids in enumerate(tokenizer.sid_token_ids)], axis=1)


def _session_stretches(
    users: Sequence[str],
    histories: Sequence[list[str]],
    targets: Sequence[str],
    prompts: PromptBuilder,
    targets_per_stretch: int,
) -> Iterator[tuple[list[str], int]]:
    """Items of each session row and how many of them, at its end, are targets."""
    longest = prompts.max_history
    for items, first_target in _sessions(users, histories, targets, longest):
        target = first_target
        start = max(0, target - longest)
        prompts.kept_history(items[start:target])
        while target < len(items):
            stop = min(len(items), start + longest + 1)
            yield items[start:stop], stop - target
            target = stop
            if target < len(items):
                # As many stretches as needed, of about equal numbers of targets: all then see as much as they can.
                left = len(items) - target
                start = target + math.ceil(left / math.ceil(left / targets_per_stretch)) - longest - 1


def _sessions(
    users: Sequence[str], histories: Sequence[list[str]], targets: Sequence[str], longest: int
) -> list[tuple[list[str], int]]:
    """
    Chains rows whose history is what the user's earlier rows hold; a row that does not fit begins another
    session.
    """
    sessions: list[tuple[list[str], int]] = []
    open_session: dict[str, list[str]] = {}
    for user, history, target in zip(users, histories, targets):
        items = open_session.get(user)
        if items is None or len(history) < min(longest, len(items)) or items[-len(history) :] != history:
            items = open_session[user] = list(history)
            sessions.append((items, len(history)))
        items.append(target)
    return sessions
