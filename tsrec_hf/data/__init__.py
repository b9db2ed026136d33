"""Prompts, rows of every task, and the collator."""

from tsrec_hf.models import PromptBuilder

from .collator import TASKS, DataCollatorForTSAlign
from .length import LengthReport, drop_oldest_items
from .sequence import build_sequence_rows


__all__ = [
    "TASKS",
    "DataCollatorForTSAlign",
    "LengthReport",
    "PromptBuilder",
    "build_sequence_rows",
    "drop_oldest_items",
]
