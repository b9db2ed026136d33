"""The tasks of the SFT mixture, one module each."""

from .alignment import AlignmentTask, build_alignment_rows
from .history_title import HistoryTitleTask, build_history_title_rows
from .sequence import SequenceTask, build_sequence_rows
from .task import BUILT_IN_TASKS, Task
from .title import TitleTask, build_title_rows


__all__ = [
    "BUILT_IN_TASKS",
    "AlignmentTask",
    "HistoryTitleTask",
    "SequenceTask",
    "Task",
    "TitleTask",
    "build_alignment_rows",
    "build_history_title_rows",
    "build_sequence_rows",
    "build_title_rows",
]
