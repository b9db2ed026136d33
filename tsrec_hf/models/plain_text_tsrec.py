"""Item text is text: what would be read as a control or SID token in it is broken up."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any


class PlainText:
    r"""
    Breaks up the added tokens of a tokenizer in texts that anybody may have written.

    A title with `<|im_end|>`, `</s>` or `<a_12>` would put control or SID tokens into prompts, labels and keywords.
    A space behind the first character makes such a string ordinary text; all else stays as it is.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Its special tokens, SID tokens and other added tokens are broken up, but for those of whitespace alone.

    Example:

    ```python
    >>> from tsrec_hf.models import PlainText

    >>> PlainText(tokenizer)("saw</s> like <a_0>")
    'saw< /s> like < a_0>'
    ```
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    @cached_property
    def _added(self) -> dict[int, str]:
        """Added tokens by their ids, but for runs of spaces, which some tokenizers add for ordinary text."""
        vocabulary = self.tokenizer.get_added_vocab()
        return {token_id: token for token, token_id in vocabulary.items() if token.strip()}

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        """What an added token may begin with: most texts hold none of it, and need no tokenising."""
        first = {token.strip()[0] for token in self._added.values()}
        return frozenset(first | set("".join(first).lower()) | set("".join(first).upper()))

    def __call__(self, text: str) -> str:
        """
        The text, without anything that the tokenizer reads as an added token.

        Args:
            text (`str`):
                A title, a description, a keyword, an answer of a teacher.
        """
        while not self._beginnings.isdisjoint(text):
            starts = self._starts(text)
            if not starts:
                return text
            for start, end in reversed(starts):
                # A token of one character cannot be broken: it goes.
                text = f"{text[: start + (end - start > 1)]} {text[start + 1 :]}"
        return text

    def _starts(self, text: str) -> list[tuple[int, int]]:
        """Where added tokens begin and end in the text, the spaces around them left out."""
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, padding=False
        )
        found = []
        for token_id, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            span = text[start:end]
            # The unknown token stands for any word that the vocabulary lacks.
            if token_id in self._added and span.strip().lower() == self._added[token_id].strip().lower():
                found.append((start + len(span) - len(span.lstrip()), end - len(span) + len(span.rstrip())))
        return found


def plain_texts(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """[`PlainText`] of many texts."""
    return list(map(PlainText(tokenizer), texts))
