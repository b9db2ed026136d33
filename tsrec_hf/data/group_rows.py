"""Rows for reinforcement learning: the prompt as text and the target item."""

from datasets import Dataset

from tsrec_hf.models import PromptBuilder, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types


@checks_types
def build_grpo_rows(interactions: Dataset, tokenizer: TSRecTokenizer) -> Dataset:
    r"""
    Builds one row `{"prompt", "target"}` per interaction, as [`TSRecGRPOTrainer`] takes them. Equal prompts with
    different targets stay separate rows.

    Args:
        interactions (`datasets.Dataset`):
            Rows with `history` (item ids, oldest first) and `target` (item id).
        tokenizer ([`TSRecTokenizer`]):
            The recommender's tokenizer.

    Returns:
        `datasets.Dataset`: With the string columns `prompt` and `target`.

    Raises:
        `KeyError`: an item that the index does not hold. `ValueError`: an empty history.

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
    return Dataset.from_dict(
        {"prompt": [prompts.sequence_prompt(history) for history in interactions["history"][:]], "target": targets}
    )
