"""The collator of every task: sequence rows with labels at many positions, text rows with labels on answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from tsrec_hf.models.checking_tsrec import checks_types

from .rows import IGNORED
from .tasks import BUILT_IN_TASKS


@checks_types
@dataclass
class DataCollatorForTSAlign:
    r"""
    Pads rows of all tasks on the right and stacks them into one batch.

    Args:
        tokenizer ([`TSRecTokenizer`]):
            Gives the padding token.
        pad_to_multiple_of (`int`, *optional*):
            Pads lengths up to a multiple of this number.
        task_weights (`dict[str, float]`, *optional*):
            Factor of each task's loss, 1 where absent. [`TSRecSFTTrainer`] applies them.
        task_names (`Sequence[str]`, *optional*, defaults to the four built-in tasks):
            Names of the tasks whose rows are collated, in the order that `task_ids` counts. [`TSRecSFTTrainer`] takes
            them from its data sets.

    Attributes:
        task_names (`tuple[str, ...]`):
            Name of the task of each number in `task_ids`.

    Returns:
        `dict` of `input_ids`, `attention_mask` and `labels` of shape `(batch, length)`; where the rows have a `task`,
        also `task_ids` (positions in `task_names`) and `loss_weights` of shape `(batch,)`. The stock trainers drop
        the column `task`, and then get the first three alone.

    Raises:
        `ValueError`: rows without `labels`, labels of another length than their row, a batch whose labels are all
        ignored, a task that is not in `task_names`.

    Example:

    ```python
    >>> from tsrec_hf import DataCollatorForTSAlign, build_sequence_rows

    >>> rows = build_sequence_rows(dataset.train, tokenizer)
    >>> batch = DataCollatorForTSAlign(tokenizer, pad_to_multiple_of=8)([rows[0], rows[1]])
    >>> batch["input_ids"].shape, batch["task_ids"].tolist()
    (torch.Size([2, 24]), [0, 0])
    ```
    """

    tokenizer: PreTrainedTokenizerBase
    pad_to_multiple_of: int | None = None
    task_weights: Mapping[str, float] | None = None
    task_names: Sequence[str] = BUILT_IN_TASKS

    def __post_init__(self):
        if isinstance(self.task_names, str) or len(set(self.task_names)) != len(self.task_names):
            raise ValueError(
                f"Expected `task_names` as a list of different names, but found {self.task_names!r}. Name each task "
                "once."
            )
        self.task_names = tuple(self.task_names)
        unknown = set(self.task_weights or {}) - set(self.task_names)
        if unknown:
            raise ValueError(
                f"Expected weights for the tasks {self.task_names}, but found {sorted(unknown)}. Correct the names in "
                "`task_weights`, or add your own tasks to `task_names`."
            )
        if not all(0 <= weight < math.inf for weight in (self.task_weights or {}).values()):
            raise ValueError(
                f"Expected finite `task_weights` of at least 0, but found {self.task_weights}. Leave a task out by 0."
            )
        if self.tokenizer.pad_token_id is None:
            raise ValueError("Expected a tokenizer with a padding token. Set `tokenizer.pad_token`.")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        for row in rows:
            if "labels" not in row or len(row["labels"]) != len(row["input_ids"]):
                raise ValueError(
                    "Expected rows with `labels` as long as their `input_ids`, but found a row with the columns "
                    f"{sorted(row)}. Build rows with `build_sft_mixture` or `build_sequence_rows`."
                )
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        width = int(lengths.max())
        if self.pad_to_multiple_of is not None:
            width = -(-width // self.pad_to_multiple_of) * self.pad_to_multiple_of
        batch = {
            "input_ids": _padded(rows, "input_ids", self.tokenizer.pad_token_id, width),
            "attention_mask": (torch.arange(width) < lengths.unsqueeze(-1)).long(),
            "labels": _padded(rows, "labels", IGNORED, width),
        }
        # The first label of a row is never predicted: there is nothing before it.
        if bool((batch["labels"][:, 1:] == IGNORED).all()):
            raise ValueError(
                f"Every label of this batch of {len(rows)} rows is ignored, so it has no loss. Truncation may have "
                "cut the answers: raise `max_length`."
            )
        if "task" in rows[0]:
            names = [row.get("task") for row in rows]
            unknown = [name for name in names if name not in self.task_names]
            if unknown:
                raise ValueError(
                    f"Expected rows of the tasks {self.task_names}, but found {unknown[0]!r}. Add your own tasks to "
                    "the collator's `task_names`."
                )
            weights = self.task_weights or {}
            batch["task_ids"] = torch.tensor([self.task_names.index(name) for name in names])
            batch["loss_weights"] = torch.tensor([float(weights.get(str(name), 1.0)) for name in names])
        return batch


def _padded(rows: Sequence[Mapping[str, Any]], column: str, value: int, width: int) -> torch.Tensor:
    padded = pad_sequence([torch.as_tensor(row[column], dtype=torch.long) for row in rows], True, value)
    return torch.nn.functional.pad(padded, (0, width - padded.shape[1]), value=value)
