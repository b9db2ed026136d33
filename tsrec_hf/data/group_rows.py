"""Rows for reinforcement learning: the prompt as text and the target item."""

from collections.abc import Sequence

from datasets import Dataset, Features, Value

from tsrec_hf.models import PromptBuilder, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types


@checks_types
def build_grpo_rows(interactions: Dataset, tokenizer: TSRecTokenizer, columns: Sequence[str] = ()) -> Dataset:
    r"""
    Builds one row `{"prompt", "target"}` per interaction, as [`TSRecGRPOTrainer`] takes them. Equal prompts with
    different targets stay separate rows.

    Args:
        interactions (`datasets.Dataset`):
            Rows with `history` (item ids, oldest first) and `target` (item id).
        tokenizer ([`TSRecTokenizer`]):
            The recommender's tokenizer.
        columns (`Sequence[str]`, *optional*, defaults to `()`):
            Further columns to keep, for reward functions that take them.

    Returns:
        `datasets.Dataset`: With the string columns `prompt` and `target`, and `columns`.

    Raises:
        `KeyError`: an item that the index does not hold; a column that the interactions do not have. `ValueError`: an
        empty history; a further column of the name `prompt`.

    Example:

    ```python
    >>> from tsrec_hf import build_grpo_rows

    >>> build_grpo_rows(dataset.valid, tokenizer)[0]
    {'prompt': 'Items chosen in order:<a_1><b_1><c_0><a_0><b_0><c_0>', 'target': 'nail'}
    ```
    """
    prompts = PromptBuilder(tokenizer)
    targets = interactions["target"][:]
    tokenizer.sid_index.positions_of(targets)
    missing = [name for name in columns if name not in interactions.column_names]
    if missing:
        raise KeyError(f"Expected the columns {missing} among those of the interactions: {interactions.column_names}.")
    if "prompt" in columns:
        raise ValueError('Expected further columns, but found "prompt", which is built here. Rename the column.')
    rows = Dataset.from_dict(
        {"prompt": [prompts.sequence_prompt(history) for history in interactions["history"][:]], "target": targets},
        features=Features({"prompt": Value("string"), "target": Value("string")}),
    )
    for name in columns:
        if name != "target":
            rows = rows.add_column(name, interactions.with_format(None)[name][:], feature=interactions.features[name])
    return rows
