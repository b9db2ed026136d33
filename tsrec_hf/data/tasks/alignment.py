"""
The alignment task, TS-Align: tie every SID token to the description of its cluster (TS-Rec, section on token-level
semantic alignment).

Answers in words end with the end token; answers in SID tokens do not, since their length is known.
"""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset

from tsrec_hf.items import RecommendationDataset
from tsrec_hf.models import PromptBuilder, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.semantics import TokenSemantics

from ..rows import text_rows
from ..text_length import MAX_TEXT_TOKENS, shorten_texts


@checks_types
def build_alignment_rows(
    semantics: TokenSemantics,
    tokenizer: TSRecTokenizer,
    keywords: bool = False,
    max_text_tokens: int = MAX_TEXT_TOKENS,
) -> Dataset:
    r"""
    TS-Align: SID token -> description and description -> SID token, two rows for every token of the index.

    Args:
        semantics ([`TokenSemantics`]):
            Description and keywords of every token.
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer with the SID index.
        keywords (`bool`, *optional*, defaults to `False`):
            Whether to add a third row per token, SID token -> keywords.
        max_text_tokens (`int`, *optional*, defaults to `256`):
            Number of tokens that a description or a list of keywords is cut to, at a word.

    Returns:
        `Dataset` with `prompt`, `completion` and `task` (`"alignment"`).

    Raises:
        `KeyError`: a token of the index that is not described. `ValueError`: a blank description.

    Example:

    ```python
    >>> from tsrec_hf import build_alignment_rows

    >>> rows = build_alignment_rows(semantics, tokenizer)
    >>> rows.num_rows, rows[0]["prompt"], rows[0]["completion"]
    (14, '<a_0> means:', ' tools items</s>')
    >>> rows[1]["prompt"], rows[1]["completion"]
    ('Which token means: tools items It is:', '<a_0>')
    ```
    """
    prompts = PromptBuilder(tokenizer)
    tokens = [token for level in tokenizer.sid_index.tokens for token in level]
    for token in tokens:
        meaning = semantics[token]
        if not meaning.description.strip() or (keywords and not meaning.keywords):
            raise ValueError(
                f"Expected a description of {token!r}, and keywords where they are asked for, but found {meaning}. "
                "Describe the token again."
            )
    descriptions = [semantics[token].description for token in tokens]
    lists = [", ".join(semantics[token].keywords) if keywords else "" for token in tokens]
    rows = []
    for token, description, words in zip(
        tokens,
        shorten_texts(descriptions, tokenizer, max_text_tokens, "descriptions"),
        shorten_texts(lists, tokenizer, max_text_tokens, "lists of keywords"),
        strict=True,
    ):
        rows.append((prompts.description_prompt(token), prompts.text_answer(description)))
        rows.append((prompts.token_prompt(description), token))
        if keywords:
            rows.append((prompts.keywords_prompt(token), prompts.text_answer(words)))
    return text_rows(rows, "alignment")


@dataclass(frozen=True)
class AlignmentTask:
    """SID token -> description and description -> SID token for every token of the index, whatever the split."""

    semantics: TokenSemantics
    keywords: bool = False
    weight: float = 1.0
    max_text_tokens: int = MAX_TEXT_TOKENS
    name: ClassVar[str] = "alignment"

    def rows(self, dataset: RecommendationDataset, split: str, tokenizer: TSRecTokenizer) -> Dataset:
        return build_alignment_rows(self.semantics, tokenizer, self.keywords, self.max_text_tokens)
