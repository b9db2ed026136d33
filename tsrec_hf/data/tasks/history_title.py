"""The history-title task: the title of the next item from a history of SIDs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset, IterableDataset

from tsrec_hf.items import RecommendationDataset
from tsrec_hf.models import PromptBuilder, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types

from ..interactions import ADVICE, LOG_COLUMNS, InteractionReader, columns_of, is_log
from ..rows import TEXT_FEATURES, Piece, check_columns, hash_of_tables, rows_in_memory, rows_on_disk
from ..text_length import MAX_TEXT_TOKENS, shorten_texts


@checks_types
def build_history_title_rows(
    interactions: Dataset | IterableDataset,
    items: Dataset,
    tokenizer: TSRecTokenizer,
    max_text_tokens: int = MAX_TEXT_TOKENS,
    num_proc: int | None = None,
) -> Dataset:
    r"""
    History of SIDs -> title of the next item, one row for every interaction whose target has a title.

    Args:
        interactions (`Dataset` or `IterableDataset`):
            Rows with `history` (item ids, oldest first) and `target`, or a log sorted by user, as in
            [`build_sequence_rows`], which also tells when rows are written to disk.
        items (`Dataset`):
            Rows with `item_id` and `title`.
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer with the SID index.
        max_text_tokens (`int`, *optional*, defaults to `256`):
            Number of tokens that a title is cut to, at a word.
        num_proc (`int`, *optional*):
            Processes that make the rows of a large data set.

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
    wanted = LOG_COLUMNS if is_log(interactions) else ("history", "target")
    check_columns(columns_of(interactions), wanted, "interactions", ADVICE)
    check_columns(items.column_names, ("item_id", "title"), "items", "Pass the items of a `RecommendationDataset`.")
    prompts = PromptBuilder(tokenizer)
    titles = shorten_texts(items["title"][:], tokenizer, max_text_tokens, "titles")
    title_of = dict(zip(items["item_id"][:], titles))
    reader = InteractionReader(interactions, prompts.max_history)
    rows, pieces = _HistoryTitleRows(reader, prompts, title_of), reader.pieces(by_user=False)
    if reader.fits_in_memory:
        return rows_in_memory(rows(pieces), TEXT_FEATURES)
    identity: list[Any] | None = None
    if isinstance(interactions, Dataset):
        identity = [hash_of_tables(reader.batches()), tokenizer.prompt_version, prompts.sequence_instruction]
        identity += [tokenizer.sid_index.fingerprint, prompts.max_history, tokenizer.eos_token, title_of]
    return rows_on_disk(rows, TEXT_FEATURES, identity, pieces, num_proc)


@dataclass(frozen=True)
class _HistoryTitleRows:
    """Makes the rows of some pieces."""

    reader: InteractionReader
    prompts: PromptBuilder
    title_of: Mapping[str, str]

    def __call__(self, pieces: list[Piece]) -> Iterator[dict[str, Any]]:
        for history, target in self.reader.targets(pieces):
            if target not in self.title_of:
                raise KeyError(
                    f"Target {target!r} is not among the {len(self.title_of)} items. Pass the items of this data set."
                )
            title = self.title_of[target]
            if title.strip():
                prompt, answer = self.prompts.history_title_prompt(history), self.prompts.text_answer(title)
                yield {"prompt": prompt, "completion": answer, "task": "history_title"}


@dataclass(frozen=True)
class HistoryTitleTask:
    """
    History of SIDs -> title of the next item, one row for every interaction of the split, or of `interactions`, where
    they are given.
    """

    weight: float = 1.0
    max_text_tokens: int = MAX_TEXT_TOKENS
    interactions: Dataset | None = None
    num_proc: int | None = None
    name: ClassVar[str] = "history_title"

    def rows(self, dataset: RecommendationDataset, split: str, tokenizer: TSRecTokenizer) -> Dataset:
        interactions = getattr(dataset, split) if self.interactions is None else self.interactions
        return build_history_title_rows(interactions, dataset.items, tokenizer, self.max_text_tokens, self.num_proc)
