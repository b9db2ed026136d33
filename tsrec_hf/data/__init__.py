"""Prompts, tasks and their rows, the SFT mixture and its collator."""

from tsrec_hf.models import PromptBuilder

from .collator import DataCollatorForTSAlign
from .group_rows import build_grpo_rows
from .length import LengthReport, drop_oldest_items
from .mixture import build_sft_mixture
from .rows import tokenize_rows
from .tasks import (
    BUILT_IN_TASKS,
    AlignmentTask,
    HistoryTitleTask,
    SequenceTask,
    Task,
    TitleTask,
    build_alignment_rows,
    build_history_title_rows,
    build_sequence_rows,
    build_title_rows,
)


__all__ = [
    "BUILT_IN_TASKS",
    "AlignmentTask",
    "DataCollatorForTSAlign",
    "HistoryTitleTask",
    "LengthReport",
    "PromptBuilder",
    "SequenceTask",
    "Task",
    "TitleTask",
    "build_alignment_rows",
    "build_grpo_rows",
    "build_history_title_rows",
    "build_sequence_rows",
    "build_sft_mixture",
    "build_title_rows",
    "drop_oldest_items",
    "tokenize_rows",
]
