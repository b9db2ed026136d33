import math

import numpy as np
import pytest

from tsrec_hf.rewards import exact_match_reward, prefix_reward, ranking_reward


TARGET = [2, 0, 1]
CODES = np.array([[2, 0, 1], [2, 0, 3], [2, 5, 1], [1, 0, 1]])
TARGETS = np.array([TARGET] * 4)


def test_exact_match() -> None:
    assert exact_match_reward(CODES, TARGETS) == [1.0, 0.0, 0.0, 0.0]
    # Each completion has its own target.
    assert exact_match_reward(CODES, CODES) == [1.0] * 4


def test_prefix_counts_levels_from_the_top() -> None:
    # The third completion's last level matches, but not the one before; the fourth's first does not.
    assert prefix_reward(CODES, TARGETS) == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert prefix_reward(CODES, TARGETS, level_weights=[2, 1, 1]) == pytest.approx([1, 0.75, 0.5, 0])
    assert prefix_reward(CODES, TARGETS, level_weights=[2, 1, 1], per_level=True) == [
        [0.5, 0.25, 0.25],
        [0.5, 0.25, 0],
        [0.5, 0, 0],
        [0, 0, 0],
    ]


def test_ranking_by_hand() -> None:
    # Discounts of ranks 1 to 4: 1, 1 / log2(3), 1/2, 1 / log2(5).
    discounts = [1, 1 / math.log2(3), 1 / 2, 1 / math.log2(5)]
    total = sum(discounts)
    order = [1, 0, 2, 3]  # the target is second
    expected = [-discounts[0] / total, 0, -discounts[2] / total, -discounts[3] / total]
    assert ranking_reward(CODES[order], TARGETS, num_generations=4) == pytest.approx(expected)
    assert expected[0] < expected[2] < expected[3] < 0  # a confident miss costs more
    # A group that misses the target tells nothing about its order.
    assert ranking_reward(CODES[[1, 2, 3, 1]], TARGETS, num_generations=4) == [0.0] * 4
    # Groups are ranked each for itself.
    assert ranking_reward(CODES[[1, 0, 2, 3]], TARGETS, num_generations=2) == pytest.approx(
        [-1 / (1 + 1 / math.log2(3)), 0, 0, 0]
    )


@pytest.mark.parametrize("reward", [exact_match_reward, prefix_reward, lambda *a: ranking_reward(*a, 1)])
def test_wrong_input(reward) -> None:
    with pytest.raises(TypeError, match="`codes` as integers.*must be parsed"):
        reward(np.array([["<a_1>", "<b_2>"]]), np.array([[1, 2]]))
    with pytest.raises(ValueError, match=r"one shape.*\(4, 3\) and \(1, 3\)"):
        reward(CODES, TARGETS[:1])
    with pytest.raises(ValueError, match="one shape"):
        reward(np.array([1, 2, 3]), np.array([1, 2, 3]))


def test_wrong_settings() -> None:
    for weights in ([1, 2], [1, -1, 1], [0, 0, 0]):
        with pytest.raises(ValueError, match="`level_weights` as 3 numbers"):
            prefix_reward(CODES, TARGETS, level_weights=weights)
    with pytest.raises(ValueError, match="whole groups of num_generations=3.*found 4"):
        ranking_reward(CODES, TARGETS, num_generations=3)


def test_what_is_no_sid_is_a_miss() -> None:
    # Half a SID earns nothing.
    codes, targets = [[0, -1], [0, 1], [-1, -1]], [[0, 1]] * 3
    assert prefix_reward(codes, targets) == exact_match_reward(codes, targets) == [0.0, 1.0, 0.0]
    first, hit, third = ranking_reward(codes, targets, num_generations=3)
    assert hit == 0 and first < third < 0
    with pytest.raises(ValueError, match="`target_codes` of at least 0, but found -1"):
        prefix_reward([[0, 1]], [[0, -1]])
