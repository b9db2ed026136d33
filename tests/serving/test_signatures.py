"""Engines take the options of `recommend`, by the same names and with the same defaults."""

import inspect

from tsrec_hf import TSRecForCausalLM, recommend_vllm


def test_vllms_options_are_those_of_recommend() -> None:
    ours = inspect.signature(TSRecForCausalLM.recommend).parameters
    theirs = inspect.signature(recommend_vllm).parameters
    # The engine scores over the catalogue and sees to memory itself.
    assert set(ours) - set(theirs) == {"self", "scoring", "max_batch_tokens"} and set(theirs) - set(ours) == {"llm"}
    for name in set(ours) & set(theirs) - {"num_beams", "batch_size"}:
        assert theirs[name].default == ours[name].default and theirs[name].annotation == ours[name].annotation, name
