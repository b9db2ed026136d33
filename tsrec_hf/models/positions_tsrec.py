"""Sequences that are longer than the positions a backbone has learned."""

from torch import nn
from transformers import PreTrainedModel


# Rows of a position table beside those of positions: OPT and its kin keep two.
MOST_FURTHER_ROWS = 8


def learned_positions(backbone: PreTrainedModel) -> int | None:
    """How many positions a backbone has learned, as GPT-2 and OPT have; `None` for positions that are computed."""
    limit = getattr(backbone.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int):
        return None
    words = backbone.get_input_embeddings()
    tables = [module for module in backbone.modules() if isinstance(module, nn.Embedding) and module is not words]
    is_learned = any(limit <= table.num_embeddings <= limit + MOST_FURTHER_ROWS for table in tables)
    return limit if is_learned else None


def check_positions(limit: int | None, num_tokens: int) -> None:
    """
    Raises `ValueError` for a sequence without positions, given [`learned_positions`]: it would fail with an index
    error, on a GPU without a word of where.
    """
    if limit is not None and num_tokens > limit:
        raise ValueError(
            f"Expected sequences of at most {limit} tokens, the positions that the backbone has learned, but found "
            f"{num_tokens} (a prompt with the SID that follows it, or a training row). Build the tokenizer with a "
            "smaller `max_history`, train with `max_length`, or choose a backbone with rotary positions."
        )
