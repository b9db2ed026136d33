"""Item priors: what they weigh, how they are fitted, saved and moved."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from tsrec_hf import NextItemPrior, PopularityPrior, SIDIndex, SimilarityPrior
from tsrec_hf.models import ItemPrior, MixedPrior, PriorWeights, priors_tsrec
from tsrec_hf.models.given_priors_tsrec import as_prior
from tsrec_hf.models.prior_files_tsrec import load_prior, save_prior


def rows_of(*sequences: str) -> Dataset:
    """A row per item but the first of each user; `"abc"` is a user who took a, b and c."""
    rows = [(list(items[:end]), items[end]) for items in sequences for end in range(1, len(items))]
    histories, targets = zip(*rows)
    return Dataset.from_dict({"history": histories, "target": targets})


@pytest.fixture
def index() -> SIDIndex:
    return SIDIndex(list("abcd"), [[0, 0], [0, 1], [1, 0], [1, 1]])


@pytest.fixture
def log() -> Dataset:
    return rows_of("abc", "bcd", "ac")


class TestPopularity:
    def test_worked_by_hand(self, index, log) -> None:
        # Targets in order: b c, c d, c; without decay 1 b, 3 c, 1 d, and .1 for each item.
        prior = PopularityPrior.fit(log, index, half_life=None)
        assert prior.popularity == pytest.approx(np.array([0.1, 1.1, 3.1, 1.1]) / 5.4)
        # With a half-life of two rows of five: b at age 4 counts .25, c .5 ** 1.5 and .5 ** 1 and 1, d .5 ** .5.
        prior = PopularityPrior.fit(log, index, half_life=0.4)
        counts = np.array([0, 0.5**2, 0.5**1.5 + 0.5**1 + 1, 0.5**0.5]) + 0.1
        assert prior.popularity == pytest.approx(counts / counts.sum())

    def test_everybody_has_the_same(self, index, log) -> None:
        prior = PopularityPrior.fit(log, index)
        assert prior.log_weights([["a"], ["c", "d"]]).exp().numpy() == pytest.approx(np.tile(prior.popularity, (2, 1)))


class TestNextItem:
    @pytest.mark.parametrize("normalization", [0.6, 1.0])
    def test_worked_by_hand(self, index, log, normalization) -> None:
        given = {} if normalization == 0.6 else {"normalization": normalization}  # the default
        prior = NextItemPrior.fit(log, index, trace=0.0, **given)
        # Pairs: ab 1, ac .6 + 1, bc 1 + 1, bd .6, cd 1; and a third of each the other way round.
        counts = np.zeros((4, 4))
        counts[0, 1], counts[0, 2], counts[1, 2], counts[1, 3], counts[2, 3] = 1, 1.6, 2, 0.6, 1
        counts += counts.T / 3
        sizes = counts.sum(axis=1, keepdims=True) + 5
        rows = counts / (sizes.mean() * (sizes / sizes.mean()) ** normalization)
        found = prior.weights([["a"], ["a", "b"], ["d", "b", "c"]]).to_dense().numpy()
        expected = np.stack([rows[0], rows[1] + 0.6 * rows[0], rows[2] + 0.6 * rows[1] + 0.36 * rows[3]])
        assert not prior.repeats  # nobody took an item again
        expected[0, 0] = expected[1, [0, 1]] = expected[2, [1, 2, 3]] = 0
        assert found == pytest.approx(expected, abs=1e-6)

    def test_repeats_and_the_trace(self, index) -> None:
        log = rows_of("aab", "ba")
        prior = NextItemPrior.fit(log, index, trace=0.5)
        assert prior.repeats
        popularity = PopularityPrior.fit(log, index).popularity
        # aa 1, ab 1 + .6, ba 1; a third of each the other way round.
        row = np.array([1 + 1 / 3, 1.6 + 1 / 3, 0, 0])
        # The other row has ba 1 and a third of ab.
        sizes = np.array([row.sum(), (1.6 / 3) + 1]) + 5
        expected = row / (sizes.mean() * (sizes[0] / sizes.mean()) ** 0.6) + 0.5 * popularity
        assert prior.weights([["a"]]).to_dense()[0].numpy() == pytest.approx(expected, abs=1e-6)

    def test_chunks_do_not_matter(self, index, log, monkeypatch) -> None:
        whole = NextItemPrior.fit(log, index)
        monkeypatch.setattr(priors_tsrec, "PAIRS_OF_A_CHUNK", 2)
        monkeypatch.setattr(priors_tsrec._chunks, "__defaults__", (2,))
        parts = NextItemPrior.fit(log, index)
        for name in ("offsets", "successors", "values", "popularity"):
            assert np.allclose(getattr(parts, name), getattr(whole, name))

    def test_the_best_successors_are_kept(self, index, log) -> None:
        whole, cut = NextItemPrior.fit(log, index), NextItemPrior.fit(log, index, max_successors=1)
        assert np.diff(cut.offsets).tolist() == [1, 1, 1, 1]
        dense, best = (prior.weights([[item] for item in "abcd"]) for prior in (whole, cut))
        dense.shared = best.shared = torch.zeros(4)
        assert torch.equal(best.to_dense().amax(1), dense.to_dense().amax(1))
        assert torch.equal(best.to_dense().argmax(1), dense.to_dense().argmax(1))

    def test_an_unknown_item_is_named(self, index, log) -> None:
        with pytest.raises(KeyError, match="'x' is not among the 4 items"):
            NextItemPrior.fit(log, index).weights([["a", "x"]])


def test_similarity_is_to_the_last_items(index) -> None:
    embeddings = np.array([[2.0, 0], [1, 1], [0, 3], [-1, 0]])
    prior = SimilarityPrior(index, embeddings, temperature=1.0)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    query = (unit[2] + 0.6 * unit[0]) / 1.6
    assert prior.log_weights([["a", "c"]])[0].softmax(-1).numpy() == pytest.approx(
        torch.tensor(unit @ query).softmax(-1).numpy(), abs=1e-3
    )
    with pytest.raises(ValueError, match="each of 4 items, but found 3"):
        SimilarityPrior(index, embeddings[:3])


def every_prior(index, log) -> list[ItemPrior]:
    transitions, popularity = NextItemPrior.fit(log, index), PopularityPrior.fit(log, index)
    similarity = SimilarityPrior(index, np.random.default_rng(0).normal(size=(4, 5)))
    return [transitions, popularity, similarity, MixedPrior([transitions, popularity, similarity], [1.0, 0.3, 0.1])]


@pytest.mark.parametrize("number", range(4))
class TestEveryPrior:
    HISTORIES = [["a"], ["b", "c"], ["d", "a", "b"]]

    def test_it_comes_back_bit_for_bit(self, index, log, tmp_path, number) -> None:
        prior = every_prior(index, log)[number]
        loaded, form, weight = load_prior(save_prior(tmp_path, prior, "mixture", 0.5), index)
        assert type(loaded) is type(prior) and (form, weight) == ("mixture", 0.5)
        assert torch.equal(loaded.log_weights(self.HISTORIES), prior.log_weights(self.HISTORIES))

    def test_another_index_is_refused(self, index, log, tmp_path, number) -> None:
        prior = every_prior(index, log)[number]
        other = SIDIndex(list("abce"), index.codes)
        with pytest.raises(ValueError, match="belongs to another.*Fit the prior on this catalogue"):
            load_prior(save_prior(tmp_path, prior, "mixture", 0.5), other)
        with pytest.raises(ValueError, match="found one of another.*Fit the prior on this catalogue"):
            as_prior(prior, other)

    def test_it_follows_a_catalogue_that_grows(self, index, log, number) -> None:
        prior = every_prior(index, log)[number]
        grown = index.with_items(["e"], codes=[[0, 0]])
        moved = prior.for_index(grown)
        before, after = prior.weights(self.HISTORIES).to_dense(), moved.weights(self.HISTORIES).to_dense()
        if number < 2:
            assert torch.allclose(after[:, :4], before) and (after[:, 4] <= before.amin(1) + 1e-7).all()
        smaller = moved.for_index(grown.without_items(["a", "e"]))
        assert smaller.weights([["b", "c"]]).to_dense().shape == (1, 3)
        if number < 2:
            assert torch.allclose(smaller.weights([["b", "c"]]).to_dense()[0], before[1, 1:])


class TestGiven:
    def weights(self, given, index, users=(0,)) -> list[list[float]]:
        return as_prior(given, index).weights_of([["a"]] * 2, list(users)).to_dense().tolist()

    def test_every_form(self, index) -> None:
        assert self.weights(np.array([1, 0, 2, 3]), index) == [[1, 0, 2, 3]]
        assert self.weights(torch.eye(4)[:2], index, (1,)) == [[0, 1, 0, 0]]
        assert self.weights({"b": 2.5, "d": 0}, index) == [[1, 2.5, 1, 0]]
        assert self.weights([{"b": 2.5}, {"d": 0, "a": 3}], index, (1, 0)) == [[3, 1, 1, 0], [1, 2.5, 1, 1]]
        assert self.weights(lambda histories: np.full((len(histories), 4), 0.5), index) == [[0.5] * 4]

    @pytest.mark.parametrize(
        ("given", "error", "match"),
        [
            (np.ones(3), ValueError, r"shape \(4,\).*found \(3,\)"),
            (np.array([1, np.nan, 1, 1]), ValueError, "finite and at least 0"),
            (np.array([1, -1, 1, 1]), ValueError, "finite and at least 0"),
            ({"x": 1.0}, KeyError, "'x' is not among the 4 items"),
            (np.ones((3, 4)), ValueError, "each of 2 users, but found 3"),
            ([{"a": 1.0}], ValueError, "each of 2 users, but found 1"),
            (lambda histories: np.ones((1, 3)), ValueError, r"shape \(1, 4\)"),
            (3.0, TypeError, "but found `float`"),
        ],
    )
    def test_errors(self, index, given, error, match) -> None:
        with pytest.raises(error, match=match):
            self.weights(given, index)


def test_mixtures_add_up(index, log) -> None:
    one, two = NextItemPrior.fit(log, index), PopularityPrior.fit(log, index)
    mixed = MixedPrior([one, two], [2.0, 0.5])
    histories = [["a"], ["b", "c"]]
    expected = 2 * one.weights(histories).to_dense() + 0.5 * two.weights(histories).to_dense()
    assert torch.allclose(mixed.weights(histories).to_dense(), expected)
    assert mixed.weights(histories).shared is mixed.weights(histories).shared  # its bounds are computed once
    with pytest.raises(ValueError, match="a finite share of at least 0 for each"):
        MixedPrior([one, two], [1.0, -1.0])


def test_a_prior_without_state_cannot_be_saved(index, tmp_path) -> None:
    class Uniform(ItemPrior):
        def weights(self, histories):
            return PriorWeights.of_all(torch.ones(len(self.index)), len(histories))

    with pytest.raises(TypeError, match="`Uniform` has no `state`"):
        save_prior(tmp_path, Uniform(index), "mixture", 1.0)


def test_given_weights_are_a_priors_like_any_other(index) -> None:
    given = as_prior(np.array([1.0, 2.0, 0.0, 0.5]), index)
    found = given.weights([["a"], ["b"]]).to_dense()
    assert found.tolist() == [[1.0, 2.0, 0.0, 0.5]] * 2
    with pytest.raises(TypeError, match="prior that can be loaded, but `GivenPrior` has no `from_state`"):
        type(given).from_state(index, {}, {})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_no_numbers_are_named(sid_index, value) -> None:
    embeddings = np.eye(len(sid_index), dtype=np.float32)
    embeddings[2, 1] = value
    with pytest.raises(ValueError, match=f"1 rows have others, the first of item '{sid_index.item_ids[2]}'"):
        SimilarityPrior(sid_index, embeddings)
