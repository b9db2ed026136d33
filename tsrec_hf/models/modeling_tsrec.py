"""The recommender: a causal language model that writes the semantic ID of the next item (TS-Rec, arXiv 2602.22632)."""

import shutil
from collections.abc import Mapping, Sequence
from operator import length_hint
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import ModelCard
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, GenerationMixin, PreTrainedModel

from .companions_tsrec import add_companions
from .configuration_tsrec import UNNAMED_REPO, TSRecConfig
from .downloading_tsrec import read_checkpoint
from .generate_tsrec import check_names, tsrec_generate
from .positions_tsrec import check_positions, learned_positions
from .recommending_tsrec import ItemSet, Recommendation, recommend_items
from .replacing_tsrec import replaced
from .sa_init import initialize_sid_embeddings, resize_default_rows
from .session_tsrec import SearchSession
from .tokenization_tsrec import TSRecTokenizer
from .tracing_tsrec import SearchTrace, trace_search


# `handler.py` serves a checkpoint as an Inference Endpoint, which installs `requirements.txt`; the other file is what
# `custom_pipelines` in config.json names.
CODE_FILES = ("handler.py", "pipeline_tsrec.py")
REQUIREMENTS = "transformers>=5.20,<6\n"
# What is in a card that nobody wrote by hand: ours, and the one that transformers makes of nothing.
GENERATED_CARDS = ("<!-- Made by tsrec_hf", "This model card has been automatically generated.")


