import numpy as np
import pytest

from tsrec_hf.rewards import REWARDS, RewardOnCodes, rewards_by_name


def test_all_by_their_names(sid_index, semantics, dataset, tokenizer) -> None:
    functions = rewards_by_name(
        REWARDS[::-1],
        level_weights=[2, 1, 1],
        per_level=True,
        sid_index=sid_index,
        semantics=semantics,
        embed=lambda texts: np.array([[len(text), text.count("e")] for text in texts], dtype=float),
        train=dataset.train,
    )
    rewards = [RewardOnCodes(function, tokenizer, num_generations=2) for function in functions]
    assert [reward.__name__ for reward in rewards] == [f"{name}_reward" for name in REWARDS[::-1]]
    ids = tokenizer.encode_sids(["saw", "hammer"])
    found = dict(zip(REWARDS[::-1], (reward.values(ids, target=["saw"] * 2) for reward in rewards)))
    assert found["exact_match"] == [1.0, 0.0] and found["collaborative"] == [1.0, 1.0]
    assert found["prefix"] == [[0.5, 0.25, 0.25], [0.5, 0.25, 0.0]] and len(found["semantic"][1]) == 3


@pytest.mark.parametrize("names", [[], ["exact"], ["prefix", "prefix"]])
def test_names(names) -> None:
    with pytest.raises(ValueError, match=r"among .*'exact_match'.*each once, but found \["):
        rewards_by_name(names)


def test_what_a_reward_needs(dataset) -> None:
    with pytest.raises(ValueError, match="`sid_index`, `semantics` and `embed`"):
        rewards_by_name(["semantic"])
    with pytest.raises(ValueError, match="`train`"):
        rewards_by_name(["collaborative"])
