"""
How other systems decode, for comparison: `generate` with beams, held to the catalogue by a `prefix_allowed_tokens_fn`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from tsrec_hf import TSRecTokenizer


# As long as the instructions of other systems.
INSTRUCTION = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\nCan you predict the next possible item "
    "that the user may expect, given the items that the user has interacted with in chronological order? Answer with "
    "the semantic ID of that item alone.\n\n### Input:\n"
)


def pad_left(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of shape `(rows, longest)`, padded on the left, and their mask."""
    width = max(map(len, rows))
    input_ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return input_ids, mask


class GenerateBeams:
    """
    Constrained beam search by `generate`.

    Args:
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer of the recommender whose backbone generates.
    """

    def __init__(self, tokenizer: TSRecTokenizer):
        self.pad_token_id = tokenizer.pad_token_id
        self.num_levels = tokenizer.sid_index.num_levels
        # Prefix of a SID -> tokens that continue it.
        self.children: dict[tuple[int, ...], set[int]] = {}
        for ids in tokenizer.encode_sids(tokenizer.sid_index.item_ids):
            for level, token_id in enumerate(ids):
                self.children.setdefault(tuple(ids[:level]), set()).add(token_id)

    def __call__(
        self, backbone: PreTrainedModel, prompts: Sequence[Sequence[int]], num_beams: int, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Beams of a batch of prompts.

        Args:
            backbone ([`~transformers.PreTrainedModel`]):
                The language model.
            prompts (`Sequence[Sequence[int]]`):
                Token ids of each prompt.
            num_beams (`int`):
                Beams a prompt, all of which are returned.
            kwargs (*optional*):
                Passed to `generate`; a `logits_processor` takes the function's place.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Token ids of shape `(prompts, beams, levels)`, best first, and scores
            of shape `(prompts, beams)`.
        """
        input_ids, mask = pad_left(prompts, self.pad_token_id, backbone.device)
        width = input_ids.shape[1]
        if "logits_processor" not in kwargs:
            kwargs["prefix_allowed_tokens_fn"] = lambda _, ids: list(self.children[tuple(ids[width:].tolist())])
        output = backbone.generate(
            input_ids=input_ids,
            attention_mask=mask,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            length_penalty=0.0,
            do_sample=False,
            max_new_tokens=self.num_levels,
            eos_token_id=None,
            pad_token_id=self.pad_token_id,
            return_dict_in_generate=True,
            output_scores=True,
            **kwargs,
        )
        shape = (len(prompts), num_beams)
        return output.sequences[:, width:].view(*shape, -1), output.sequences_scores.view(shape)
