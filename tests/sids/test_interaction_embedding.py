"""Item embeddings from interactions."""

import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset

from tsrec_hf import ResidualKMeans, embed_interactions, fill_from_neighbours
from tsrec_hf.sids import join_collaborative


ITEMS = ["a1", "a2", "a3", "b1", "b2", "b3", "new"]


@pytest.fixture
def two_tastes() -> Dataset:
    """Users take items of one kind, each in any order; nobody takes `new`."""
    rows = []
    for user in range(40):
        kind = ITEMS[:3] if user % 2 else ITEMS[3:6]
        order = [kind[place] for place in np.random.default_rng(user).permutation(3)]
        rows += [(str(user), order[:1], order[1]), (str(user), order[:2], order[2])]
    users, histories, targets = zip(*rows)
    return Dataset.from_dict({"user_id": users, "history": histories, "target": targets})


def test_items_taken_together_are_close(two_tastes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors = embed_interactions(two_tastes, ITEMS, dim=3)
    assert vectors.shape == (7, 3) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1] * 6 + [0], atol=1e-5)
    cosines = vectors @ vectors.T
    assert cosines[:3, :3].min() > 0.6 and cosines[3:6, 3:6].min() > 0.6
    assert np.abs(cosines[:3, 3:6]).max() < 0.3
    codes = ResidualKMeans([2, 3]).fit(vectors[:6]).encode(vectors[:6])
    assert len(set(codes[:3, 0])) == len(set(codes[3:6, 0])) == 1 and codes[0, 0] != codes[3, 0]


def test_the_same_vectors_each_time_and_no_other_draws(two_tastes) -> None:
    torch.manual_seed(7)
    first = embed_interactions(two_tastes, ITEMS, dim=3)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1))
    np.testing.assert_array_equal(first, embed_interactions(two_tastes, ITEMS, dim=3))


def test_items_without_interactions_take_those_of_like_texts() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]])
    texts = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.6, 0.8, 0.0]])
    filled = fill_from_neighbours(vectors, texts, num_neighbours=2)
    np.testing.assert_array_equal(filled[:3], vectors[:3])
    np.testing.assert_allclose(filled[3], [0.6, 0.8], atol=1e-6)
    assert not vectors[3].any()  # a copy
    np.testing.assert_array_equal(fill_from_neighbours(vectors[:3], texts[:3]), vectors[:3])
    # Fewer items than neighbours: all of them.
    assert fill_from_neighbours(vectors, texts, num_neighbours=99).any(axis=1).all()


def test_no_neighbour_is_alike() -> None:
    """Texts at right angles still leave a vector of unit length, not NaN."""
    filled = fill_from_neighbours(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [-1.0, 0.0]]))
    np.testing.assert_array_equal(filled[1], [1.0, 0.0])


def test_what_cannot_be_embedded(two_tastes) -> None:
    for dim in (0, 8):
        with pytest.raises(ValueError, match=f"`dim` of 1 to 7, the number of items, but found {dim}"):
            embed_interactions(two_tastes, ITEMS, dim=dim)
    with pytest.raises(KeyError, match="b3"):
        embed_interactions(two_tastes, ITEMS[:5], dim=2)
    with pytest.raises(ValueError, match="text for each of 2 vectors.*found 3 texts and 1 vectors of zeros"):
        fill_from_neighbours(np.array([[1.0], [0.0]]), np.ones((3, 2)))
    with pytest.raises(ValueError, match="found 2 texts and 2 vectors of zeros"):
        fill_from_neighbours(np.zeros((2, 1)), np.ones((2, 2)))


def shopping(num_kinds: int = 6, num_items: int = 10, num_rows: int = 1500) -> tuple[Dataset, list[str]]:
    """Customers who stay with one kind of items; the last item of each kind is never taken."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(num_kinds, size=num_rows)
    pairs = kinds[:, None] * num_items + rng.integers(num_items - 1, size=(num_rows, 2))
    ids = [str(number) for number in range(num_kinds * num_items)]
    histories, targets = [[ids[before]] for before, _ in pairs], [ids[after] for _, after in pairs]
    return Dataset.from_dict({"history": histories, "target": targets}), ids


def test_items_taken_together_are_alike() -> None:
    rows, ids = shopping()
    vectors = embed_interactions(rows, ids, dim=8)
    assert vectors.shape == (60, 8) and vectors.dtype == np.float32
    taken = np.arange(60) % 10 != 9
    assert not vectors[~taken].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[taken], axis=1), 1, atol=1e-5)
    cosines, same = vectors @ vectors.T, np.equal.outer(np.arange(60) // 10, np.arange(60) // 10)
    both = np.logical_and.outer(taken, taken)
    assert cosines[same & both].mean() > 0.8 and abs(cosines[~same & both].mean()) < 0.2
    np.testing.assert_array_equal(vectors, embed_interactions(rows, ids, dim=8))


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


def test_joining_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="found 2 vectors, 3 embeddings and 1"):
        join_collaborative(np.ones((3, 2)), np.ones((2, 2)), 1)
    with pytest.raises(ValueError, match="weight of at least 0, found 3 vectors, 3 embeddings and -1"):
        join_collaborative(np.ones((3, 2)), np.ones((3, 2)), -1)


def test_no_item_gets_a_vector_of_rounding_errors(dataset) -> None:
    """With few counts, `shrinkage` leaves most items nothing above chance."""
    ids = dataset.items["item_id"][:]
    vectors = embed_interactions(dataset.train, ids, dim=8)
    assert set(np.linalg.norm(vectors, axis=1).round(5)) == {0.0, 1.0}
    # Entries of the decomposed matrix are at least 0, and with all dimensions so are products of its rows.
    assert (vectors @ vectors.T).min() > -1e-3
