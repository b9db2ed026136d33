"""
vLLM's engine, kept to SIDs that exist: loaded by vLLM itself, by the entry point `vllm.logits_processors`.

vLLM's beam search sends every beam as a new request, level by level, so that the processor reads from the tokens at
the end where in a SID a request is. It is on for models whose folder holds SIDs, and does nothing for all others.
"""

import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from .sid_constraint import SIDConstraint


# `SamplingParams(extra_args={"valid_sids_only": False})` lets a request write whatever it wants.
SWITCH = "valid_sids_only"


class SIDLogitsProcessor(LogitsProcessor):
    """
    Leaves the tokens that continue a SID of the catalogue, and closes all others.

    Args:
        vllm_config (`vllm.config.VllmConfig`):
            The engine's; its model is the folder that SIDs are read from.
        device (`torch.device`):
            Where the logits are.
        is_pin_memory (`bool`):
            Of no use here.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool):
        model = vllm_config.model_config
        self._constraint = SIDConstraint.of_model(model.model, model.revision)
        if self._constraint is not None:
            self._constraint.to(device)
        # Prompt and answer of the requests in the batch; vLLM appends to the answers.
        self._requests: dict[int, tuple[list[int], list[int]]] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raises `ValueError` for a switch that is neither on nor off."""
        value = (sampling_params.extra_args or {}).get(SWITCH, True)
        if not isinstance(value, bool):
            raise ValueError(f"Expected `{SWITCH}` in `extra_args` to be True or False, but found {value!r}.")

    def is_argmax_invariant(self) -> bool:
        """Whether the likeliest token stays the same."""
        return self._constraint is None

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Takes note of requests that came, went or moved in the batch."""
        if self._constraint is not None:
            process_dict_updates(self._requests, batch_update, self._state_of)

    @staticmethod
    def _state_of(
        params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]
    ) -> tuple[list[int], list[int]] | None:
        return (prompt_ids or [], output_ids) if (params.extra_args or {}).get(SWITCH, True) else None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Restricts the logits of the batch, `(batch, vocabulary)`, in place."""
        if self._constraint is None or not self._requests:
            return logits
        prefixes = []
        for prompt_ids, output_ids in self._requests.values():
            if output_ids and output_ids[-1] < 0:
                raise RuntimeError(
                    "Expected the tokens written so far, but found placeholders: vLLM schedules the next step before "
                    "it has them. Start the engine with `async_scheduling=False`."
                )
            prefixes.append(self._constraint.prefix_of([*prompt_ids, *output_ids]))
        return self._constraint.restrict(logits, list(self._requests), prefixes)
