"""
The sequence task: predict the SID of the next item from a history of SIDs.

A *session row* holds one user's items in order behind the instruction and carries the loss of every next item at once;
a *window row* holds one target and the items before it. Both give every target the same context, so their losses are
equal, but session rows hold each item about once and window rows once per target that it precedes: up to
`max_history` times the tokens.
"""

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
    targets_per_stretch: int = 1,
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
            items are cut into overlapping stretches, so that every target keeps its last `max_history` items and is
            counted once.
        targets_per_stretch (`int`, *optional*, defaults to `1`):
            Targets in each further stretch of a longer user. Above 1, users with hundreds of items cost far fewer
            tokens, and the later targets of a stretch are predicted from more than `max_history` items, up to
            `max_history + targets_per_stretch - 1`.

    Returns:
        `Dataset` with `input_ids`, `labels` (`-100` outside the targets' SIDs) and `task` (`"sequence"`). The answer
        is exactly the SID's tokens: no end token, since a SID's length is known.

    Raises:
        `ValueError`: a missing column, an empty history. `KeyError`: an item that the index does not hold.

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
    if targets_per_stretch < 1:
        raise ValueError(f"Expected `targets_per_stretch` of at least 1, but found {targets_per_stretch}. Raise it.")
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


@dataclass(frozen=True)
class SequenceTask:
    """History of SIDs -> SID of the next item, with the options of [`build_sequence_rows`]."""

    mode: Literal["session", "window"] = "session"
    targets_per_stretch: int = 1
    weight: float = 1.0
    name: ClassVar[str] = "sequence"

    def rows(self, dataset: RecommendationDataset, split: str, tokenizer: TSRecTokenizer) -> Dataset:
        return build_sequence_rows(getattr(dataset, split), tokenizer, self.mode, self.targets_per_stretch)


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
            stop = min(len(items), max(start + longest + 1, target + targets_per_stretch))
            yield items[start:stop], stop - target
            target = stop
            start = target - longest


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
