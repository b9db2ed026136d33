"""What FSDP2 (`fully_shard`) makes of a recommender, undone where a search or a checkpoint needs it whole."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from tsrec_hf.models import TSRecForCausalLM


# All parameters in full, on every process.
WHOLE = StateDictOptions(full_state_dict=True)


def whole_copy(model: TSRecForCausalLM) -> TSRecForCausalLM:
    """
    A copy of a sharded recommender for this process alone. Called by all processes at once: shards come together only
    then, and a search takes another number of passes on each.
    """
    weights = get_model_state_dict(model, options=WHOLE)
    whole = TSRecForCausalLM(copy.deepcopy(model.config)).to(model.device)
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
