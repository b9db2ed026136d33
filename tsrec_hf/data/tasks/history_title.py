"""The history-title task: the title of the next item from a history of SIDs."""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset

from tsrec_hf.items import RecommendationDataset
from tsrec_hf.models import PromptBuilder, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types

from ..rows import check_columns, text_rows
from ..text_length import MAX_TEXT_TOKENS, shorten_texts


@checks_types
def build_history_title_rows(
    interactions: Dataset, items: Dataset, tokenizer: TSRecTokenizer, max_text_tokens: int = MAX_TEXT_TOKENS
) -> Dataset:
    r"""
    History of SIDs -> title of the next item, one row for every interaction whose target has a title.

    Args:
        interactions (`Dataset`):
            Rows with `history` (item ids, oldest first) and `target`.
        items (`Dataset`):
            Rows with `item_id` and `title`.
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer with the SID index.
        max_text_tokens (`int`, *optional*, defaults to `256`):
            Number of tokens that a title is cut to, at a word.

    Returns:
        `Dataset` with `prompt`, `completion` and `task` (`"history_title"`).

    Example:

    ```python
    >>> from tsrec_hf import build_history_title_rows

    >>> rows = build_history_title_rows(dataset.train, dataset.items, tokenizer)
    >>> rows[0]["prompt"], rows[0]["completion"]
    ('Items chosen in order:<a_0><b_0><c_0> The title of the next:', ' steel nail</s>')
    ```
    """
    check_columns(interactions, ("history", "target"), "interactions", "Pass a split of a `RecommendationDataset`.")
    check_columns(items, ("item_id", "title"), "items", "Pass the items of a `RecommendationDataset`.")
    prompts = PromptBuilder(tokenizer)
    titles = shorten_texts(items["title"][:], tokenizer, max_text_tokens, "titles")
    title_of = dict(zip(items["item_id"][:], titles))
    rows = []
    for history, target in zip(interactions["history"], interactions["target"]):
        if target not in title_of:
            raise KeyError(
                f"Target {target!r} is not among the {len(title_of)} items. Pass the items of this data set."
            )
        if title_of[target].strip():
            rows.append((prompts.history_title_prompt(history), prompts.text_answer(title_of[target])))
    return text_rows(rows, "history_title")


@dataclass(frozen=True)
class HistoryTitleTask:
    """History of SIDs -> title of the next item, one row for every interaction of the split."""

    weight: float = 1.0
    max_text_tokens: int = MAX_TEXT_TOKENS
    name: ClassVar[str] = "history_title"

    def rows(self, dataset: RecommendationDataset, split: str, tokenizer: TSRecTokenizer) -> Dataset:
        return build_history_title_rows(getattr(dataset, split), dataset.items, tokenizer, self.max_text_tokens)
