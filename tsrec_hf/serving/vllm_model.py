"""
The checkpoint of a recommender as a model of vLLM, which then loads it as it is: `LLM("outputs/sft")`.

Loaded by the entry point `vllm.general_plugins`. A checkpoint is a backbone behind a name of ours; vLLM's own class of
the backbone does the work.
"""

from collections.abc import Iterable

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.models.utils import AutoWeightsLoader, init_vllm_registered_model, maybe_prefix


class TSRecForCausalLM(nn.Module):
    """
    vLLM's class of the backbone, with the weights of a checkpoint.

    Args:
        vllm_config (`vllm.config.VllmConfig`):
            The engine's, with a [`TSRecConfig`].
        prefix (`str`, *optional*, defaults to `""`):
            What stands before the names of weights.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        config = vllm_config.model_config.hf_config.backbone_config
        self.backbone = init_vllm_registered_model(
            vllm_config,
            prefix=maybe_prefix(prefix, "backbone"),
            hf_config=config,
            architectures=config.architectures,
        )

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of tokens."""
        return self.backbone.embed_input_ids(input_ids)

    def forward(self, input_ids, positions, intermediate_tensors=None, inputs_embeds=None) -> torch.Tensor:
        """Hidden states of tokens."""
        return self.backbone(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Logits of hidden states."""
        return self.backbone.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Takes the weights of a checkpoint by name; vLLM also reads those of index and prior."""
        of_the_backbone = ((name, weight) for name, weight in weights if name.startswith("backbone."))
        return AutoWeightsLoader(self).load_weights(of_the_backbone)
