from functools import partial

import numpy as np
import pytest
import torch

from tsrec_hf.rewards import (
    CompletionReader,
    RewardOnCodes,
    collaborative_reward,
    exact_match_reward,
    prefix_reward,
    ranking_reward,
    semantic_reward,
)


def call(reward, completion_ids, **columns):
    texts = [""] * len(completion_ids)
    return reward(prompts=texts, completions=texts, completion_ids=completion_ids, **columns)


def test_equal_prompts_have_their_own_targets(tokenizer) -> None:
    ids = tokenizer.encode_sids(["nail", "apple", "nail", "apple"])
    targets = ["nail", "nail", "apple", "apple"]
    assert call(RewardOnCodes(exact_match_reward, tokenizer), ids, target=targets) == [1.0, 0.0, 0.0, 1.0]


def test_what_follows_a_sid_does_not_matter_and_what_is_no_sid_is_a_miss(tokenizer) -> None:
    [nail] = tokenizer.encode_sids(["nail"])
    ids = [[*nail, tokenizer.eos_token_id], nail[:2], [nail[0], nail[0], nail[2]], []]
    reward = RewardOnCodes(prefix_reward, tokenizer)
    assert call(reward, ids, target=["nail"] * 4) == [1.0, 0.0, 0.0, 0.0]
    assert CompletionReader(tokenizer).codes_of(ids).tolist() == [[0, 1, 0], [0, 1, -1], [0, -1, 0], [-1, -1, -1]]
    # In a ranking the others keep their places.
    ranking = RewardOnCodes(ranking_reward, tokenizer, num_generations=4)
    rewards = call(ranking, [nail[:2], nail, nail[:1], []], target=["nail"] * 4)
    assert rewards[1] == 0 and rewards[0] < rewards[2] < rewards[3] < 0


@pytest.mark.parametrize("num_generations", [None, 4])
def test_no_reward_takes_what_is_no_sid_for_the_last_code(tokenizer, semantics, num_generations) -> None:
    # Junk got the last row of the similarities, which is more than the real item there had.
    similarities = [np.array([[1.0, 0.2], [0.2, 1.0]]), np.eye(3), np.eye(2)]
    table = {"apple": {"apple": 1.0, "cheese": 0.5}}
    apple, nail = tokenizer.encode_sids(["apple", "nail"])
    ids = [apple, nail, [5, 6, 7], apple[:2]]
    for function, expected in {
        exact_match_reward: [1.0, 0.0, 0.0, 0.0],
        prefix_reward: [1.0, 0.0, 0.0, 0.0],
        partial(semantic_reward, similarities=similarities): [1.0, 0.2 / 3, 0.0, 0.0],
        partial(collaborative_reward, table=table): [1.0, 0.0, 0.0, 0.0],
    }.items():
        reward = RewardOnCodes(function, tokenizer, num_generations=num_generations)
        assert call(reward, ids, target=["apple"] * 4) == pytest.approx(expected)


def test_functions_of_ones_own_do_not_see_what_is_no_sid(tokenizer) -> None:
    table = np.array([0.25, 9.0])
    for num_generations in (None, 2):
        reward = RewardOnCodes(lambda codes: table[codes[:, 0]], tokenizer, num_generations, miss=-1.0)
        [nail] = tokenizer.encode_sids(["nail"])
        assert call(reward, [[5], nail], target=["nail"] * 2) == [-1.0, 0.25]
        assert call(reward, [[5], []], target=["nail"] * 2) == [-1.0, -1.0]


def test_items_of_shared_sids(tokenizer) -> None:
    # Nail and screw share their SID.
    table = {"saw": {"screw": 0.5, "hammer": 0.125}}
    reward = RewardOnCodes(partial(collaborative_reward, table=table), tokenizer)
    assert reward.__name__ == "collaborative_reward"
    ids = tokenizer.encode_sids(["nail", "hammer", "apple"])
    assert call(reward, ids, target=["saw"] * 3) == [0.5, 0.125, 0.0]


