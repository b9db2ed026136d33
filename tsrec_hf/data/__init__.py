"""Prompts, rows of every task, and the collator."""

from tsrec_hf.models import PromptBuilder

from .collator import BUILT_IN_TASKS, DataCollatorForTSAlign
from .group_rows import build_grpo_rows
from .length import LengthReport, drop_oldest_items
from .mixture import build_sft_mixture, tokenize_rows
from .sequence import build_sequence_rows
from .text_tasks import build_alignment_rows, build_history_title_rows, build_title_rows


__all__ = [
    "BUILT_IN_TASKS",
    "DataCollatorForTSAlign",
    "LengthReport",
    "PromptBuilder",
    "build_alignment_rows",
    "build_grpo_rows",
    "build_history_title_rows",
    "build_sequence_rows",
    "build_sft_mixture",
    "build_title_rows",
    "drop_oldest_items",
    "tokenize_rows",
]
