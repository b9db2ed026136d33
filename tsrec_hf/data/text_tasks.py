"""
Rows of the text tasks: titles, and TS-Align, which ties every SID token to the description of its cluster (TS-Rec,
section on token-level semantic alignment).

Rows are `prompt`, `completion` and `task`, made from item ids and tokens, never looked up by title or SID: items with
the same title, and items that share a SID, keep rows of their own. Answers in words end with the end token; answers in
SID tokens end by their known length.
"""

from collections.abc import Sequence

from datasets import Dataset

from tsrec_hf.models import PromptBuilder, TSRecTokenizer
from tsrec_hf.semantics import TokenSemantics


def build_title_rows(items: Dataset, tokenizer: TSRecTokenizer) -> Dataset:
    r"""
    SID -> title and title -> SID, two rows for every item that has a title.

    Args:
        items (`Dataset`):
            Rows with `item_id` and `title`.
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer with the SID index.

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
    _check_columns(items, ("item_id", "title"), "items")
    prompts = PromptBuilder(tokenizer)
    rows = []
    for item_id, title in zip(items["item_id"], items["title"]):
        if title.strip():
            rows.append((prompts.title_prompt(item_id), prompts.text_answer(title)))
            rows.append((prompts.item_prompt(title), prompts.sid(item_id)))
    return _dataset(rows, "title")


def build_history_title_rows(interactions: Dataset, items: Dataset, tokenizer: TSRecTokenizer) -> Dataset:
    r"""
    History of SIDs -> title of the next item, one row for every interaction whose target has a title.

    Args:
        interactions (`Dataset`):
            Rows with `history` (item ids, oldest first) and `target`.
        items (`Dataset`):
            Rows with `item_id` and `title`.
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer with the SID index.

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
    _check_columns(interactions, ("history", "target"), "interactions")
    _check_columns(items, ("item_id", "title"), "items")
    prompts = PromptBuilder(tokenizer)
    title_of = dict(zip(items["item_id"], items["title"]))
    rows = []
    for history, target in zip(interactions["history"], interactions["target"]):
        if target not in title_of:
            raise KeyError(
                f"Target {target!r} is not among the {len(title_of)} items. Pass the items of this data set."
            )
        if title_of[target].strip():
            rows.append((prompts.history_title_prompt(history), prompts.text_answer(title_of[target])))
    return _dataset(rows, "history_title")


def build_alignment_rows(semantics: TokenSemantics, tokenizer: TSRecTokenizer, keywords: bool = False) -> Dataset:
    r"""
    TS-Align: SID token -> description and description -> SID token, two rows for every token of the index.

    Args:
        semantics ([`TokenSemantics`]):
            Description and keywords of every token.
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer with the SID index.
        keywords (`bool`, *optional*, defaults to `False`):
            Whether to add a third row per token, SID token -> keywords.

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
    rows = []
    for token in (token for level in tokenizer.sid_index.tokens for token in level):
        meaning = semantics[token]
        if not meaning.description.strip() or (keywords and not meaning.keywords):
            raise ValueError(
                f"Expected a description of {token!r}, and keywords where they are asked for, but found {meaning}. "
                "Describe the token again."
            )
        rows.append((prompts.description_prompt(token), prompts.text_answer(meaning.description)))
        rows.append((prompts.token_prompt(meaning.description), token))
        if keywords:
            rows.append((prompts.keywords_prompt(token), prompts.text_answer(", ".join(meaning.keywords))))
    return _dataset(rows, "alignment")


def _check_columns(rows: Dataset, columns: Sequence[str], name: str) -> None:
    missing = set(columns) - set(rows.column_names)
    if missing:
        raise ValueError(
            f"Expected {name} with the columns {list(columns)}, but {sorted(missing)} are missing from "
            f"{rows.column_names}."
        )


def _dataset(rows: list[tuple[str, str]], task: str) -> Dataset:
    prompts, completions = zip(*rows) if rows else ((), ())
    return Dataset.from_dict({"prompt": prompts, "completion": completions, "task": [task] * len(rows)})
