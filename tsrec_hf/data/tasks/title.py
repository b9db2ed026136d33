"""
The title task: the title of an item from its SID, and the SID from the title.

Rows are made from item ids, never looked up by title or SID: items with the same title, and items that share a SID,
keep rows of their own.
"""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset

from tsrec_hf.items import RecommendationDataset
from tsrec_hf.models import PromptBuilder, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types

from ..rows import check_columns, text_rows
from ..text_length import MAX_TEXT_TOKENS, shorten_texts


@checks_types
def build_title_rows(items: Dataset, tokenizer: TSRecTokenizer, max_text_tokens: int = MAX_TEXT_TOKENS) -> Dataset:
    r"""
    SID -> title and title -> SID, two rows for every item that has a title.

    Args:
        items (`Dataset`):
            Rows with `item_id` and `title`.
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer with the SID index.
        max_text_tokens (`int`, *optional*, defaults to `256`):
            Number of tokens that a title is cut to, at a word.

    Returns:
        `Dataset` with `prompt`, `completion` and `task` (`"title"`).

    Example:

    ```python
    >>> from tsrec_hf import build_title_rows

    >>> rows = build_title_rows(dataset.items, tokenizer)
    >>> rows.num_rows, rows[0]["prompt"], rows[0]["completion"]
    (16, '<a_0><b_0><c_0> is titled:', ' claw hammer</s>')
    >>> rows[1]["prompt"], rows[1]["completion"]
    ('The item titled: claw hammer is:', '<a_0><b_0><c_0>')
    ```
    """
    check_columns(items.column_names, ("item_id", "title"), "items", "Pass the items of a `RecommendationDataset`.")
    prompts = PromptBuilder(tokenizer)
    rows = []
    titles = shorten_texts(items["title"][:], tokenizer, max_text_tokens, "titles")
    for item_id, title in zip(items["item_id"][:], titles):
        if title.strip():
            rows.append((prompts.title_prompt(item_id), prompts.text_answer(title)))
            rows.append((prompts.item_prompt(title), prompts.sid(item_id)))
    return text_rows(rows, "title")


@dataclass(frozen=True)
class TitleTask:
    """SID -> title and title -> SID, two rows for every item with a title, whatever the split."""

    weight: float = 1.0
    max_text_tokens: int = MAX_TEXT_TOKENS
    name: ClassVar[str] = "title"

    def rows(self, dataset: RecommendationDataset, split: str, tokenizer: TSRecTokenizer) -> Dataset:
        return build_title_rows(dataset.items, tokenizer, self.max_text_tokens)
