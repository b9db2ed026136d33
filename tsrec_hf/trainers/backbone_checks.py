"""Checks of the backbone at the start of a training: what cannot recommend or be rewarded is refused, not trained."""

from typing import Any

import torch

from tsrec_hf.models import PromptBuilder, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models.evaluation_view_tsrec import evaluation_view
from tsrec_hf.models.probing_tsrec import Probe, fastest_kind
from tsrec_hf.models.tree_passes_tsrec import input_device

from .branches import can_share_prefix
from .grpo_config import TSRecGRPOConfig


def check_decodes(recommender: TSRecForCausalLM, tokenizer: TSRecTokenizer) -> None:
    """
    Raises `ValueError` for a backbone that no search can decode with; warns where searches will be slow.
    """
    if _is_whole(recommender):
        fastest_kind(Probe(evaluation_view(recommender.backbone), _longest_sequence(tokenizer)))


def has_aux_loss(recommender: TSRecForCausalLM, args: Any) -> bool:
    """
    Whether a mixture of experts returns the auxiliary loss of its routers, which TRL adds wherever a configuration has
    `output_router_logits`; raises `ValueError` where it was asked for and is not returned.
    """
    if not _is_whole(recommender):
        return True
    backbone = evaluation_view(recommender.backbone)
    input_ids = torch.ones(1, 2, dtype=torch.long, device=input_device(backbone))
    try:
        with torch.no_grad():
            output = backbone(input_ids=input_ids, output_router_logits=True, use_cache=False)
        found = getattr(output, "aux_loss", None) is not None
    except Exception:  # whatever a backbone does whose layers have no routers, although its class could
        found = False
    if not found and args.router_aux_loss_coef:
        raise ValueError(
            f"Expected a backbone that returns the auxiliary loss of its routers, since `router_aux_loss_coef` is "
            f"{args.router_aux_loss_coef}, but `{type(backbone).__name__}` has none. Leave the option out."
        )
    return found


def check_shared_prefix(
    recommender: TSRecForCausalLM, tokenizer: TSRecTokenizer, args: TSRecGRPOConfig, with_aux_loss: bool
) -> None:
    """
    Raises `ValueError` for a backbone that cannot run the completions of a prompt in one forward pass, if it has to.
    """
    if not args.shared_prefix or not _is_whole(recommender):
        return
    reason = None
    if not can_share_prefix(recommender.backbone, _longest_sequence(tokenizer)):
        reason = "tried on a small prompt, it gave other logits than plain forward passes"
    elif with_aux_loss:
        reason = "the auxiliary loss of a mixture of experts counts whole rows (or set `router_aux_loss_coef=0`)"
    if reason is not None:
        raise ValueError(
            "The completions of a prompt cannot share a pass through "
            f"`{type(recommender.backbone).__name__}`, since {reason}. Set `shared_prefix=False`."
        )


def _is_whole(recommender: TSRecForCausalLM) -> bool:
    """Whether the weights are here; shards run no forward pass by themselves."""
    return all(parameter.numel() > 0 for parameter in recommender.parameters())


def _longest_sequence(tokenizer: TSRecTokenizer) -> int:
    """Tokens of the longest prompt and its SID."""
    levels = tokenizer.sid_index.num_levels
    return len(PromptBuilder(tokenizer).instruction_ids) + (tokenizer.max_history + 1) * levels + 1