class TSRecForCausalLM(PreTrainedModel, GenerationMixin):
    r"""
    A wrapper of any causal language model that recommends items by their semantic IDs.

    Made by [`TSRecForCausalLM.from_backbone`]; then it saves, loads, trains and generates as every transformers model
    does, and [`~TSRecForCausalLM.recommend`] turns histories into ranked items.

    Args:
        config ([`TSRecConfig`]):
            Configuration.
        backbone ([`~transformers.PreTrainedModel`], *optional*):
            Language model to wrap. Defaults to a new one made from `config.backbone_config`.

    Attributes:
        model_card (`str`, *optional*):
            Text of the card that `push_to_hub` sends; the trainers write it. Defaults to the `README.md` of the folder
            that the model was read from.
        tokenizer ([`TSRecTokenizer`], *optional*):
            The tokenizer that `push_to_hub` sends along, from `from_backbone`, `load_recommender` or a trainer. Where
            there is none, that of the folder or repository that the model was read from goes along.

    Example:

    ```python
    >>> [[first, second]] = model.recommend(tokenizer, [["hammer", "nail"]], top_k=2, num_beams=4)
    >>> first.item_id in tokenizer.sid_index and first.score >= second.score
    True
    ```
    """

    config_class = TSRecConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    # A dict, as PEFT expects: ties are declared by the backbone itself.
    _tied_weights_keys = {}
    _supports_attention_backend = True
    model_card: str | None = None
    tokenizer: TSRecTokenizer | None = None
    # For those who have the checkpoint alone: `model.generate(..., custom_generate=model.tsrec_generate)`.
    tsrec_generate = staticmethod(tsrec_generate)

    def __init__(self, config: TSRecConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        self.backbone = AutoModelForCausalLM.from_config(config.backbone_config) if backbone is None else backbone
        self.generation_config = self.backbone.generation_config
        self.learned_positions = learned_positions(self.backbone)
        self.post_init()

    # What transformers asks before it picks an attention implementation: the answers are the backbone's.

    @property
    def _supports_sdpa(self) -> bool:  # type: ignore[override]  # an attribute there
        return self._backbone_supports("_supports_sdpa")

    @property
    def _supports_flash_attn(self) -> bool:  # type: ignore[override]
        return self._backbone_supports("_supports_flash_attn")

    @property
    def _supports_flex_attn(self) -> bool:  # type: ignore[override]
        return self._backbone_supports("_supports_flex_attn")

    def _backbone_supports(self, name: str) -> bool:
        kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(self.config.backbone_config), None)
        # A backbone of custom code decides when it is made.
        return kind is None or bool(getattr(kind, name))

    def initialize_weights(self) -> None:
        """
        As the backbone's. By themselves, transformers would take what is made in here for custom code, and leave
        modules without parameters, such as those of non-persistent buffers, as they came from memory.
        """
        self.backbone.initialize_weights()

    @property
    def base_model(self) -> nn.Module:
        """The decoder without its head, which TRL's losses call."""
        return self.backbone.base_model

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's input embeddings."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the backbone's input embeddings."""
        self.backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The backbone's output head."""
        head = self.backbone.get_output_embeddings()
        if not hasattr(head, "bias"):
            # PEFT 0.21 wraps a trained head in a module without `bias`, which TRL 1.16's fused head reads.
            head.bias = None
        return head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replaces the backbone's output head."""
        self.backbone.set_output_embeddings(value)

    def prepare_inputs_for_generation(self, input_ids: torch.LongTensor, *args, **kwargs) -> dict[str, Any]:
        """As the backbone's; raises `ValueError` for more tokens than it has learned positions for."""
        check_positions(self.learned_positions, input_ids.shape[1])
        return cast(GenerationMixin, self.backbone).prepare_inputs_for_generation(input_ids, *args, **kwargs)

    def generate(self, *args, custom_generate: Any = None, **kwargs):
        """
        As [`~transformers.GenerationMixin.generate`]; with [`tsrec_generate`] the numbers of beams and of sequences in
        a `generation_config` mean nothing, since `generate` would repeat the prompts by them.
        """
        if getattr(custom_generate, "__name__", None) == tsrec_generate.__name__:
            check_names(kwargs)
            kwargs |= {"num_beams": 1, "num_return_sequences": 1}
        return super().generate(*args, custom_generate=custom_generate, **kwargs)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs,
    ):
        """As the backbone's `forward`; raises `ValueError` for more tokens than it has learned positions for."""
        if input_ids is not None and position_ids is None:
            check_positions(self.learned_positions, input_ids.shape[1])
        return self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, labels=labels, **kwargs
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]  # all else is passed on
        cls, pretrained_model_name_or_path: str | Path | None, *args, **kwargs
    ) -> "TSRecForCausalLM":
        """
        As [`~transformers.PreTrainedModel.from_pretrained`]. What the Hub says of a gated repository, an unknown
        revision or a missing connection comes as it is.

        Raises:
            `ValueError`: weights that lack some of the model's, which would be drawn at random; no `config.json`.
        """
        read = super().from_pretrained
        if pretrained_model_name_or_path is None:  # weights come as `state_dict`
            return read(None, *args, **kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = read_checkpoint(
            read, pretrained_model_name_or_path, "config.json", *args, output_loading_info=True, **kwargs
        )
        # An adapter keeps trained rows of tied matrices once, and PEFT puts them into both.
        tied = model.config.tie_word_embeddings
        missing = sorted(name for name in info["missing_keys"] if not (tied and ".token_adapter." in name))
        if missing:
            raise ValueError(
                f"Expected weights for all of the model in {str(pretrained_model_name_or_path)!r}, but {len(missing)} "
                f"are missing, such as {missing[0]!r}, and would be random. The checkpoint is incomplete: fetch or "
                "save it again."
            )
        return (model, info) if wants_info else model  # type: ignore[return-value]  # a pair where it was asked for

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | Path,
        tokenizer: TSRecTokenizer,
        semantics: Mapping[str, Any] | None = None,
        sa_init_kwargs: Mapping[str, Any] | None = None,
        **from_pretrained_kwargs,
    ) -> "TSRecForCausalLM":
        """
        Wraps a pretrained language model and gives it rows for the SID tokens.

        Args:
            name_or_path (`str` or `Path`):
                Hub id or folder of the backbone.
            tokenizer ([`TSRecTokenizer`]):
                Tokenizer made from the same backbone.
            semantics ([`TokenSemantics`], *optional*):
                Keywords of every SID token, from which SA-Init makes its row. Without them the rows start as
                `resize_token_embeddings` would have made them.
            sa_init_kwargs (`dict`, *optional*):
                Arguments of [`initialize_sid_embeddings`], such as `PUBLISHED_SA_INIT`.
            from_pretrained_kwargs (*optional*):
                Passed to `AutoModelForCausalLM.from_pretrained`: `dtype`, `attn_implementation`, `gguf_file`,
                `revision`, ...

        Returns:
            [`TSRecForCausalLM`]: In evaluation mode, as `from_pretrained` leaves models.

        Raises:
            `TypeError`: a tokenizer without SID tokens. `ValueError`: a tokenizer of a larger backbone, a backbone
            whose vocabulary cannot grow, a SID token without keywords, semantics of another SID index,
            `sa_init_kwargs` without `semantics`.
        """
        _check_has_sids(tokenizer)
        if semantics is None and sa_init_kwargs:
            raise ValueError(
                "Expected `semantics` with `sa_init_kwargs`: SA-Init needs the keywords of every SID token. Pass "
                "`TokenSemantics`, or leave out `sa_init_kwargs`."
            )
        # Where semantics do not name their index, tokens without keywords are for `missing` to decide.
        check = getattr(semantics, "check_index", None)
        if check is not None and getattr(semantics, "fingerprint", None) is not None:
            check(tokenizer.sid_index)
        backbone = AutoModelForCausalLM.from_pretrained(name_or_path, **from_pretrained_kwargs)
        if "gguf_file" in from_pretrained_kwargs:
            # A model read from GGUF refuses to be saved, and its configuration would call the dequantised weights
            # quantised: they move into a fresh model.
            del backbone.config.quantization_config
            fresh = AutoModelForCausalLM.from_config(backbone.config, dtype=backbone.dtype)
            fresh.load_state_dict(backbone.state_dict())
            fresh.generation_config = backbone.generation_config
            backbone = fresh.eval()
        _check_padding_row(backbone)
        token_ids = torch.tensor([token_id for level in tokenizer.sid_token_ids for token_id in level])
        kept = set(tokenizer.kept_token_ids)
        if kept and semantics is not None:
            raise ValueError(
                f"Expected no `semantics`: {len(kept)} SID tokens were taken over from {str(name_or_path)!r} with "
                "their rows, which SA-Init would overwrite. Leave `semantics` out, or make the tokenizer without "
                "`existing_tokens='keep'`."
            )
        rows = min(_vocabulary_rows(backbone))
        if int(token_ids.min()) > rows:
            raise ValueError(
                f"The first SID token has id {int(token_ids.min())}, but {str(name_or_path)!r} has only {rows} rows "
                "of embeddings. Make the tokenizer with `TSRecTokenizer.from_backbone` from the same backbone."
            )
        # Where a vocabulary has gaps, ids reach beyond its length.
        needed = max(len(tokenizer), int(token_ids.max()) + 1)
        if needed > rows:
            _grow_vocabulary(backbone, needed)
        fresh_ids = torch.tensor([token_id for token_id in token_ids.tolist() if token_id not in kept])
        if len(fresh_ids):
            resize_default_rows(backbone, fresh_ids)
        config = TSRecConfig(
            backbone_config=backbone.config,
            sid_index_fingerprint=tokenizer.sid_index.fingerprint,
            prompt_version=tokenizer.prompt_version,
            max_history=tokenizer.max_history,
            sid_token=(tokenizer.sid_index.tokens[0][0], tokenizer.sid_token_ids[0][0]),
            sid_initialization={"pooling": "kept" if kept else "resize"},
            # A local folder means nothing elsewhere.
            run_facts=None if Path(name_or_path).exists() else {"base_model": str(name_or_path)},
            dtype=backbone.dtype,
            # A composite configuration sets its parts' attention too, and would unset the one the backbone was loaded
            # with.
            attn_implementation=backbone.config._attn_implementation,  # type: ignore[call-arg]  # an attribute
        )
        model = cls(config, backbone=backbone).eval()
        model.tokenizer = tokenizer
        if semantics is not None:
            initialize_sid_embeddings(model, tokenizer, semantics, **(sa_init_kwargs or {}))
        return model

    def save_pretrained(  # type: ignore[override]  # all else is passed on
        self, save_directory: str | Path, is_main_process: bool = True, **kwargs
    ) -> None:
        """As the parent's; writes the code of an Inference Endpoint and of the pipeline as well."""
        # Before the parent's, which may push the folder. Without the package there are no such files to copy.
        sources = [Path(__file__).with_name(name) for name in CODE_FILES]
        if is_main_process and all(path.is_file() for path in sources):
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            for path in sources:
                shutil.copy(path, save_directory)
            Path(save_directory, "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)

    def _upload_modified_files(self, working_dir, repo_id, files_timestamps, *args, **kwargs):
        # Every push of transformers goes through here, behind a `README.md` that is the repository's or an empty form.
        companions = add_companions(working_dir, self.tokenizer, self.name_or_path or "")
        self._write_model_card(Path(working_dir, "README.md"), repo_id)
        # Files that were in the folder before are sent as well.
        before = {name: time for name, time in files_timestamps.items() if name not in companions}
        return super()._upload_modified_files(working_dir, repo_id, before, *args, **kwargs)

    def _write_model_card(self, path: Path, repo_id: str) -> None:
        """Puts the model's card in the place of one that nobody wrote by hand."""
        text, origin = self.model_card, Path(self.name_or_path or "", "README.md")
        if text is None and self.name_or_path and origin.is_file():
            text = origin.read_text(encoding="utf-8")
        there = path.read_text(encoding="utf-8") if path.is_file() else GENERATED_CARDS[0]
        if text is None or not any(mark in there for mark in GENERATED_CARDS):
            return
        card = ModelCard(text.replace(UNNAMED_REPO, repo_id), ignore_metadata_errors=True)
        asked = ModelCard(there, ignore_metadata_errors=True).data.get("tags") if path.is_file() else None
        card.data["tags"] = list(dict.fromkeys([*(card.data.get("tags") or []), *(asked or [])])) or None
        with replaced(path) as part:
            card.save(part)

    def check_tokenizer(self, tokenizer: TSRecTokenizer) -> None:
        """
        Raises `ValueError` unless the tokenizer's SID index, token ids, prompt version and `max_history` are this
        checkpoint's.
        """
        _check_has_sids(tokenizer)
        token, recorded_id = self.config.sid_token or (None, None)
        if token is not None and tokenizer.convert_tokens_to_ids(token) != recorded_id:
            raise ValueError(
                f"This checkpoint has the SID token {token!r} in row {recorded_id}, but the tokenizer gives it the id "
                f"{tokenizer.convert_tokens_to_ids(token)}: it was made from another backbone. Load the tokenizer of "
                "the same checkpoint."
            )
        for name, meaning in (("prompt_version", "prompts of version"), ("max_history", "histories of at most")):
            recorded, found = getattr(self.config, name), getattr(tokenizer, name)
            if recorded is not None and recorded != found:
                raise ValueError(
                    f"This checkpoint was trained with {meaning} {recorded!r}, but the tokenizer says {found!r}. Load "
                    "the tokenizer of the same checkpoint, or train the model again."
                )
        if not tokenizer.sid_index.fits(self.config.sid_index_fingerprint):
            raise ValueError(
                f"This checkpoint belongs to the SID index {self.config.sid_index_fingerprint}, but the tokenizer "
                f"holds another, {tokenizer.sid_index.fingerprint} ({tokenizer.sid_index}). Load the tokenizer from "
                "the same checkpoint, or, to recommend from another catalogue on purpose, make one with "
                "`with_sid_index`."
            )

    def recommend(
        self,
        tokenizer: TSRecTokenizer,
        histories: Sequence[Sequence[str]],
        top_k: int = 10,
        num_beams: int | None = None,
        batch_size: int = 16,
        progress: bool = False,
        allowed_items: ItemSet | None = None,
        exclude_items: ItemSet | None = None,
        exclude_history: bool = False,
        search: str = "beam",
        scoring: str = "catalogue",
        max_batch_tokens: int = 16_384,
        prior: Any = "fitted",
        prior_form: str | None = None,
        prior_weight: float | None = None,
        unknown_items: str = "error",
    ) -> list[list[Recommendation]]:
        """
        Ranks the catalogue's items for each history by constrained search.

        Args:
            tokenizer ([`TSRecTokenizer`]):
                The checkpoint's tokenizer.
            histories (`Sequence[Sequence[str]]`):
                Item ids of each user, oldest first; a list, or a column of a `datasets.Dataset`. The most recent
                `tokenizer.max_history` are used.
            top_k (`int`, *optional*, defaults to `10`):
                Items to return per user. Items that share a SID all count, by their training counts.
            num_beams (`int`, *optional*):
                Prefixes kept at each level, or, in an exact search, expanded in one pass. Defaults to
                `config.recommend_num_beams` (50).
            batch_size (`int`, *optional*, defaults to `16`):
                Most users decoded together; users of like length share a batch. An exact search takes one at a time.
            progress (`bool`, *optional*, defaults to `False`):
                Whether to show a progress bar.
            allowed_items (`Iterable[str]`, or one such per user, *optional*):
                Items that may be recommended. Defaults to all. Many items are quicker as a mask, made once by
                `sid_index.mask_of(item_ids)` and passed to every call.
            exclude_items (`Iterable[str]`, or one such per user, *optional*):
                Items that may not be recommended; as a mask as well.
            exclude_history (`bool`, *optional*, defaults to `False`):
                Whether to leave out the items of the user's own history, all of it.
            search (`str`, *optional*, defaults to `"beam"`):
                `"beam"`, or `"exact"` for the true best of the whole catalogue, whatever it costs: a progress bar and
                the log say how many prefixes were expanded.
            scoring (`str`, *optional*, defaults to `"catalogue"`):
                `"catalogue"` sums log-probabilities over the tokens that continue a SID that exists, so those of the
                whole catalogue add up to 1; `"vocabulary"` sums them over the whole vocabulary, as `generate` does,
                which is slower and ranks no better.
            max_batch_tokens (`int`, *optional*, defaults to `16384`):
                Tokens of a batch, prompts and beams together, above which it takes fewer users.
            prior ([`ItemPrior`], array, `dict` or `Callable`, *optional*, defaults to `"fitted"`):
                Weights over items that are combined with the model inside the search. `"fitted"` is the checkpoint's
                own, from `fit_prior`, if it has one; `None` searches without. Weights are at least 0: an array
                `(num_items,)` or `(users, num_items)` in the order of `sid_index.item_ids`; a mapping from item ids
                to weights, 1 for all others (2 boosts an item, 0 mutes it), or a list of such mappings, one per user;
                a function from a batch of histories to an array `(batch, num_items)`.
            prior_form (`str`, *optional*):
                `"log_linear"`, `log p + weight * log prior`, or `"mixture"`, `log(p + weight * prior)`, where items
                of one SID share its probability. Defaults to the fitted one, or else `"log_linear"`.
            prior_weight (`float`, *optional*):
                Weight of the prior. Defaults to the fitted one, or else 1.
            unknown_items (`str`, *optional*, defaults to `"error"`):
                What happens where a history names an item that the index does not hold, one that was delisted since:
                `"error"` refuses the call, `"drop"` goes on without the item. A history that nothing is left of gets
                an empty list.

        Returns:
            `list[list[Recommendation]]`: For each user, best first. The rules apply inside the search, so lists are
            shorter than `top_k` only where fewer items are allowed.

        Raises:
            `KeyError`: an item that the index does not hold. `TypeError`: a single history in place of a list of them,
            a generator, a whole data set, an option of another type. `ValueError`: an empty history, a tokenizer of
            another index, a checkpoint of another prompt version, fewer beams than items asked for, another search or
            scoring, a model whose scores are not numbers, rules that leave a user nothing.

        Example:

        ```python
        >>> allowed = ["apple", "bread"]
        >>> [[first]] = model.recommend(tokenizer, [["hammer"]], top_k=1, num_beams=4, allowed_items=allowed)
        >>> first.item_id in allowed
        True
        ```
        """
        return recommend_items(
            # What has no length is refused behind this door.
            SearchSession(self, tokenizer, scoring, share_prefix=length_hint(histories, 2) > 1),
            histories,
            top_k=top_k,
            num_beams=self.config.recommend_num_beams if num_beams is None else num_beams,
            batch_size=batch_size,
            progress=progress,
            allowed_items=allowed_items,
            exclude_items=exclude_items,
            exclude_history=exclude_history,
            search=search,
            max_batch_tokens=max_batch_tokens,
            prior=prior,
            prior_form=prior_form,
            prior_weight=prior_weight,
            unknown_items=unknown_items,
        )

    def trace_search(self, tokenizer: TSRecTokenizer, history: Sequence[str], **options: Any) -> SearchTrace:
        """
        Recommends items to one user and tells how the search went, as the function [`trace_search`], for those who
        have the checkpoint and not the package.

        Args:
            tokenizer ([`TSRecTokenizer`]):
                The checkpoint's tokenizer.
            history (`Sequence[str]`):
                Item ids of the user, oldest first.
            options (*optional*):
                As the function's.

        Returns:
            [`SearchTrace`]: The levels of the search, and the items.

        Example:

        ```python
        >>> trace = model.trace_search(tokenizer, ["hammer"], top_k=1, num_beams=4)
        >>> [len(step.kept) for step in trace.steps]
        [2, 4, 4]
        ```
        """
        return trace_search(self, tokenizer, history, **options)


def _vocabulary_rows(backbone: PreTrainedModel) -> list[int]:
    """Rows of the embeddings and of the head."""
    matrices: Any = (backbone.get_input_embeddings(), backbone.get_output_embeddings())
    return [len(matrix.weight) for matrix in matrices]


@torch.no_grad()
def _check_padding_row(backbone: PreTrainedModel) -> None:
    """
    Raises `ValueError` for a class that empties the padding token's row of weights that were loaded, where the head
    has that row as well and training changes it.
    """
    padding_row = getattr(backbone.get_input_embeddings(), "padding_idx", None)
    if padding_row is None or not getattr(backbone.config, "tie_word_embeddings", False):
        return
    loaded = nn.Embedding(2, 2, padding_idx=0)
    loaded.weight.fill_(1.0)
    loaded.weight._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers' mark of what was loaded
    backbone._init_weights(loaded)
    if not bool(loaded.weight.all()):
        raise ValueError(
            f"Expected a backbone whose weights come back as they are saved, but `{type(backbone).__name__}` sets row "
            f"{padding_row}, of the padding token, to 0 whenever it is loaded. Set `pad_token_id` to null in its "
            "config.json, or use another backbone."
        )


def _grow_vocabulary(backbone: PreTrainedModel, num_rows: int) -> None:
    """
    Adds rows to a backbone's embeddings and head; raises `ValueError` where its class cannot, or where what is saved
    could not be loaded, since its configuration counts the rows by another name.
    """
    try:
        backbone.resize_token_embeddings(num_rows, mean_resizing=False)
        with torch.device("meta"):
            loaded = AutoModelForCausalLM.from_config(backbone.config)
        sizes, again = _vocabulary_rows(backbone), _vocabulary_rows(loaded)
        reason = None if min(sizes) >= num_rows else f"leaves matrices of {sizes} rows"
        if reason is None and again != sizes:
            reason = f"makes matrices of {sizes} rows, but its configuration says {again}"
    except Exception as error:  # whatever a class does that was not made to be resized
        reason = f"ends in {type(error).__name__}: {error}"
    if reason is not None:
        raise ValueError(
            f"Expected a backbone that takes {num_rows} rows for its tokens and the SIDs', but "
            f"`{type(backbone).__name__}.resize_token_embeddings` {reason}. Use another backbone."
        )


def _check_has_sids(tokenizer: TSRecTokenizer) -> None:
    # By attribute and not by class: the class of a checkpoint loaded with remote code is another one of the same name.
    if not hasattr(tokenizer, "sid_index"):
        raise TypeError(
            f"Expected a `TSRecTokenizer`, but found `{type(tokenizer).__name__}`. Make one with "
            "`TSRecTokenizer.from_backbone`, or load the checkpoint's own with `TSRecTokenizer.from_pretrained`."
        )


# Here and not in the package's `__init__`, which does without transformers' modeling code.
AutoModelForCausalLM.register(TSRecConfig, TSRecForCausalLM, exist_ok=True)
TSRecForCausalLM.register_for_auto_class("AutoModelForCausalLM")
