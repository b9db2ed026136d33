"""What an SFT task is: a name, a weight, and a method that builds its rows."""

from typing import Protocol, runtime_checkable

from datasets import Dataset

from tsrec_hf.items import RecommendationDataset
from tsrec_hf.models import TSRecTokenizer


BUILT_IN_TASKS = ("sequence", "title", "history_title", "alignment")


@runtime_checkable
class Task(Protocol):
    """
    One task of the SFT mixture. Any object with these three members is one; it needs no base class.

    Attributes:
        name (`str`): Value of the column `task`; losses are logged and weighted by it.
        weight (`float`): How often each row occurs in the mixture on average, as in `weights` of `build_sft_mixture`.
    """

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    def rows(self, dataset: RecommendationDataset, split: str, tokenizer: TSRecTokenizer) -> Dataset:
        """
        Build the rows of a split.

        Args:
            dataset ([`RecommendationDataset`]):
                Items and interactions.
            split (`str`):
                `"train"`, `"valid"` or `"test"`: the interactions that may be used.
            tokenizer ([`TSRecTokenizer`]):
                Tokenizer with the SID index. Prompts come from `PromptBuilder(tokenizer)`, or begin as its prompts do.

        Returns:
            `Dataset` with the string columns `prompt` and `completion`, where answers in words end with the end token
            (`PromptBuilder.text_answer`); or with the token columns `input_ids` and `labels` (`-100` on prompts).
        """
        ...
