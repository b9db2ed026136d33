"""Sequences that are longer than the positions a backbone has learned."""

from torch import nn
from transformers import PreTrainedModel


# Rows of a position table beside those of positions: OPT and its kin keep two.
MOST_FURTHER_ROWS = 8


def check_positions(backbone: PreTrainedModel, num_tokens: int) -> None:
    """
    Raises `ValueError` for a sequence that a backbone with learned positions, such as GPT-2, has no positions for: it
    would fail with an index error, on a GPU without a word of where. Rotary positions have no end.
    """
    limit = getattr(backbone.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or num_tokens <= limit or not _are_learned(backbone, limit):
        return
    raise ValueError(
        f"Expected sequences of at most {limit} tokens, the positions that `{type(backbone).__name__}` has learned, "
        f"but found {num_tokens} (a prompt with the SID that follows it, or a training row). Build the tokenizer with "
        "a smaller `max_history`, train with `max_length`, or choose a backbone with rotary positions."
    )


def _are_learned(backbone: PreTrainedModel, limit: int) -> bool:
    words = backbone.get_input_embeddings()
    tables = [module for module in backbone.modules() if isinstance(module, nn.Embedding) and module is not words]
    return any(limit <= table.num_embeddings <= limit + MOST_FURTHER_ROWS for table in tables)
