import numpy as np
import pytest

from tsrec_hf.sids import collaborative_vectors, item_transitions, join_collaborative


def shopping(num_kinds: int = 6, num_items: int = 10, num_rows: int = 1500) -> tuple[list[dict], list[str]]:
    """Customers who stay with one kind of items; the last item of each kind is never taken."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(num_kinds, size=num_rows)
    pairs = kinds[:, None] * num_items + rng.integers(num_items - 1, size=(num_rows, 2))
    ids = [str(number) for number in range(num_kinds * num_items)]
    return [{"history": ["0", ids[before]], "target": ids[after]} for before, after in pairs], ids


def test_transitions_by_hand() -> None:
    rows = [{"history": ["x", "y"], "target": "z"}, {"history": ["z"], "target": "z"}, {"history": [], "target": "x"}]
    assert item_transitions(rows, ["z", "y", "x"]).tolist() == [[1, 0], [0, 0]]
    assert item_transitions([], ["z"]).shape == (0, 2)
    with pytest.raises(ValueError, match="interactions of the 2 items in `item_ids`, found item 'y'"):
        item_transitions(rows, ["z", "x"])


def test_items_taken_together_are_alike() -> None:
    pytest.importorskip("sklearn")
    rows, ids = shopping()
    vectors = collaborative_vectors(rows, ids, dim=8)
    assert vectors.shape == (60, 8) and vectors.dtype == np.float32
    taken = np.arange(60) % 10 != 9
    assert not vectors[~taken].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[taken], axis=1), 1, atol=1e-5)
    cosines, same = vectors @ vectors.T, np.equal.outer(np.arange(60) // 10, np.arange(60) // 10)
    both = np.logical_and.outer(taken, taken)
    assert cosines[same & both].mean() > 0.8 and abs(cosines[~same & both].mean()) < 0.2
    np.testing.assert_array_equal(vectors, collaborative_vectors(rows, ids, dim=8))


def test_joined_cosine_is_the_weighted_mean() -> None:
    rng = np.random.default_rng(0)
    texts, vectors = (rng.normal(size=(5, width)) for width in (6, 3))
    texts, vectors = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (texts, vectors))
    joined = join_collaborative(texts, vectors, weight=0.5)
    np.testing.assert_allclose(joined @ joined.T, (texts @ texts.T + 0.5 * vectors @ vectors.T) / 1.5, atol=1e-6)
    np.testing.assert_allclose(join_collaborative(texts, vectors, 0.0)[:, :6], texts, atol=1e-6)


def test_new_items_stand_where_similar_ones_do() -> None:
    texts = np.array([[1, 0], [1, 0.01], [0, 1], [1, 0.02]])
    vectors = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
    joined = join_collaborative(texts, vectors, weight=1.0)
    np.testing.assert_allclose(joined[3, 2:] * np.sqrt(2), [1, 0, 0.01], atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"interactions": []}, "found 0 transitions"),
        ({"dim": 60}, "a `dim` from 1 to below the 60 items, found 1500 transitions and 60"),
    ],
)
def test_refusals(arguments: dict, words: str) -> None:
    pytest.importorskip("sklearn")
    rows, ids = shopping()
    with pytest.raises(ValueError, match=words):
        collaborative_vectors(**{"interactions": rows, "item_ids": ids} | arguments)


def test_joining_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="found 2 vectors, 3 embeddings and 1"):
        join_collaborative(np.ones((3, 2)), np.ones((2, 2)), 1)
    with pytest.raises(ValueError, match="weight of at least 0, found 3 vectors, 3 embeddings and -1"):
        join_collaborative(np.ones((3, 2)), np.ones((3, 2)), -1)
