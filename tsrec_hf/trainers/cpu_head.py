"""
Output heads for training, in the place of TRL's fused one: a fast one for CPUs, one that is right for any backbone.

TRL 1.16 scores labels by a chunked function written for accelerators: elsewhere than on Triton devices it projects
every position, ignored ones too, and makes several passes over the logits for each figure. On two CPU cores that takes
longer than six layers of a 135M-parameter model. Here the labelled positions alone are projected and one `log_softmax`
scores them: the same numbers in about a third of the time. To be removed when TRL skips ignored positions on CPUs.

Logits are in float32, under autocast too. In bfloat16, which keeps two digits of them, the loss falls more slowly: in
the middle of the first pass of SmolLM2 over SIDs it is .2 to .3 behind float32, where the layers alone in bfloat16 are
level with it.

TRL's function also takes the head for one matrix behind the decoder. Some have more before it (BERT and its kind) or
behind it; for these the backbone's own logits are scored.
"""

import functools
import logging
import types
from typing import Any, cast

import torch
from trl.trainer.utils import FusedCausalLMOutput

from tsrec_hf.models import TSRecForCausalLM
from tsrec_hf.models.evaluation_view_tsrec import evaluation_view
from tsrec_hf.models.probing_tsrec import TOLERANCES, ProbeTree


logger = logging.getLogger(__name__)


# Settings by which an architecture changes its logits after the head; TRL's own function knows them.
LOGIT_SETTINGS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)


def add_cpu_lm_head(model: TSRecForCausalLM) -> None:
    """
    Replaces what `trl.trainer.utils.add_fused_lm_head` added to `model` by an equal that is fast on CPUs.

    Left as it is for backbones that change their logits after the head, and for mixtures of experts, whose auxiliary
    loss TRL adds.

    Args:
        model ([`TSRecForCausalLM`]):
            Model on a CPU, changed in place.
    """
    config = model.config.get_text_config()
    if any(getattr(config, name, None) is not None for name in (*LOGIT_SETTINGS, "output_router_logits")):
        return
    plain_forward = types.MethodType(type(model).forward, model)

    @functools.wraps(type(model).forward)
    def forward(self, *args, fused_lm_head=False, labels=None, num_items_in_batch=None, **kwargs):
        if not fused_lm_head:
            return plain_forward(*args, labels=labels, **kwargs)
        kwargs["use_cache"] = False
        hidden_states = self.base_model(*args, **kwargs).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        mask = labels != -100  # (batch, length - 1)
        head = self.get_output_embeddings()
        with torch.autocast(hidden_states.device.type, enabled=False):
            bias = None if head.bias is None else head.bias.float()
            logits = torch.nn.functional.linear(hidden_states[mask].float(), head.weight.float(), bias)
        return _scored(logits, labels, mask, num_items_in_batch)

    model.forward = types.MethodType(forward, model)  # type: ignore[method-assign]


def add_plain_lm_head(model: TSRecForCausalLM) -> None:
    """
    Replaces what `trl.trainer.utils.add_fused_lm_head` added to `model` by the backbone's own logits, all of them.

    Args:
        model ([`TSRecForCausalLM`]):
            Model, changed in place.
    """
    plain_forward = types.MethodType(type(model).forward, model)

    @functools.wraps(type(model).forward)
    def forward(self, *args, fused_lm_head=False, labels=None, num_items_in_batch=None, **kwargs):
        if not fused_lm_head:
            return plain_forward(*args, labels=labels, **kwargs)
        output = type(self).forward(self, *args, **kwargs)
        labels = labels[:, 1:]
        mask = labels != -100
        scored = _scored(output.logits[:, :-1][mask], labels, mask, num_items_in_batch)
        scored.aux_loss = output.aux_loss if kwargs.get("output_router_logits") else None
        return scored

    model.forward = types.MethodType(forward, model)  # type: ignore[method-assign]


def check_lm_head(model: TSRecForCausalLM) -> None:
    """
    Scores a few tokens with the fused head of `model` and with the backbone's own logits; where these differ, the
    fused head gives way to [`add_plain_lm_head`].
    """
    if any(parameter.numel() == 0 for parameter in model.parameters()):
        return  # cut into shards, which runs no pass by itself
    view = evaluation_view(model)
    tree = ProbeTree.of(view.backbone, 4)
    input_ids = torch.cat([tree.prefix_ids, tree.input_ids[0]]).unsqueeze(0)
    with torch.no_grad():
        logits = cast(Any, type(view)).forward(view, input_ids=input_ids).logits[:, :-1].float()
        expected = logits.log_softmax(-1).gather(-1, input_ids[:, 1:].unsqueeze(-1)).squeeze(-1)
        try:
            found = view(input_ids=input_ids, labels=input_ids, fused_lm_head=True, use_cache=False).log_probs
        except Exception as error:  # whatever a backbone has in the place of a decoder and a matrix behind it
            logger.info(f"The fused head cannot be used: {type(error).__name__}: {error}")
            found = torch.full_like(expected, torch.inf)
    bound = TOLERANCES[view.backbone.dtype] * logits.std(-1) + 1e-5
    if not bool(((found - expected).abs() > bound).any()):  # NaN is for the trainer to report
        return
    logger.info(
        f"The head of `{type(view.backbone).__name__}` is more than one matrix behind its decoder: the loss is taken "
        "from its logits, which needs more memory."
    )
    add_plain_lm_head(model)


def _scored(
    logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
) -> FusedCausalLMOutput:
    """What TRL's fused head returns, from the logits of the labelled positions, `(labels, vocabulary)`."""
    log_probs = logits.float().log_softmax(dim=-1)
    answers = labels[mask].unsqueeze(-1)
    chosen = log_probs.gather(-1, answers).squeeze(-1)
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
        is_top1 = log_probs.argmax(dim=-1) == answers.squeeze(-1)

    def spread(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    divisor = mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    return FusedCausalLMOutput(
        loss=-chosen.sum() / divisor,
        log_probs=spread(chosen),
        entropy=spread(entropy),
        is_top1=spread(is_top1),
        label_mask=mask,
    )
