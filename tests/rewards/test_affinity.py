import numpy as np
import pytest
from datasets import Dataset

from tsrec_hf.rewards import collaborative_reward, companions, description_similarities, semantic_reward


SIMILARITIES = [
    np.array([[1.0, 0.4, 0.0], [0.4, 1.0, 0.2], [0.0, 0.2, 1.0]]),
    np.array([[1.0, 0.6], [0.6, 1.0]]),
]


def test_semantic_by_hand() -> None:
    codes, targets = [[0, 1], [0, 0], [1, 1], [2, 1]], [[0, 1]] * 4
    # The second level counts only below the target's first code.
    assert semantic_reward(codes, targets, SIMILARITIES) == [
        pytest.approx([0.5, 0.5]),
        pytest.approx([0.5, 0.3]),
        pytest.approx([0.2, 0.0]),
        pytest.approx([0.0, 0.0]),
    ]
    assert semantic_reward(codes, targets, SIMILARITIES, level_weights=[3, 1], per_level=False) == pytest.approx(
        [1.0, 0.75 + 0.15, 0.3, 0.0]
    )
    with pytest.raises(ValueError, match="similarities for 2 levels, but found 1"):
        semantic_reward(codes, targets, SIMILARITIES[:1])


def test_what_is_no_sid_is_a_miss() -> None:
    # -1 would be the last code: 1 and 1 of the third and second.
    codes, targets = [[-1, -1], [2, -1], [-1, 1]], [[2, 1]] * 3
    assert semantic_reward(codes, targets, SIMILARITIES) == [[0.0, 0.0]] * 3


def test_companions_by_hand() -> None:
    rows = {"history": [["a", "b"], ["a", "a", "c"], ["c"]], "target": ["t", "t", "c"]}
    # Of t's two rows both hold a; the item itself is no companion.
    assert companions(Dataset.from_dict(rows)) == {"t": {"a": 1.0, "b": 0.5, "c": 0.5, "t": 1.0}, "c": {"c": 1.0}}


def test_similarities_of_descriptions_by_hand(semantics, sid_index) -> None:
    vectors = {
        "<b_0>": [1.0, 0.0],
        "<b_1>": [0.6, 0.8],
        "<b_2>": [0.0, 2.0],  # Lengths do not matter.
    }
    vector_of = {semantics[token].description: vector for token, vector in vectors.items()}
    _, second, _ = description_similarities(
        semantics, sid_index, lambda texts: np.array([vector_of.get(text, [1.0, 1.0]) for text in texts])
    )
    # Cosines .6, .8 and 0 have the mean 1.4 / 3; (.6 - mean) / (1 - mean) and so on, at least 0.
    mean = 1.4 / 3
    expected = [[1, (0.6 - mean) / (1 - mean), 0], [0, 1, (0.8 - mean) / (1 - mean)], [0, 0, 1]]
    np.testing.assert_allclose(np.triu(second), expected, atol=1e-12)
    np.testing.assert_allclose(second, second.T)


def test_similarities_of_bad_vectors(semantics, sid_index) -> None:
    for embed in (lambda texts: np.full((len(texts), 2), np.nan), lambda texts: np.ones(len(texts))):
        with pytest.raises(ValueError, match=r"finite vectors of shape \(2, dim\)"):
            description_similarities(semantics, sid_index, embed)


def test_collaborative_by_hand() -> None:
    table = {"a": {"a": 1.0, "b": 0.25, "c": 0.5}, "b": {"b": 2.0}}
    items = [["a"], ["b", "c"], ["d"], [], ["b"]]
    assert collaborative_reward(items, ["a", "a", "a", "a", "b"], table) == [1.0, 0.5, 0.0, 0.0, 2.0]
    assert collaborative_reward([["a"]], ["unknown"], table) == [0.0]
    with pytest.raises(ValueError, match="a target for each of 1 completions, but found 2"):
        collaborative_reward([["a"]], ["a", "b"], table)
