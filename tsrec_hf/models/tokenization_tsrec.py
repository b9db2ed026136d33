"""Tokenizer of a TS-Rec recommender: its backbone's tokenizer plus one token for every code of every level."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast

from .downloading_tsrec import read_checkpoint
from .index_files_tsrec import SID_INDEX_FILE
from .indexing_tsrec import SIDIndex
from .item_prior_tsrec import ItemPrior
from .prior_files_tsrec import PRIOR_FILE, load_prior, save_prior
from .prior_search_tsrec import Fusion
from .prompting_tsrec import MAX_HISTORY, PROMPT_VERSION


# Where a base tokenizer was read from and how; the rest of its arguments belong to the new tokenizer as well.
_NOT_SETTINGS = {
    "added_tokens_decoder",
    "auto_map",
    "backend",
    "gguf_file",
    "is_local",
    "local_files_only",
    "merges",
    "merges_file",
    "prior_file",
    "sid_index_file",
    "tokenizer_class",
    "tokenizer_file",
    "vocab",
    "vocab_file",
}


class TSRecTokenizer(PreTrainedTokenizerFast):
    r"""
    A backbone's tokenizer that spells semantic IDs as single tokens and carries the catalogue's SID index, the length
    of histories and the version of the prompts' wording: rows, trainers and searches read all of them here.

    Made by [`TSRecTokenizer.from_backbone`]; saved and loaded with `save_pretrained`, `from_pretrained` and
    `push_to_hub`, the index included. The class defines no `__init__`: transformers 5 would rebuild a subclass that
    does as a bare BPE.

    Example:

    ```python
    >>> tokenizer.tokenize("like<a_0><b_1><c_0>")
    ['like', '<a_0>', '<b_1>', '<c_0>']
    >>> tokenizer.sid_index.items_of("<a_0><b_1><c_0>")
    ['nail', 'screw']
    ```
    """

    _prior: tuple[ItemPrior, Fusion] | None = None

    vocab_files_names = {
        "tokenizer_file": "tokenizer.json",
        "sid_index_file": SID_INDEX_FILE,
        "prior_file": PRIOR_FILE,
    }

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | Path,
        sid_index: SIDIndex,
        max_history: int = MAX_HISTORY,
        existing_tokens: Literal["error", "keep"] = "error",
        **kwargs,
    ) -> "TSRecTokenizer":
        """
        Adds the tokens of an index to a backbone's tokenizer.

        Args:
            name_or_path (`str` or `Path`):
                Hub id or folder of the backbone.
            sid_index ([`SIDIndex`]):
                Catalogue whose tokens are added.
            max_history (`int`, *optional*, defaults to `10`):
                Most items of a history, the most recent ones, that prompts hold, in training as in inference.
            existing_tokens (`str`, *optional*, defaults to `"error"`):
                What happens where the backbone's vocabulary holds SID tokens already, as that of others' recommenders
                and of exported ones does: `"error"` refuses it, `"keep"` takes these tokens over, and
                [`TSRecForCausalLM.from_backbone`] leaves their rows as they are.
            kwargs (*optional*):
                Passed to `AutoTokenizer.from_pretrained`: `revision`, `gguf_file`, `token`, ...

        Raises:
            `TypeError`: an index that is not a [`SIDIndex`]. `ValueError`: a backbone without a `tokenizer.json` or
            without an end token, or one whose vocabulary holds a SID token already; a `max_history` below 1; another
            `existing_tokens`.
        """
        if not isinstance(sid_index, SIDIndex):
            raise TypeError(f"Expected `sid_index` to be a `SIDIndex`, but found `{type(sid_index).__name__}`.")
        if isinstance(max_history, bool) or not isinstance(max_history, int) or max_history < 1:
            raise ValueError(f"Expected `max_history` as a whole number of at least 1, but found {max_history!r}.")
        if existing_tokens not in ("error", "keep"):
            raise ValueError(f"Expected `existing_tokens` to be 'error' or 'keep', but found {existing_tokens!r}.")
        base = AutoTokenizer.from_pretrained(name_or_path, **kwargs)
        if not base.is_fast:
            raise ValueError(
                f"Expected a tokenizer backed by the `tokenizers` library for {str(name_or_path)!r}, but found "
                f"`{type(base).__name__}`. Use a backbone that ships a `tokenizer.json`."
            )
        if base.eos_token is None:
            raise ValueError(
                f"Expected the tokenizer of {str(name_or_path)!r} to have an end token, which closes every answer, "
                "but it has none. Name one of its tokens: `eos_token='</s>'`."
            )
        tokens = [token for level_tokens in sid_index.tokens for token in level_tokens]
        known = base.get_vocab()
        kept = sorted(known[token] for token in tokens if token in known)
        if kept and existing_tokens == "error":
            clash = next(token for token in tokens if token in known)
            raise ValueError(
                f"Expected SID tokens that are new to {str(name_or_path)!r}, but its vocabulary holds {clash!r}, "
                "whose embedding would be overwritten. A checkpoint of ours is loaded with "
                "`TSRecTokenizer.from_pretrained`; another recommender of these tokens is taken over, rows and all, "
                "by `existing_tokens='keep'`; else spell the index's `tokens` otherwise."
            )
        settings = {name: value for name, value in base.init_kwargs.items() if name not in _NOT_SETTINGS}
        settings |= base.special_tokens_map
        # Only what is an argument is saved, whatever becomes of the attribute later.
        settings |= {"padding_side": base.padding_side, "truncation_side": base.truncation_side}
        settings |= {"tsrec_prompt_version": PROMPT_VERSION, "tsrec_max_history": max_history}
        backend = base.backend_tokenizer
        if kept:
            settings["tsrec_kept_token_ids"] = kept
            backend = _with_ordinary_tokens(backend, set(tokens))
            settings |= {
                name: [token for token in named if str(token) not in set(tokens)]
                for name, named in base.special_tokens_map.items()
                if isinstance(named, list)
            }
        tokenizer = cls(tokenizer_object=backend, **settings)
        tokenizer.chat_template = base.chat_template
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        # Special tokens would vanish under `skip_special_tokens=True`, and `single_word` would break adjacent tokens.
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
        tokenizer._attach(sid_index)
        return tokenizer

    @classmethod
    def from_pretrained(  # type: ignore[override]  # all else is passed on
        cls, pretrained_model_name_or_path: str | Path, *args, **kwargs
    ) -> "TSRecTokenizer":
        """
        As [`~transformers.PreTrainedTokenizerBase.from_pretrained`]; reads the SID index as well.

        Raises:
            `FileNotFoundError`: a folder without a SID index. `ValueError`: the SID index of another checkpoint. What
            the Hub says of a gated repository, an unknown revision or a missing connection comes as it is.
        """
        read = cls._from_pretrained_with_index
        return read_checkpoint(read, pretrained_model_name_or_path, SID_INDEX_FILE, *args, **kwargs)

    @classmethod
    def _from_pretrained_with_index(cls, pretrained_model_name_or_path, *args, **kwargs) -> "TSRecTokenizer":
        tokenizer = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        index_file = tokenizer.init_kwargs.get("sid_index_file")
        if index_file is None:
            raise FileNotFoundError(
                f"Expected {SID_INDEX_FILE!r} beside the tokenizer in {str(pretrained_model_name_or_path)!r}, but "
                "there is no such file. Save the tokenizer with `save_pretrained`, or make one with "
                "`TSRecTokenizer.from_backbone`."
            )
        sid_index = SIDIndex.load(index_file)
        if not sid_index.fits(tokenizer.init_kwargs.get("tsrec_sid_index_fingerprint")):
            raise ValueError(
                f"The SID index in {str(pretrained_model_name_or_path)!r} ({sid_index}) is not the one that the "
                "tokenizer beside it was saved with: the two belong to different checkpoints. Load both from one "
                "folder."
            )
        tokenizer._attach(sid_index)
        prior_file = tokenizer.init_kwargs.get("prior_file")
        if prior_file is not None:
            prior, form, weight = load_prior(prior_file, sid_index)
            tokenizer._prior = prior, Fusion(form, weight)
        return tokenizer

    def with_sid_index(self, sid_index: SIDIndex) -> "TSRecTokenizer":
        """
        The same tokenizer over another catalogue, for a checkpoint that was trained on this one (transfer).

        The checkpoint takes its prompts and spells its items, as far as the two catalogues' SIDs mean the same: both
        come from one quantiser.

        Args:
            sid_index ([`SIDIndex`]):
                Catalogue whose SIDs are spelled with tokens of this tokenizer, at the same levels.

        Returns:
            [`TSRecTokenizer`]: A new one, without a prior; this one and the index stay as they are.

        Raises:
            `ValueError`: another number of levels, tokens that are unknown or of another level.

        Example:

        ```python
        >>> from tsrec_hf import SIDIndex

        >>> other = tokenizer.with_sid_index(SIDIndex(["kiwi"], [[1, 2, 0]]))
        >>> [[best]] = model.recommend(other, [["kiwi"]], top_k=1)
        >>> best.item_id
        'kiwi'
        ```
        """
        mine = self.sid_index
        if sid_index.num_levels != mine.num_levels:
            raise ValueError(
                f"Expected an index of {mine.num_levels} levels, as the checkpoint's, but found "
                f"{sid_index.num_levels}."
            )
        for level, (theirs, known) in enumerate(zip(sid_index.tokens, mine.tokens)):
            strange = sorted(set(theirs) - set(known))
            if strange:
                raise ValueError(
                    f"Expected SIDs of tokens that the checkpoint has, but {len(strange)} of {len(theirs)} tokens of "
                    f"level {level} are unknown at that level, for example {strange[0]!r}. Quantise both catalogues "
                    "with one quantiser, or leave out the items that carry those tokens."
                )
        other = copy.deepcopy(self)
        other._prior = None
        # The other catalogue counts as grown out of this one, so that this one's checkpoints take it.
        ancestors = (*sid_index.ancestors, *mine.ancestors, mine.fingerprint)
        other._attach(sid_index._replace(ancestors=ancestors))
        return other

    def _attach(self, sid_index: SIDIndex) -> None:
        vocabulary = self.get_vocab()
        unknown = next((token for level in sid_index.tokens for token in level if token not in vocabulary), None)
        if unknown is not None:
            raise ValueError(
                f"The SID index spells {unknown!r}, which is not a token of the tokenizer beside it: the two belong "
                "to different checkpoints. Load both from one folder."
            )
        self.init_kwargs["tsrec_sid_index_fingerprint"] = sid_index.fingerprint
        self._sid_index = sid_index
        self._sid_token_ids = [[vocabulary[token] for token in level] for level in sid_index.tokens]

    def _save_pretrained(self, save_directory, file_names, legacy_format=None, filename_prefix=None):
        file_names = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        file_names = (*file_names, str(self.sid_index.save(save_directory)))
        if self._prior is None:
            # A folder that is saved to again must not keep a prior that is gone.
            Path(save_directory, PRIOR_FILE).unlink(missing_ok=True)
            return file_names
        prior, fusion = self._prior
        return (*file_names, str(save_prior(save_directory, prior, fusion.form, fusion.weight)))

    @property
    def sid_index(self) -> SIDIndex:
        """
        The catalogue: item ids and their SIDs.

        It may be set to an index that grew out of it, by `with_items` and `without_items`: searches that run go on in
        the catalogue they began with, the next ones use the new one. Another catalogue needs
        [`~TSRecTokenizer.with_sid_index`].
        """
        return self._sid_index

    @sid_index.setter
    def sid_index(self, grown: SIDIndex) -> None:
        if not isinstance(grown, SIDIndex):
            raise TypeError(f"Expected `sid_index` to be a `SIDIndex`, but found `{type(grown).__name__}`.")
        if not grown.fits(self._sid_index.fingerprint):
            raise ValueError(
                f"Expected an index that grew out of this tokenizer's ({self._sid_index}), but found another one "
                f"({grown}). Grow it by `tokenizer.sid_index.with_items(...)` or `without_items(...)`; for another "
                "catalogue make another tokenizer, by `with_sid_index`."
            )
        # The prior moves before anything is changed, in case it cannot, and takes its place after the index: whoever
        # reads the prior first never finds one of a later catalogue than the index.
        moved = None if self._prior is None else (self._prior[0].for_index(grown), self._prior[1])
        self._attach(grown)
        self._prior = moved

    @property
    def prior(self) -> ItemPrior | None:
        """The item prior that searches with this tokenizer use, from `fit_prior` or [`~TSRecTokenizer.set_prior`]."""
        return None if self._prior is None else self._prior[0]

    @property
    def fitted_prior(self) -> tuple[ItemPrior, Fusion] | None:
        """Both together, of one moment."""
        return self._prior

    @property
    def prior_fusion(self) -> Fusion | None:
        """How that prior is combined with the model."""
        return None if self._prior is None else self._prior[1]

    def set_prior(self, prior: ItemPrior | None, form: str = "log_linear", weight: float = 1.0) -> None:
        """
        Gives the checkpoint an item prior: it is saved with the tokenizer, and `recommend` uses it by default.

        Args:
            prior ([`ItemPrior`], *optional*):
                A prior of this catalogue, or of one that it grew out of; `None` removes it.
            form (`str`, *optional*, defaults to `"log_linear"`):
                `"log_linear"` or `"mixture"`.
            weight (`float`, *optional*, defaults to `1.0`):
                Weight of the prior; positive.

        Raises:
            `ValueError`: a prior of another index, another form or weight.
        """
        self._prior = None if prior is None else (prior.for_index(self.sid_index), Fusion(form, weight))

    @property
    def max_history(self) -> int:
        """Most items of a history, the most recent ones, that prompts hold."""
        return self.init_kwargs.get("tsrec_max_history", MAX_HISTORY)

    @property
    def prompt_version(self) -> str | None:
        """Version of the prompts' wording that this tokenizer was saved with."""
        return self.init_kwargs.get("tsrec_prompt_version")

    @property
    def kept_token_ids(self) -> list[int]:
        """Ids of SID tokens that were the backbone's own before, whose rows hold what it learned of them."""
        return self.init_kwargs.get("tsrec_kept_token_ids", [])

    @property
    def sid_token_ids(self) -> list[list[int]]:
        """Token id of every code, level by level: code `c` of level `l` is token `sid_token_ids[l][c]`."""
        return self._sid_token_ids

    def encode_sids(self, item_ids: Sequence[str]) -> list[list[int]]:
        """Token ids of the SIDs of items, one list of `num_levels` ids per item, without tokenising text."""
        codes = self.sid_index.codes[self.sid_index.positions_of(item_ids)]
        token_ids = self.sid_token_ids
        return [[token_ids[level][code] for level, code in enumerate(row)] for row in codes.tolist()]


def _with_ordinary_tokens(backend: Tokenizer, tokens: set[str]) -> Tokenizer:
    """A tokenizer whose SID tokens are no special ones; `add_tokens` would leave those that are there as they are."""
    state = json.loads(backend.to_str())
    for entry in state["added_tokens"]:
        if entry["content"] in tokens:
            entry |= {"special": False, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
    return Tokenizer.from_str(json.dumps(state))
