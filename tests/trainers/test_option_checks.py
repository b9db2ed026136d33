"""Every option of TRL's settings is used, handed on, or refused by name."""

import dataclasses

import pytest
from trl import GRPOConfig, SFTConfig

from tsrec_hf.trainers import TSRecGRPOConfig, TSRecSFTConfig
from tsrec_hf.trainers.option_checks import DELEGATED, REFUSED_BY_GRPO, REFUSED_BY_SFT, SET_BY_GRPO, USED


METHODS = {"sft": (SFTConfig, TSRecSFTConfig, REFUSED_BY_SFT), "grpo": (GRPOConfig, TSRecGRPOConfig, REFUSED_BY_GRPO)}
# Values that TRL itself takes.
OTHERS = {"train_sampling_strategy": "sequential", "vllm_importance_sampling_mode": "token_mask"}


@pytest.mark.parametrize("method", METHODS)
def test_every_option_is_used_handed_on_or_refused(method):
    theirs, _, refused = METHODS[method]
    options = {field.name for field in dataclasses.fields(theirs)}
    unknown = options - USED - DELEGATED - SET_BY_GRPO - set(refused)
    assert not unknown, (
        f"{theirs.__name__} has options that the trainers say nothing of: {sorted(unknown)}. Read what each does, "
        "then enter it in tsrec_hf/trainers/option_checks.py."
    )
    assert not set(refused) - options, f"{theirs.__name__} no longer has {sorted(set(refused) - options)}."


def test_no_option_has_two_fates():
    every = {field.name for theirs in (SFTConfig, GRPOConfig) for field in dataclasses.fields(theirs)}
    assert not (USED & DELEGATED) and not ((USED | DELEGATED) & (set(REFUSED_BY_SFT) & set(REFUSED_BY_GRPO)))
    ours = {field.name for _, kind, _ in METHODS.values() for field in dataclasses.fields(kind)}
    # transformers before 5.23 has it under its old name only.
    later = {"activation_checkpointing_kwargs"}
    assert not (USED | DELEGATED | SET_BY_GRPO) - every - ours - later


@pytest.mark.parametrize(
    ("method", "name"), [(method, name) for method, (*_, refused) in METHODS.items() for name in refused]
)
def test_what_does_not_apply_is_refused_by_name(method, name, tmp_path):
    _, kind, _ = METHODS[method]
    [field] = [field for field in dataclasses.fields(kind) if field.name == name]
    default = field.default
    if name in OTHERS:
        value = OTHERS[name]
    elif isinstance(default, bool):
        value = not default
    elif isinstance(default, (int, float)):
        value = default + 1
    else:
        value = "other"
    with pytest.raises(ValueError, match=f"`{name}`={value} does not apply: .*Leave it at its default, {default}"):
        kind(str(tmp_path), bf16=False, **{name: value})
