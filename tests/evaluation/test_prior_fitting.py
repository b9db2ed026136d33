"""The form and weight that `fit_prior` chooses, and what it leaves in the checkpoint."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from tsrec_hf import NextItemPrior, PopularityPrior, TSRecTokenizer, fit_prior
from tsrec_hf.evaluation import RecommendationEvaluator
from tsrec_hf.evaluation.prior_fitting import _ranks
from tsrec_hf.models import ItemPrior, MixedPrior, PriorWeights


class Oracle(PopularityPrior):
    """Knows that the next item is the one after the last in the index."""

    def weights(self, histories):
        rows = torch.arange(len(histories))
        items = torch.tensor([(self.index.position_of(h[-1]) + 1) % len(self.index) for h in histories])
        return PriorWeights(torch.full((len(self.index),), 1e-6), rows, items, torch.ones(len(rows)), len(rows))


@pytest.fixture
def rows(sid_index) -> Dataset:
    ids = sid_index.item_ids
    return Dataset.from_dict({"history": [[item] for item in ids], "target": [*ids[1:], ids[0]]})


def test_a_prior_that_knows_is_chosen_and_used(model, tokenizer, rows, tmp_path) -> None:
    popularity = PopularityPrior.fit(rows, tokenizer.sid_index)
    fit = fit_prior(model, tokenizer, [Oracle(tokenizer.sid_index, popularity.popularity), popularity], rows)
    assert fit.results["priors"]["all"]["hr@1"] == fit.results["fused"]["all"]["hr@1"] == 1.0
    assert fit.results["model"]["all"]["hr@1"] < 1.0 and fit.results["model"]["all"]["num_rows"] == 8
    assert tokenizer.prior is fit.prior and (tokenizer.prior_fusion.form, tokenizer.prior_fusion.weight) == (
        fit.form,
        fit.weight,
    )
    found = model.recommend(tokenizer, rows["history"][:], top_k=1)
    assert [row[0].item_id for row in found] == rows["target"][:]
    assert "| fused | 1.0000 |" in str(fit) and f"Chosen: {fit.form}, weight {fit.weight:g}" in str(fit)
    tokenizer.save_pretrained(tmp_path)
    assert type(TSRecTokenizer.from_pretrained(tmp_path).prior) is type(fit.prior)


def test_its_figures_are_those_of_the_searches_where_items_share_sids(model, tokenizer, dataset, rows) -> None:
    index = tokenizer.sid_index
    assert index.collisions()
    # Weights that no two items share, or else ranks of equal scores would differ from places in lists.
    prior = PopularityPrior(index, np.linspace(0.05, 0.4, len(index)))
    fit = fit_prior(model, tokenizer, [prior], rows)
    assert fit.prior is not None
    evaluator = RecommendationEvaluator(rows, index, dataset.train, ks=(1, 3, 5))
    for name, settings in (("fused", {}), ("priors", {"prior_weight": 1e6})):
        found = evaluator.evaluate_model(model, tokenizer, num_beams=len(index), **settings)["all"]
        expected = fit.results[name]["all"]
        assert {key: found[key] for key in expected if key in found} == pytest.approx(
            {key: expected[key] for key in expected if key in found}
        )


def test_a_prior_that_harms_is_left_out(model, tokenizer, rows) -> None:
    # The model's own first items are the targets, so nothing can be better than it.
    found = model.recommend(tokenizer, rows["history"][:], top_k=1)
    rows = Dataset.from_dict({"history": rows["history"][:], "target": [row[0].item_id for row in found]})
    other = PopularityPrior(tokenizer.sid_index, np.linspace(0.01, 0.2, 8))
    tokenizer.set_prior(other)
    fit = fit_prior(model, tokenizer, [other], rows)
    assert fit.prior is None and tokenizer.prior is None
    assert fit.results["model"]["all"]["ndcg@1"] == 1.0 and "the model alone is best" in str(fit)


def test_two_priors_are_mixed(model, tokenizer, dataset) -> None:
    index = tokenizer.sid_index
    priors = [NextItemPrior.fit(dataset.train, index), PopularityPrior.fit(dataset.train, index)]
    fit = fit_prior(model, tokenizer, priors, dataset.valid, num_rows=2)
    assert fit.shares[0] == 1.0 and len(fit.shares) == 2
    if fit.prior is not None:
        assert isinstance(fit.prior, MixedPrior) == (fit.shares[1] > 0)


@pytest.mark.parametrize("scoring", ["vocabulary", "catalogue"])
def test_weights_are_chosen_for_the_scoring_of_the_searches(model, tokenizer, dataset, monkeypatch, scoring) -> None:
    search, scorings = type(model).recommend, []
    monkeypatch.setattr(
        type(model), "recommend", lambda *args, **kwargs: scorings.append(kwargs["scoring"]) or search(*args, **kwargs)
    )
    fit_prior(
        model, tokenizer, [NextItemPrior.fit(dataset.train, tokenizer.sid_index)], dataset.valid, scoring=scoring
    )
    assert scorings == [scoring]


def test_ranks_worked_by_hand() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 1.0, 2.0], [5.0, -torch.inf, 1.0], [1.0, 1.0, 1.0]])
    # Second; after one better and with one equal; padding; not among them.
    assert _ranks(scores, torch.tensor([1, 0, 1, -1])).tolist() == [1, 1, -1, -1]


def test_errors(model, tokenizer, dataset) -> None:
    with pytest.raises(ValueError, match="at least one row to choose on, or `None` for all, but found num_rows=0"):
        fit_prior(
            model, tokenizer, [PopularityPrior.fit(dataset.train, tokenizer.sid_index)], dataset.valid, num_rows=0
        )
    with pytest.raises(ValueError, match="at least one prior and validation rows, but found 0 priors and 2 rows"):
        fit_prior(model, tokenizer, [], dataset.valid)

    class Unsaved(ItemPrior):
        def weights(self, histories):
            return PriorWeights.of_all(torch.ones(len(self.index)), len(histories))

    with pytest.raises(TypeError, match="`Unsaved` has no `state`"):
        fit_prior(model, tokenizer, [Unsaved(tokenizer.sid_index)], dataset.valid)


def test_rows_are_drawn_by_the_seed(model, tokenizer, dataset) -> None:
    popularity = PopularityPrior.fit(dataset.train, tokenizer.sid_index)
    several = Dataset.from_dict({name: dataset.valid[name][:] * 4 for name in ("history", "target")})
    fits = [fit_prior(model, tokenizer, [popularity], several, num_rows=3, seed=seed) for seed in (1, 1)]
    assert {fit.results["model"]["all"]["num_rows"] for fit in fits} == {3}
    assert fits[0].results == fits[1].results
