"""Which tokens may follow: the catalogue's trie over token ids, for engines that give logits and know no SIDs."""

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers.utils import cached_file

from tsrec_hf.models import SIDTrie, TSRecTokenizer
from tsrec_hf.models.index_checks_tsrec import TOKEN_PATTERN
from tsrec_hf.models.index_files_tsrec import SID_INDEX_FILE


# What `export_backbone` writes.
SIDS_FILE, TOKENIZER_FILE = "sids.txt", "tokenizer.json"


class SIDConstraint:
    r"""
    Keeps a language model to SIDs that exist, whatever it has written so far.

    How far the SID of an answer has come is seen from the tokens at the end: a history is of whole SIDs, so that what
    is left over, when as many SID tokens as there are levels are taken together, belongs to the answer. Behind a whole
    SID the next one begins.

    Args:
        sids (`Sequence[Sequence[int]]` or `np.ndarray`, `(num_sids, num_levels)`):
            Token ids of the SIDs that exist.

    Attributes:
        trie ([`SIDTrie`]): The SIDs, with token ids as codes.

    Example:

    ```python
    >>> import torch
    >>> from tsrec_hf.serving import SIDConstraint

    >>> constraint = SIDConstraint([[5, 7], [5, 8], [6, 7]])
    >>> constraint.prefix_of([1, 2, 6, 7]), constraint.prefix_of([1, 2, 6, 7, 5])  # whole SIDs; one that has begun
    ((), (5,))
    >>> constraint.restrict(torch.zeros(2, 9), rows=[0, 1], prefixes=[(), (5,)])
    tensor([[-inf, -inf, -inf, -inf, -inf, 0., 0., -inf, -inf],
            [-inf, -inf, -inf, -inf, -inf, -inf, -inf, 0., 0.]])
    ```
    """

    def __init__(self, sids: Sequence[Sequence[int]] | np.ndarray):
        self.trie = SIDTrie(np.asarray(sids))
        self._sid_tokens = frozenset(self.trie.node_codes[1:].tolist())
        # Nodes of prefixes are looked up on the CPU, one by one.
        self._codes, self._first_child = self.trie.node_codes.numpy(), self.trie.first_child.numpy()

    @classmethod
    def of_model(cls, name_or_path: str | Path, revision: str | None = None) -> "SIDConstraint | None":
        """
        The constraint of a model's folder or Hub id.

        Args:
            name_or_path (`str` or `Path`):
                A checkpoint of ours, or what [`export_backbone`] wrote.
            revision (`str`, *optional*):
                Branch, tag or commit on the Hub.

        Returns:
            [`SIDConstraint`], or `None` for a model that writes no SIDs.
        """

        def found(file_name: str) -> str | None:
            return cached_file(name_or_path, file_name, revision=revision, _raise_exceptions_for_missing_entries=False)

        if found(SID_INDEX_FILE) is not None:
            return cls.of_tokenizer(TSRecTokenizer.from_pretrained(name_or_path, revision=revision))
        sids_file, tokenizer_file = found(SIDS_FILE), found(TOKENIZER_FILE)
        if sids_file is None or tokenizer_file is None:
            return None
        vocabulary = Tokenizer.from_file(tokenizer_file).get_vocab()
        spelled = [TOKEN_PATTERN.findall(line) for line in Path(sids_file).read_text(encoding="utf-8").splitlines()]
        unknown = next((token for token in chain.from_iterable(spelled) if token not in vocabulary), None)
        if unknown is not None:
            raise ValueError(
                f"Expected {sids_file} to spell SIDs with tokens of the tokenizer beside it, but found {unknown!r}. "
                "Write the folder by `export_backbone`."
            )
        return cls([[vocabulary[token] for token in sid] for sid in spelled])

    @classmethod
    def of_tokenizer(cls, tokenizer: TSRecTokenizer) -> "SIDConstraint":
        """The constraint of a tokenizer's catalogue."""
        codes = tokenizer.sid_index.codes
        return cls(
            np.stack([np.asarray(ids)[codes[:, level]] for level, ids in enumerate(tokenizer.sid_token_ids)], 1)
        )

    @cached_property
    def sids(self) -> frozenset[tuple[int, ...]]:
        """Token ids of the SIDs."""
        paths = self.trie.paths_of(self.trie.leaf_items[self.trie.leaf_offsets[:-1]])
        return frozenset(map(tuple, self.trie.node_codes[paths].tolist()))

    def to(self, device: torch.device | str) -> "SIDConstraint":
        """Puts the trie where logits are; returns itself."""
        self.trie = self.trie.to(device)
        return self

    def prefix_of(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens at the end that belong to a SID which has begun and is not whole."""
        trailing = 0
        for token_id in reversed(token_ids):
            if token_id not in self._sid_tokens:
                break
            trailing += 1
        begun = trailing % self.trie.num_levels
        return tuple(token_ids[len(token_ids) - begun :])

    def _node_of(self, prefix: Sequence[int]) -> int:
        """
        The node of a prefix. Where no SID begins like it, the first one of its length: what follows a beam of
        probability 0 does not count, but has to be a number.
        """
        node = 0
        for token_id in prefix:
            start, stop = self._first_child[node : node + 2]
            child = start + np.searchsorted(self._codes[start:stop], token_id)
            if child == stop or self._codes[child] != token_id:
                return self.trie.depth_starts[len(prefix)]
            node = int(child)
        return node

    def restrict(self, logits: torch.Tensor, rows: Sequence[int], prefixes: Sequence[Sequence[int]]) -> torch.Tensor:
        """
        Sets the logits of tokens that may not follow to `-inf`, in place. Makes no device synchronisation.

        Args:
            logits (`torch.Tensor` of shape `(batch, vocabulary)`):
                On the trie's device.
            rows (`Sequence[int]`):
                The rows that are to be restricted.
            prefixes (`Sequence[Sequence[int]]`):
                For each of them, the tokens of the SID that has begun.

        Returns:
            `torch.Tensor`: The logits.
        """
        device = logits.device
        nodes = torch.tensor([self._node_of(prefix) for prefix in prefixes]).to(device, non_blocking=True)
        places = torch.tensor(list(rows)).to(device, non_blocking=True).unsqueeze(-1)
        _, tokens, legal = self.trie.children(nodes, None)
        # Padding repeats a token that may follow.
        tokens = torch.where(legal, tokens, tokens[:, :1])
        kept = logits[places, tokens]
        logits.index_fill_(0, places.flatten(), -torch.inf)
        logits[places, tokens] = kept
        return logits
