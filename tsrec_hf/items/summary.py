"""`LogSummary`: counts of what reading, cleaning and filtering kept and dropped, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc


if TYPE_CHECKING:
    from .dataset import RecommendationDataset


class Stage(NamedTuple):
    """Counts after one stage."""

    name: str
    items: int
    users: int
    interactions: int


@dataclass(frozen=True)
class LogSummary:
    r"""
    Records how many items, users and interactions each processing stage of a log left.

    `str(summary)` is a Markdown table with the number of rows that each stage dropped in brackets.

    Args:
        stages (`tuple[Stage]`, *optional*):
            The stages so far, in order.
        splits (`tuple[Stage]`, *optional*):
            Rows, users and distinct targets of each split.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tsrec_hf.items import InteractionLog, tidy

    >>> items = Dataset.from_dict({"item_id": ["1", "2"], "title": ["Nut", ""], "description": ["", ""]})
    >>> interactions = Dataset.from_dict({"user_id": ["u"] * 2, "item_id": ["1", "2"], "timestamp": [1.0, 2.0]})
    >>> log = tidy(InteractionLog(items, interactions))
    >>> [(stage.name, stage.items) for stage in log.summary.stages][:2]
    [('given', 2), ('0 texts cleaned', 2)]
    >>> print(str(log.summary).splitlines()[-1])
    | repeated user, item and time dropped | 1 | 1 | 1 |
    ```
    """

    stages: tuple[Stage, ...] = ()
    splits: tuple[Stage, ...] = ()

    def add(self, name: str, items: pa.Table, interactions: pa.Table) -> LogSummary:
        """Returns a summary with one more stage, after which `items` and `interactions` remain."""
        users = pc.count_distinct(interactions["user_id"]).as_py()
        return replace(self, stages=(*self.stages, Stage(name, len(items), users, len(interactions))))

    def with_splits(self, dataset: RecommendationDataset) -> LogSummary:
        """Returns a summary with the numbers of rows, users and targets of `train`, `valid` and `test`."""
        splits = []
        for name in ("train", "valid", "test"):
            rows = getattr(dataset, name).select_columns(["user_id", "target"]).with_format("arrow")[:]
            targets, users = (pc.count_distinct(rows[column]).as_py() for column in ("target", "user_id"))
            splits.append(Stage(f"rows of {name}", targets, users, len(rows)))
        return replace(self, splits=tuple(splits))

    def __str__(self) -> str:
        rows = [["stage", *Stage._fields[1:]], ["---"] * len(Stage._fields)]
        for before, stage in zip((None, *self.stages), self.stages):
            rows.append([stage.name, *_count(stage, before)])
        rows.extend([stage.name, *_count(stage)] for stage in self.splits)
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _count(stage: Stage, before: Stage | None = None) -> list[str]:
    gone = [0] * 3 if before is None else [old - new for old, new in zip(before[1:], stage[1:])]
    return [f"{left:,} (-{drop:,})" if drop else f"{left:,}" for left, drop in zip(stage[1:], gone)]
