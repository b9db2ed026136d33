"""Search sessions: one owner of what a search needs, from the index to the head's rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .prompting_tsrec import PromptBuilder
from .search_tsrec import SIDSearch
from .tree_passes_tsrec import input_device


if TYPE_CHECKING:
    from .modeling_tsrec import TSRecForCausalLM
    from .tokenization_tsrec import TSRecTokenizer


class SearchSession:
    r"""
    Owns everything that searches over one catalogue with one model need.

    The session holds the SID index as it was at the start, its trie on the model's device, the rows of the output
    head, the keys and values of the instruction, and a view of the model in evaluation mode. It changes nothing of the
    model or the tokenizer: sessions may run in threads, beside training and while the catalogue grows. Everything that
    encodes histories goes through one: `recommend`, GRPO's rollouts.

    Args:
        model ([`TSRecForCausalLM`]):
            The recommender.
        tokenizer ([`TSRecTokenizer`]):
            Its tokenizer.
        scoring (`str`, *optional*, defaults to `"catalogue"`):
            As in [`SIDSearch`].
        prefix_ids (`Sequence[int]`, *optional*):
            Tokens that all prompts begin with, and that are left out of them. Defaults to the instruction of sequence
            prompts.
        share_prefix (`bool`, *optional*, defaults to `True`):
            Whether the prefix goes through the model once for all prompts. For a single prompt that is a forward pass
            too many, each of which reads all weights: `pad` then puts the prefix before the prompt.
        search_class (`type`, *optional*, defaults to [`SIDSearch`]):
            The search, or a subclass of it.

    Attributes:
        index ([`SIDIndex`]): The catalogue.
        trie ([`SIDTrie`]): Its trie, on the model's device.
        prompts ([`PromptBuilder`]): Encodes histories.
        search ([`SIDSearch`]): Searches, from encoded and padded prompts.
        fitted_prior (`tuple` of [`ItemPrior`] and [`Fusion`], *optional*): The tokenizer's.

    Raises:
        `TypeError`, `ValueError`: the tokenizer of another checkpoint, another scoring.

    Example:

    ```python
    >>> from tsrec_hf.models import SearchSession

    >>> session = SearchSession(model, tokenizer)
    >>> inputs = session.pad([session.prompts.history_ids(history) for history in (["hammer"], ["apple", "pear"])])
    >>> beams = session.search.beam(*inputs, num_beams=3)
    >>> beams.leaves.shape, session.tokens_of(beams.leaves).shape
    (torch.Size([2, 3]), torch.Size([2, 3, 3]))
    ```
    """

    # What `pad` puts before every prompt.
    _own_prefix: Sequence[int] = ()

    def __init__(
        self,
        model: "TSRecForCausalLM",
        tokenizer: "TSRecTokenizer",
        scoring: str = "catalogue",
        prefix_ids: Sequence[int] | None = None,
        share_prefix: bool = True,
        search_class: type[SIDSearch] = SIDSearch,
    ):
        model.check_tokenizer(tokenizer)
        self._read_catalogue(tokenizer)
        self.device, self.dtype = input_device(model.backbone), model.dtype
        self.trie = self.index.trie_on(self.device)
        prefix = list(self.prompts.instruction_ids if prefix_ids is None else prefix_ids)
        if not share_prefix:
            self._own_prefix, prefix = prefix, []
        shared = torch.tensor(prefix, dtype=torch.long)
        self.search = search_class(model.backbone, self.trie, tokenizer.sid_token_ids, scoring, shared)

    def _read_catalogue(self, tokenizer: "TSRecTokenizer") -> None:
        """Holds prior and index as they are now; a tokenizer's may be replaced by grown ones at any time."""
        # The prior first, since the index is replaced first: a prior of an earlier catalogue can be moved to it.
        self.fitted_prior = tokenizer.fitted_prior
        self.prompts = PromptBuilder(tokenizer)
        self.index = self.prompts.sid_index

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts as `input_ids` and `attention_mask`, both of shape `(batch, longest)`, padded on the left."""
        prompts = [[*self._own_prefix, *row] for row in rows]
        width = max(map(len, prompts))
        # Padding is masked: any token id serves.
        input_ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts], device=self.device)
        attention_mask = torch.tensor(
            [[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=self.device
        )
        return input_ids, attention_mask

    def tokens_of(self, leaves: torch.Tensor) -> torch.Tensor:
        """Token ids of SIDs, `(..., levels)`, from the numbers of their leaves, `(...)`."""
        return self.search.tokens_of(leaves)

    def items_of(self, leaf: int) -> list[int]:
        """Rows of the index of the items that carry a leaf's SID, by training count."""
        return self.index.trie.items_of_leaf(leaf)
