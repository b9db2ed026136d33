"""Constrained search in the form of transformers' `generate`."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from transformers import PreTrainedModel
from transformers.generation import GenerateBeamDecoderOnlyOutput

from .search_tsrec import SIDSearch
from .tree_passes_tsrec import input_device


# For language models that have no setting of their own; as in `TSRecConfig`.
NUM_BEAMS = 50


@torch.no_grad()
def tsrec_generate(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    sid_tokenizer=None,
    num_sids: int = 10,
    num_sid_beams: int | None = None,
    sid_scoring: str = "vocabulary",
    generation_config=None,
    return_dict_in_generate: bool = False,
    **kwargs,
) -> torch.Tensor | GenerateBeamDecoderOnlyOutput:
    r"""
    Token ids of the most probable SIDs that exist, in the form of `generate`.

    Called by itself, or as `model.generate(**inputs, custom_generate=tsrec_generate, sid_tokenizer=tokenizer)`. The
    result is that of `generate` with `num_beams`, `num_return_sequences`, `length_penalty=0` and a
    `prefix_allowed_tokens_fn` that knows the catalogue.

    Args:
        model ([`TSRecForCausalLM`] or [`~transformers.PreTrainedModel`]):
            The recommender, or its language model alone, as `export_backbone` writes it.
        input_ids (`torch.Tensor` of shape `(batch, prompt)`):
            Prompts, padded on the left.
        sid_tokenizer ([`TSRecTokenizer`]):
            The recommender's tokenizer. Not `tokenizer`, which `generate` keeps to itself; nor do the next three have
            the names of its own settings, which it would act upon.
        num_sids (`int`, *optional*, defaults to `10`):
            SIDs to return for each prompt, at most as many as the catalogue has.
        num_sid_beams (`int`, *optional*):
            Prefixes kept at each level. Defaults to `config.recommend_num_beams` (50), or `num_sids` if that is more.
        sid_scoring (`str`, *optional*, defaults to `"vocabulary"`):
            `"vocabulary"` or `"catalogue"`.
        generation_config ([`~transformers.GenerationConfig`], *optional*):
            Passed by `generate`; only `return_dict_in_generate` is read.
        return_dict_in_generate (`bool`, *optional*, defaults to `False`):
            Whether to return scores as well.
        attention_mask (`torch.Tensor` of shape `(batch, prompt)`, *optional*):
            1 for the prompts' tokens, 0 for padding. Defaults to no padding.
        kwargs (*optional*):
            What else `generate` passes; not used.

    Returns:
        `torch.Tensor` of shape `(batch * num_sids, prompt + levels)`: For each prompt, its SIDs, best first; or a
        [`~transformers.generation.GenerateBeamDecoderOnlyOutput`] with `sequences` and `sequences_scores`.

    Raises:
        `ValueError`: no tokenizer or another checkpoint's, fewer beams than SIDs to return, `generate`'s names for the
        two numbers, prompts padded on the right, padding without a mask.

    Example:

    ```python
    >>> from tsrec_hf import PromptBuilder, tsrec_generate

    >>> prompt = PromptBuilder(tokenizer).sequence_prompt(["hammer", "nail"])
    >>> inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    >>> sequences = model.generate(**inputs, custom_generate=tsrec_generate, sid_tokenizer=tokenizer, num_sids=3)
    >>> [tokenizer.sid_index.items_of("".join(tokenizer.convert_ids_to_tokens(row[-3:]))) != [] for row in sequences]
    [True, True, True]
    ```
    """
    if sid_tokenizer is None:
        raise ValueError("Expected `sid_tokenizer`, the recommender's `TSRecTokenizer`, which knows the catalogue.")
    if num_sids < 1:
        raise ValueError(f"Expected `num_sids` of at least 1, but found {num_sids}.")
    check_names(kwargs)
    # Among the other keywords: `generate` (transformers 5.23) passes what a signature names twice.
    attention_mask = kwargs.get("attention_mask")
    if attention_mask is None:
        pad_token_id = sid_tokenizer.pad_token_id
        # An end token that stands for padding too may end a prompt's text, but none begins with it.
        if len(input_ids) > 1 and bool((input_ids[:, [0, -1]] == pad_token_id).any()):
            raise ValueError("Expected `attention_mask` with prompts that hold padding. Pass what the tokenizer gave.")
        attention_mask = torch.ones_like(input_ids)
    if not bool(attention_mask[:, -1].all()):
        raise ValueError(
            "Expected prompts padded on the left, but found padding behind a prompt. Set `padding_side='left'`."
        )
    backbone = checked_backbone(model, sid_tokenizer)
    trie = sid_tokenizer.sid_index.trie_on(input_device(backbone))
    search = SIDSearch(backbone, trie, sid_tokenizer.sid_token_ids, sid_scoring)
    num_sids = min(num_sids, trie.num_leaves)
    if num_sid_beams is None:
        num_sid_beams = max(getattr(model.config, "recommend_num_beams", NUM_BEAMS), num_sids)
    if num_sid_beams < num_sids:
        raise ValueError(
            f"Expected `num_sid_beams` of at least {num_sids}, the SIDs to return, but found {num_sid_beams}."
        )
    beams = search.beam(input_ids, attention_mask, num_sid_beams, top_k=num_sids)
    prompts = input_ids.unsqueeze(1).expand(-1, num_sids, -1)
    sequences = torch.cat([prompts, search.tokens_of(beams.leaves)], dim=-1).flatten(0, 1)
    if return_dict_in_generate or getattr(generation_config, "return_dict_in_generate", False):
        return GenerateBeamDecoderOnlyOutput(
            sequences=cast(torch.LongTensor, sequences),
            sequences_scores=cast(torch.FloatTensor, beams.scores.flatten()),
        )
    return sequences


def check_names(kwargs: Mapping[str, Any]) -> None:
    """Raises `ValueError` for `generate`'s numbers of beams and sequences, which mean nothing here."""
    for name, ours in (("num_beams", "num_sid_beams"), ("num_return_sequences", "num_sids")):
        if kwargs.get(name, 1) != 1:
            raise ValueError(
                f"Expected `{ours}` with `tsrec_generate`, but found `{name}={kwargs[name]}`, which is `generate`'s "
                f"name for it. Pass `{ours}={kwargs[name]}`."
            )


def checked_backbone(model: PreTrainedModel, tokenizer: Any) -> PreTrainedModel:
    """The language model to search with; raises `ValueError` where it does not know the tokenizer's catalogue."""
    # Not by the name of an attribute: Mamba, too, has a `backbone`, which lacks the head.
    if model.config.model_type == "tsrec":
        model.check_tokenizer(tokenizer)  # type: ignore[operator]
        return model.backbone  # type: ignore[return-value]
    # A plain model does not say which catalogue it was trained on, but what it has no row for it does not know.
    needed, rows = max(map(max, tokenizer.sid_token_ids)) + 1, len(
        cast(torch.Tensor, model.get_input_embeddings().weight)
    )
    if needed > rows:
        raise ValueError(
            f"Expected a model with rows for the SID tokens, whose ids end at {needed - 1}, but found one of {rows} "
            "rows. Load the language model of the recommender that the tokenizer belongs to, as `export_backbone` "
            "writes it."
        )
    return model
