"""Training the SID rows of the embeddings alone, as the grounding stage does before everything is trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch

from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer


@contextmanager
def sid_rows_only(model: TSRecForCausalLM, tokenizer: TSRecTokenizer) -> Iterator[None]:
    """
    Freezes everything but the SID rows of the input embeddings and, when untied, of the output head; undone on
    leaving.

    A row of a matrix has no gradient flag of its own, so the matrices stay trainable and the gradients of all other
    rows are set to zero as they arrive. Without weight decay other rows then stay bit for bit.

    Args:
        model ([`TSRecForCausalLM`]):
            The recommender.
        tokenizer ([`TSRecTokenizer`]):
            Says which rows are SID tokens.
    """
    others = torch.ones(sid_matrices(model)[0].weight.shape[0], 1, dtype=torch.bool)
    others[sid_token_ids(tokenizer)] = False
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    hooks = []
    for module in sid_matrices(model):
        weight = module.weight
        weight.requires_grad_(True)
        hooks.append(weight.register_hook(lambda gradient: gradient.masked_fill(others.to(gradient.device), 0.0)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        model.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)


def count_sid_row_parameters(model: TSRecForCausalLM, tokenizer: TSRecTokenizer) -> int:
    """Number of parameters in the SID rows of the input embeddings and, when untied, of the output head."""
    return len(sid_token_ids(tokenizer)) * sum(module.weight.shape[1] for module in sid_matrices(model))


def sid_token_ids(tokenizer: TSRecTokenizer) -> torch.Tensor:
    """Ids of all SID tokens, of shape `(num_tokens,)`."""
    return torch.tensor([token_id for level in tokenizer.sid_token_ids for token_id in level])


def sid_matrices(model: TSRecForCausalLM) -> list[torch.nn.Embedding | torch.nn.Linear]:
    """The modules with a row for every SID token: the input embeddings and, when untied, the output head."""
    inputs = cast(torch.nn.Embedding, model.get_input_embeddings())
    outputs = cast(torch.nn.Linear, model.get_output_embeddings())
    return [inputs] if outputs.weight is inputs.weight else [inputs, outputs]
