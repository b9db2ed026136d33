"""
The output head for training on a CPU.

TRL 1.16 scores labels by a chunked function written for accelerators: elsewhere than on Triton devices it projects
every position, ignored ones too, and makes several passes over the logits for each figure. On two CPU cores that takes
longer than six layers of a 135M-parameter model. Here the labelled positions alone are projected and one `log_softmax`
scores them: the same numbers in about a third of the time. To be removed when TRL skips ignored positions on CPUs.
"""

import functools
import types

import torch
from trl.trainer.utils import FusedCausalLMOutput

from tsrec_hf.models import TSRecForCausalLM


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
        logits = torch.nn.functional.linear(hidden_states[mask], head.weight, head.bias)  # (labels, vocabulary)
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

    model.forward = types.MethodType(forward, model)  # type: ignore[method-assign]
