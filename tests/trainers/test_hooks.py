"""The private methods of TRL and transformers that the trainers override are as they were when that was written."""

import inspect

import pytest
from transformers import Trainer
from trl import GRPOTrainer, SFTTrainer

from tsrec_hf.trainers import TSRecGRPOTrainer, TSRecSFTTrainer
from tsrec_hf.trainers.base import RecommenderTrainer
from tsrec_hf.trainers.checkpointing import CheckpointingTrainer
from tsrec_hf.trainers.finite import FiniteTrainer
from tsrec_hf.trainers.hooks import HOOKS


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: f"{hook.owner.__name__}.{hook.name}")
def test_a_hook_has_its_signature(hook):
    method = getattr(hook.owner, hook.name, None)
    what_to_do = (
        f"A release of TRL or transformers changed `{hook.owner.__name__}.{hook.name}`, which the trainers override: "
        f"{hook.why}. Read the method anew, adapt the override, then its entry in tsrec_hf/trainers/hooks.py."
    )
    assert method is not None, what_to_do
    found = tuple(inspect.signature(method).parameters)[1:]
    if hook.parameters[-1:] == ("*",):
        named = hook.parameters[:-1]
        assert found[: len(named)] == named, what_to_do
    else:
        assert found == hook.parameters, what_to_do


def test_the_list_is_complete():
    overridden = set()
    for ours, theirs in (
        (RecommenderTrainer, Trainer),
        (CheckpointingTrainer, Trainer),
        (FiniteTrainer, Trainer),
        (TSRecSFTTrainer, SFTTrainer),
        (TSRecGRPOTrainer, GRPOTrainer),
    ):
        for name, value in vars(ours).items():
            if name.startswith("_") and not name.startswith("__") and callable(value) and hasattr(theirs, name):
                overridden.add((theirs, name))
    assert overridden == {(hook.owner, hook.name) for hook in HOOKS}