def test_levels_are_summed_for_trl_and_kept_for_tokens(tokenizer) -> None:
    reward = RewardOnCodes(partial(prefix_reward, per_level=True), tokenizer)
    ids = tokenizer.encode_sids(["nail", "hammer"])
    assert call(reward, ids, target=["nail"] * 2) == pytest.approx([1.0, 1 / 3])
    assert reward.values(ids, target=["nail"] * 2) == [pytest.approx([1 / 3] * 3), pytest.approx([1 / 3, 0, 0])]


def test_columns_reach_functions_that_ask_for_them(tokenizer) -> None:
    columns = {"target": ["nail", "saw"], "margin": [0.5, 0.25], "trainer_state": "state"}
    [nail, saw] = tokenizer.encode_sids(["nail", "saw"])
    assert call(RewardOnCodes(lambda codes, margin: margin, tokenizer), [nail, saw], **columns) == [0.5, 0.25]
    seen = {}
    everything = RewardOnCodes(lambda codes, **kwargs: seen.update(kwargs) or [1.0] * len(codes), tokenizer)
    # What is no SID is removed from all columns, and a miss.
    assert call(everything, [nail[:1], saw], **columns) == [0.0, 1.0]
    assert seen == {"target": ["saw"], "margin": [0.25], "trainer_state": "state"}


def test_which_functions_are_wrapped(tokenizer, model) -> None:
    wrapped = RewardOnCodes(exact_match_reward, tokenizer)
    for function in (exact_match_reward, partial(collaborative_reward, table={})):
        assert RewardOnCodes.applies_to(function)
    for function in (wrapped, model, "some/model", lambda completions, **kwargs: [0.0]):
        assert not RewardOnCodes.applies_to(function)


@pytest.mark.parametrize("make", [list, tuple, iter, np.array, torch.tensor], ids=lambda make: make.__name__)
def test_rewards_may_come_as_lists_arrays_or_tensors(tokenizer, make) -> None:
    ids = tokenizer.encode_sids(["nail", "hammer"])
    whole = RewardOnCodes(lambda codes: make([0.5, 2.0]), tokenizer)
    assert call(whole, ids, target=["nail"] * 2) == [0.5, 2.0]
    by_level = RewardOnCodes(lambda codes: make([[0.5, 0.25, 0.0], [1.0, 1.0, 1.0]]), tokenizer)
    assert call(by_level, ids, target=["nail"] * 2) == [0.75, 3.0]
    assert by_level.values(ids, target=["nail"] * 2) == [[0.5, 0.25, 0.0], [1.0, 1.0, 1.0]]


def test_none_says_that_a_reward_does_not_apply(tokenizer) -> None:
    ids = tokenizer.encode_sids(["nail", "hammer"])
    for one in (1.0, [0.5, 0.5, 0.0]):
        reward = RewardOnCodes(lambda codes, one=one: [None, one], tokenizer)
        assert call(reward, ids, target=["nail"] * 2) == [None, 1.0]


@pytest.mark.parametrize(
    ("rewards", "error", "match"),
    [
        ([1.0], ValueError, "'odd' to give a reward for each of 2 completions, but found 1"),
        ([1.0] * 3, ValueError, "for each of 2 completions, but found 3"),
        (1.0, TypeError, "for each of 2 completions, but found `float`"),
        (["a", "b"], TypeError, "'odd' to give numbers, or one for each of 3 levels, but found 'a'"),
        ([[1.0, 2.0]] * 2, ValueError, r"'odd' to give numbers, or one for each of 3 levels, but found \[1.0, 2.0\]"),
    ],
)
def test_rewards_of_another_form(tokenizer, rewards, error, match) -> None:
    def odd(codes):
        return rewards

    with pytest.raises(error, match=match):
        call(RewardOnCodes(odd, tokenizer), tokenizer.encode_sids(["nail", "hammer"]), target=["nail"] * 2)


def test_errors(tokenizer) -> None:
    ids = tokenizer.encode_sids(["nail"])
    reward = RewardOnCodes(exact_match_reward, tokenizer)
    with pytest.raises(ValueError, match=r"`target`, an item id.*'exact_match_reward'.*\['solution'\]"):
        call(reward, ids, solution=["nail"])
    with pytest.raises(KeyError, match="'spoon' is not among"):
        call(reward, ids, target=["spoon"])
