"""What FSDP2 (`fully_shard`) makes of a recommender, undone where a search or a checkpoint needs it whole."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from tsrec_hf.models import TSRecConfig, TSRecForCausalLM


# All parameters in full, on every process.
WHOLE = StateDictOptions(full_state_dict=True)


def whole_copy(model: TSRecForCausalLM) -> TSRecForCausalLM:
    """
    Copies a sharded recommender to this process alone. To be called by all processes at once: shards are gathered
    together, while a search needs another number of forward passes on each process.
    """
    weights = get_model_state_dict(model, options=WHOLE)
    whole = TSRecForCausalLM(cast(TSRecConfig, copy.deepcopy(model.config)))
    whole.to(model.device)  # type: ignore[arg-type]  # transformers' wrapper of `to` hides its arguments
    for parameter in whole.parameters():
        parameter.data = parameter.data.to(model.dtype)  # not the buffers: frequencies of positions stay float32
    whole.load_state_dict(weights)
    return whole.eval()


@contextmanager
def as_saved(model: TSRecForCausalLM) -> Iterator[None]:
    """
    Gives a sharded recommender its own class back.

    `fully_shard` (torch 2.13) changes a module's class to one of torch, and transformers saves the file of a custom
    model's class beside the weights: the checkpoint would carry code of torch in the place of ours.
    """
    sharded = type(model)
    model.__class__ = TSRecForCausalLM
    try:
        yield
    finally:
        model.__class__ = sharded
