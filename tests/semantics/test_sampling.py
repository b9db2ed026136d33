import numpy as np
import pytest

from tsrec_hf.models import SIDIndex
from tsrec_hf.semantics import describe_tokens, fill_budget, rank_by_typicality


def words(text: str) -> int:
    return len(text.split())


def test_nearest_first_then_diverse_worked_by_hand() -> None:
    # Unit vectors at 0, 10, 20 and 80 degrees; their mean points to 26.3 degrees, so the one at 20 degrees is nearest.
    # Second: 0.5 (cos to 26.3 - cos to 20): 0 deg 0.5 (.896 - .940), 10 deg 0.5 (.959 - .985), 80 deg 0.5 (.592 - .5).
    # Third, cos to the nearest of 20 and 80: 0 deg .896 - .940 = -.043, 10 deg .959 - .985 = -.026.
    angles = np.radians([0, 10, 20, 80])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert rank_by_typicality(vectors).tolist() == [2, 3, 1, 0]
    # Lengths do not matter.
    assert rank_by_typicality(vectors * [[1], [9], [0.1], [5]]).tolist() == [2, 3, 1, 0]


def test_behind_the_ranked_ones_the_nearest_come_first() -> None:
    angles = np.radians([0, 10, 20, 80])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert rank_by_typicality(vectors, num_ranked=1).tolist() == [2, 1, 0, 3]


def test_copies_do_not_fill_the_sample() -> None:
    vectors = np.array([[1.0, 0.0]] * 50 + [[0.0, 1.0], [0.7, 0.7]])
    order = rank_by_typicality(vectors, num_ranked=10)
    assert set(order[:3]) == {0, 50, 51} and sorted(order) == list(range(52))


def test_zero_vectors_are_no_error_but_nans_are() -> None:
    assert sorted(rank_by_typicality(np.zeros((3, 2)))) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"shape \(2, 1\) with 1 values that are not finite"):
        rank_by_typicality(np.array([[np.nan], [1.0]]))


def test_budget_is_kept_and_copies_left_out() -> None:
    texts = ["a b", "", "a b", "c d e f", "g", "h i"]
    assert fill_budget(texts, 5, words) == ["a b", "g", "h i"]
    assert fill_budget(texts, 3, words) == ["a b", "g"]
    assert fill_budget(texts, 100, words, max_texts=2) == ["a b", "c d e f"]
    assert fill_budget(["", ""], 5, words) == []


def test_a_text_that_is_too_long_is_cut_rather_than_nothing_read() -> None:
    [text] = fill_budget(["one two three four five six", "one two three four five six seven"], 3, words)
    assert words(text) <= 3 and "one two three four five six".startswith(text)


class Listener:
    def __init__(self) -> None:
        self.clusters = {}

    def describe(self, clusters):
        from tsrec_hf.semantics import KeywordTeacher

        self.clusters |= {token: [item["item_id"] for item in items] for token, items in clusters.items()}
        return KeywordTeacher().describe(clusters)


def test_describe_tokens_puts_the_typical_items_of_each_cluster_first() -> None:
    index = SIDIndex(["p", "q", "r", "s"], np.array([[0, 0], [0, 0], [0, 0], [1, 0]], dtype=np.int32))
    items = [{"item_id": item_id, "title": f"title {item_id}"} for item_id in "srqp"]
    embeddings = np.array([[1.0, 0.0], [1.0, 0.6], [1.0, 2.0], [-1.0, 0.0]])
    teacher = Listener()
    describe_tokens(items, index, teacher, embeddings=embeddings)
    assert teacher.clusters["<a_0>"][0] == "q" and sorted(teacher.clusters["<a_0>"]) == ["p", "q", "r"]
    assert teacher.clusters["<a_1>"] == ["s"]
    with pytest.raises(ValueError, match="one embedding for each of the 4 items.*found 3"):
        describe_tokens(items, index, teacher, embeddings=embeddings[:3])
