"""A recommender beside baselines and its prior, on the same rows."""

import pytest
import torch
from datasets import Dataset

from tsrec_hf import NextItemPrior, SIDIndex, compare_with_baselines
from tsrec_hf.evaluation import RecommendationEvaluator, baseline_results


def test_the_figures_are_those_of_the_evaluator(model, tokenizer, dataset) -> None:
    tokenizer.set_prior(NextItemPrior.fit(dataset.train, dataset.sid_index), weight=0.5)
    found = compare_with_baselines(model, tokenizer, dataset.test, dataset.train, num_beams=7)
    evaluator = RecommendationEvaluator(dataset.test, dataset.sid_index, dataset.train)
    expected = baseline_results(evaluator, dataset.train, dataset.test["history"][:])
    expected["prior"] = evaluator.evaluate_prior(tokenizer.prior)
    for name, prior in (("model", None), ("model and prior", "fitted")):
        search = {"num_beams": 7, "scoring": "catalogue", "prior": prior}
        expected[name] = evaluator.evaluate_model(model, tokenizer, **search)
    assert found.results == expected and list(found.results) == list(expected)
    for name, ranks in found.ranks.items():
        hits = (ranks >= 0) & (ranks < 10)
        assert hits.float().mean().item() == pytest.approx(found.results[name]["all"]["hr@10"])
    printed = str(found)
    assert "| model and prior |" in printed and "\nmodel minus popularity: HR@10 " in printed
    assert "\nmodel and prior minus model: HR@10 " in printed and "model minus model and prior" not in printed


@pytest.mark.parametrize("num_beams", [3, 7])
def test_what_beams_did_not_look_for_is_no_miss(make_recommender, num_beams) -> None:
    """A SID of many items: as many beams as SIDs hold fewer items than the metrics count."""
    index = SIDIndex([f"i{n}" for n in range(12)], [[n // 2, int(n == 0)] for n in range(12)])
    model, tokenizer = make_recommender(index=index, semantics=None)
    numbers = range(12)
    rows = Dataset.from_dict(
        {
            "user_id": [str(n) for n in numbers],
            "history": [["i0"] for n in numbers],
            "target": [f"i{n}" for n in numbers],
        }
    )
    found = compare_with_baselines(model, tokenizer, rows.with_format("numpy"), rows, num_beams=num_beams)
    evaluator = RecommendationEvaluator(rows, index, rows)
    expected = evaluator.evaluate_model(model, tokenizer, num_beams=num_beams)
    assert found.results["model"] == expected
    assert ("hr@10" in expected["all"]) == (num_beams == 7)
    if num_beams == 3:
        assert "model minus popularity: HR@3 " in str(found)
        with pytest.raises(ValueError, match="at a lower cut-off"):
            found.difference("model", "popularity", "hr@10")


def test_nobody_is_recommended_what_they_have(model, tokenizer, dataset) -> None:
    """The target of the second row is in its own history, where no method may then find it."""
    assert dataset.test[1]["target"] in dataset.test[1]["history"]
    tokenizer.set_prior(NextItemPrior.fit(dataset.train, dataset.sid_index))
    found = compare_with_baselines(model, tokenizer, dataset.test, dataset.train, num_beams=7, exclude_history=True)
    assert {ranks[1].item() for ranks in found.ranks.values()} == {-1}


def test_the_difference_is_paired_by_user(model, tokenizer, dataset) -> None:
    found = compare_with_baselines(model, tokenizer, dataset.test, dataset.train, num_beams=7)
    assert "prior" not in found.results and found.users == dataset.test["user_id"][:]
    found.ranks["model"], found.ranks["popularity"] = torch.tensor([0, 0]), torch.tensor([-1, -1])
    one = found.difference("model", "popularity", "hr@1")
    assert (one.difference, one.low, one.high) == (1.0, 1.0, 1.0)
