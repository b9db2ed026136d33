"""
The wording of every prompt, for training, reinforcement learning, evaluation and inference alike.

The wording is short, since prompt tokens are what everything here costs, and puts the history last: the answer's SID
follows the history's SIDs directly, so that one row can carry the loss of every next item of a user. The version is
stored in each checkpoint, and a checkpoint of another version is refused rather than prompted with words it was not
trained on.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .checking_tsrec import checks_types
from .plain_text_tsrec import PlainText


if TYPE_CHECKING:
    from .tokenization_tsrec import TSRecTokenizer


PROMPT_VERSION = "1"
# Of a tokenizer that names no other: the protocol of the benchmarks.
MAX_HISTORY = 10


class PromptBuilder:
    r"""
    Builds every prompt from item ids and SID tokens. Encode the strings with `add_special_tokens=False`: where the
    backbone starts its texts with a token of its own, the prompts hold it already. Titles and descriptions stand in
    them as [`PlainText`]: none of their characters is read as a control or SID token.

    Args:
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer with its SID index and its `max_history`.

    Example:

    ```python
    >>> from tsrec_hf import PromptBuilder

    >>> prompts = PromptBuilder(tokenizer)
    >>> prompts.sequence_prompt(["hammer", "nail"])
    'Items chosen in order:<a_0><b_0><c_0><a_0><b_1><c_0>'
    >>> prompts.sid("saw")
    '<a_0><b_0><c_1>'
    ```
    """

    @checks_types
    def __init__(self, tokenizer: "TSRecTokenizer"):
        if tokenizer.prompt_version != PROMPT_VERSION:
            raise ValueError(
                f"This tokenizer belongs to prompt version {tokenizer.prompt_version!r}, but this code builds prompts "
                f"of version {PROMPT_VERSION!r}. Load the checkpoint with the `tsrec_hf` release that trained it, or "
                "train it again."
            )
        self.tokenizer = tokenizer
        self.sid_index = tokenizer.sid_index
        self.max_history = tokenizer.max_history
        self._plain = PlainText(tokenizer)

    @cached_property
    def _token_ids(self) -> list[np.ndarray]:
        """Token id of every code, an array for each level."""
        return [np.asarray(token_ids) for token_ids in self.tokenizer.sid_token_ids]

    @cached_property
    def _start(self) -> str:
        """The backbone's start token, where its tokenizer adds one."""
        bos = self.tokenizer.bos_token_id
        starts_with_bos = bos is not None and self.tokenizer("a").input_ids[:1] == [bos]
        return self.tokenizer.bos_token if starts_with_bos else ""

    @property
    def sequence_instruction(self) -> str:
        """What stands before the history's SIDs in every sequence prompt."""
        return f"{self._start}Items chosen in order:"

    def title_prompt(self, item_id: str) -> str:
        """Prompt whose answer is the title of the item with this SID."""
        return f"{self._start}{self.sid(item_id)} is titled:"

    def item_prompt(self, title: str) -> str:
        """Prompt whose answer is the SID of the item with this title."""
        return f"{self._start}The item titled: {self._plain(title)} is:"

    def history_title_prompt(self, history: Sequence[str]) -> str:
        """Prompt whose answer is the title of the next item."""
        return f"{self.sequence_prompt(history)} The title of the next:"

    def description_prompt(self, token: str) -> str:
        """Prompt whose answer is the description of a SID token's cluster."""
        return f"{self._start}{token} means:"

    def token_prompt(self, description: str) -> str:
        """Prompt whose answer is the SID token with this description."""
        return f"{self._start}Which token means: {self._plain(description)} It is:"

    def keywords_prompt(self, token: str) -> str:
        """Prompt whose answer is the keywords of a SID token's cluster."""
        return f"{self._start}Keywords for {token}:"

    def text_answer(self, text: str) -> str:
        """A text as it stands in answers: behind a space, and closed by the end token."""
        return f" {self._plain(text)}{self.tokenizer.eos_token}"

    def sid(self, item_id: str) -> str:
        """SID of an item as it stands in prompts and answers."""
        return self.sid_index.sid_of(item_id)

    def kept_history(self, history: Sequence[str]) -> Sequence[str]:
        """
        The most recent `max_history` items of a history.

        Raises:
            `TypeError`: a history that is one string, or no list. `ValueError`: an empty history.
        """
        if isinstance(history, (str, bytes)):
            raise TypeError(f"Expected a history as a list of item ids, but found the string {history!r}.")
        if not hasattr(history, "__len__") or isinstance(history, Mapping):
            raise TypeError(
                f"Expected a history as a list of item ids, but found {history!r} of type `{type(history).__name__}`."
            )
        if len(history) == 0:
            raise ValueError(
                "Expected a history of at least one item, but found an empty one. Recommend by popularity to users "
                "without history."
            )
        return history[-self.max_history :]

    def sequence_prompt(self, history: Sequence[str]) -> str:
        """
        Prompt whose continuation is the SID of the next item.

        Args:
            history (`Sequence[str]`):
                Item ids, oldest first. Only the most recent `max_history` are used.
        """
        return self.sequence_instruction + "".join(map(self.sid, self.kept_history(history)))

    def sequence_prompt_ids(self, history: Sequence[str]) -> list[int]:
        """Token ids of [`~PromptBuilder.sequence_prompt`], put together without tokenising the SIDs."""
        return self.instruction_ids + self.history_ids(history)

    def history_ids(self, history: Sequence[str]) -> list[int]:
        """Token ids of the history's SIDs, which follow the instruction in a sequence prompt."""
        rows = self.sid_index.positions_of(self.kept_history(history))
        codes = self.sid_index.codes[rows]
        tokens = [token_ids[codes[:, level]] for level, token_ids in enumerate(self._token_ids)]
        return np.stack(tokens, axis=1).ravel().tolist()

    @cached_property
    def instruction_ids(self) -> list[int]:
        """Token ids of `sequence_instruction`."""
        return self.tokenizer(self.sequence_instruction, add_special_tokens=False).input_ids
