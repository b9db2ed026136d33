"""Bound the titles and descriptions of training rows: a text is cut at a word, an instruction or a SID never."""

import logging
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tsrec_hf.semantics.words import cut_at_word


logger = logging.getLogger(__name__)

# Maximum number of tokens of one text in a row: the longest descriptions of the published files have about 200.
MAX_TEXT_TOKENS = 256


def text_tokens_of(max_length: int | None) -> int:
    """Tokens that a text may have in rows of at most `max_length` tokens, which hold an instruction too."""
    return MAX_TEXT_TOKENS if max_length is None else min(MAX_TEXT_TOKENS, max(1, max_length // 2))


def shorten_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int, name: str = "texts"
) -> list[str]:
    r"""
    Cuts texts to a maximum number of tokens, at a word, and logs how many were cut.

    Args:
        texts (`Sequence[str]`):
            Any texts.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A fast tokenizer, which counts the tokens.
        max_tokens (`int`):
            Maximum number of tokens of a text, at least 1.
        name (`str`, *optional*, defaults to `"texts"`):
            What the texts are, for the log.

    Returns:
        `list[str]`: The texts in their order.

    Example:

    ```python
    >>> from tsrec_hf.data.text_length import shorten_texts

    >>> shorten_texts(["claw hammer", "hard steel claw hammer"], tokenizer, max_tokens=3)
    ['claw hammer', 'hard steel claw']
    ```
    """
    if max_tokens < 1:
        raise ValueError(
            f"Expected `max_text_tokens` of at least 1, but found {max_tokens}. The default is {MAX_TEXT_TOKENS}."
        )
    shortened = list(texts)
    # A token has at least one byte: whatever has fewer bytes need not be counted.
    suspects = [number for number, text in enumerate(shortened) if len(text.encode(errors="replace")) >= max_tokens]
    if not suspects:
        return shortened
    encoded = tokenizer(
        [shortened[number] for number in suspects], add_special_tokens=False, return_offsets_mapping=True
    )
    num_cut = 0
    for number, offsets in zip(suspects, encoded["offset_mapping"], strict=True):
        if len(offsets) <= max_tokens:
            continue
        num_cut += 1
        text = cut_at_word(shortened[number], max(1, offsets[max_tokens - 1][1]))
        # The last word may be split into more tokens on its own than before a longer text.
        while len(text) > 1 and len(tokenizer(text, add_special_tokens=False).input_ids) > max_tokens:
            text = cut_at_word(text, len(text) - 1)
        shortened[number] = text
    if num_cut:
        logger.warning("%d of %d %s were cut to %d tokens, at a word.", num_cut, len(shortened), name, max_tokens)
    return shortened
