import logging
import math
import os

import pytest
from datasets import Dataset

from tsrec_hf.evaluation import RecommendationEvaluator
from tsrec_hf.items import load_minionerec
from tsrec_hf.models import NextItemPrior, Recommendation, SIDIndex


INDUSTRIAL = os.environ.get("TSREC_DATA")
needs_data = pytest.mark.skipif(
    not INDUSTRIAL, reason="TSREC_DATA does not name the folder of Industrial_and_Scientific"
)

# SID A: items 1 and 2. SID B: 3, 4 and 5. SIDs C and D: 6 and 7.
INDEX = SIDIndex(list("1234567"), [[0, 0], [0, 0], [0, 1], [0, 1], [0, 1], [1, 0], [1, 1]])
TRAIN = Dataset.from_dict({"history": [["1"], ["1", "3"]], "target": ["3", "6"]})
# new, repeat, cold, cold and repeat
ROWS = Dataset.from_dict({"history": [["1"], ["1", "6"], ["3"], ["7"]], "target": ["3", "6", "2", "7"]})


def make_evaluator(rows=ROWS, ks=(1, 2, 3)):
    return RecommendationEvaluator(rows, INDEX, TRAIN, ks=ks)


def test_item_and_sid_metrics_by_hand():
    results = make_evaluator().evaluate([["4", "3", "6"], ["1", "2", "6"], ["1", "6", "7"], ["6", "3", "4"]])
    # Items: 3 is second, 6 third, 2 and 7 absent.
    # SIDs: B is first (B B C -> B C); C is second (A A C -> A C); A is first; D is absent from C B.
    half, second = 1 / math.log2(4), 1 / math.log2(3)
    assert results["all"] == pytest.approx(
        {
            "num_rows": 4,
            "hr@1": 0,
            "hr@2": 1 / 4,
            "hr@3": 2 / 4,
            "ndcg@1": 0,
            "ndcg@2": second / 4,
            "ndcg@3": (second + half) / 4,
            "sid_hr@1": 2 / 4,
            "sid_hr@2": 3 / 4,
            "sid_hr@3": 3 / 4,
            "sid_ndcg@1": 2 / 4,
            "sid_ndcg@2": (2 + second) / 4,
            "sid_ndcg@3": (2 + second) / 4,
        }
    )
    assert list(results) == ["all", "cold", "repeat", "new", "memorised", "unmemorised"]
    assert {name: metrics["num_rows"] for name, metrics in results.items()} == {
        "all": 4,
        "cold": 2,
        "repeat": 2,
        "new": 1,
        "memorised": 2,
        "unmemorised": 2,
    }
    # 3 followed 1 in training, and 6 did.
    assert results["memorised"]["hr@2"] == 1 / 2 and results["memorised"]["hr@3"] == 1
    assert results["unmemorised"]["hr@3"] == 0
    assert results["new"]["hr@2"] == 1 and results["new"]["hr@1"] == 0
    assert results["repeat"]["hr@3"] == 1 / 2  # Target 6 is found, target 7 is not.
    assert results["cold"]["hr@3"] == 0 and results["cold"]["sid_hr@1"] == 1 / 2


def test_an_item_seen_only_in_a_training_history_is_not_cold():
    evaluator = make_evaluator(Dataset.from_dict({"history": [["6"]], "target": ["1"]}))
    results = evaluator.evaluate([["1"]])
    assert results["cold"] == {"num_rows": 0}
    assert results["new"]["num_rows"] == 1


@pytest.mark.parametrize(
    ("ks", "top_k"),
    [
        # Groups of 3, 2, 1 and 1 items. One SID needs 1 item; two need the group of 3 and one more; and so on.
        ((1,), 1),
        ((1, 2), 4),
        ((3, 1), 6),
        ((4,), 7),
        ((10,), 7),
    ],
)
def test_top_k_is_enough_for_that_many_sids(ks, top_k):
    assert make_evaluator(ks=ks).top_k == top_k
    worst = ["3", "4", "5", "1", "2", "6", "7"]
    reachable = min(max(ks), 4)
    assert len({INDEX.sid_of(item) for item in worst[:top_k]}) >= reachable
    assert len({INDEX.sid_of(item) for item in worst[: top_k - 1]}) < reachable


def test_lists_cut_by_collisions_are_reported(caplog):
    evaluator = make_evaluator()
    with caplog.at_level(logging.WARNING):
        evaluator.evaluate([["3", "4", "5", "1", "2", "6"]] * 4)
        evaluator.evaluate([["6", "7", "1"]] * 4)
        # Short, but not because of collisions: there was nothing more to recommend.
        evaluator.evaluate([["6"], [], ["3", "4"], ["1"]])
        assert not caplog.records
        evaluator.evaluate([["3", "4", "5"], ["6", "7", "1"], ["1", "2", "6"], ["6", "7", "3"]])
    assert "2 of 4 lists hold fewer than 3 distinct SIDs" in caplog.text
    assert "`top_k=6`" in caplog.text


@pytest.mark.parametrize(
    ("recommended", "message"),
    [
        ([["1"]] * 3, "found 3 lists and 4 targets"),
        (
            [["1"], ["1", "9"], ["8"], []],
            "recommended items from the 7 of `sid_index`, but 2 are unknown, first '9' in row 1",
        ),
        ([["1"], [3], [], []], "1 are unknown, first 3 in row 1.* ids as strings"),
        ([["1"], [], ["6", "1", "6"], []], r"row 2 names an item twice: \['6', '1', '6'\]"),
    ],
)
def test_malformed_lists(recommended, message):
    with pytest.raises(ValueError, match=message):
        make_evaluator().evaluate(recommended)


def test_malformed_rows_and_cut_offs():
    with pytest.raises(
        ValueError, match="target items from the 7 of `sid_index`, but 1 are unknown, first '9' in row 1"
    ):
        make_evaluator(Dataset.from_dict({"history": [["1"], ["1"]], "target": ["3", "9"]}))
    with pytest.raises(ValueError, match="`rows` is empty"):
        make_evaluator(ROWS.select([]))
    for ks in ((), (0, 5)):
        with pytest.raises(ValueError, match="cut-offs of at least 1"):
            make_evaluator(ks=ks)


def test_ranks_by_item_and_by_sid():
    lists = [["4", "3", "6"], ["1", "2", "6"], ["1", "6", "7"], ["6", "3", "4"]]
    evaluator = make_evaluator()
    assert evaluator.ranks(lists).tolist() == [1, 2, -1, -1]
    assert evaluator.ranks(lists, match="sid").tolist() == [0, 1, 0, -1]
    with pytest.raises(ValueError, match="one of .*'item', 'sid'.*, but found 'code'"):
        evaluator.ranks(lists, match="code")


class RecordingModel:
    """Recommends the catalogue in one order to everyone, and remembers how it was asked."""

    def recommend(self, tokenizer, histories, **settings):
        self.asked = (tokenizer, histories, settings)
        items = list("3451267")[: settings["top_k"]]
        return [[Recommendation(item_id=item, sid=INDEX.sid_of(item), score=0.0) for item in items] for _ in histories]


def test_a_model_is_asked_for_enough_items():
    model, evaluator = RecordingModel(), make_evaluator()
    results = evaluator.evaluate_model(model, "tokenizer", num_beams=20, batch_size=2)
    settings = {"top_k": 6, "num_beams": 20, "batch_size": 2}
    assert model.asked == ("tokenizer", [["1"], ["1", "6"], ["3"], ["7"]], settings)
    assert results == evaluator.evaluate([list("345126")] * 4)
    evaluator.evaluate_model(model, "tokenizer", search="exact", scoring="catalogue")
    assert model.asked[2] == {
        "top_k": 6,
        "num_beams": 50,
        "batch_size": 16,
        "search": "exact",
        "scoring": "catalogue",
    }
    # SIDs B, A, C: those of targets 3, 2 and 6. D, the fourth, does not fit.
    assert results["all"]["sid_hr@3"] == 3 / 4


def test_few_beams_are_reported(caplog):
    model, evaluator = RecordingModel(), make_evaluator()
    with caplog.at_level(logging.WARNING):
        evaluator.evaluate_model(model, "tokenizer", num_beams=7)
        assert not caplog.records
        evaluator.evaluate_model(model, "tokenizer", num_beams=2)
    assert model.asked[2]["top_k"] == 2
    assert (
        "2 beams find at most 2 SIDs, so metrics at higher cut-offs are not reported. Pass `num_beams=3`"
        in caplog.text
    )


def test_metrics_beyond_the_beams_are_left_out():
    results = make_evaluator().evaluate_model(RecordingModel(), "tokenizer", num_beams=2)
    # The two items found share their SID: by SID the lists reach one place.
    assert set(results["all"]) == {"num_rows", "hr@1", "hr@2", "ndcg@1", "ndcg@2", "sid_hr@1", "sid_ndcg@1"}
    assert set(results["cold"]) == set(results["all"])


def test_metrics_beyond_the_place_where_lists_were_cut_are_left_out():
    lists = [["3", "6"], ["6", "1"], ["7", "6"], ["1", "6"]]
    evaluator = make_evaluator()
    assert {name for name in evaluator.evaluate(lists, top_k=2)["all"] if "3" in name} == set()
    # Whole lists, behind which is nothing.
    assert evaluator.evaluate(lists)["all"]["hr@3"] == evaluator.evaluate(lists, top_k=2)["all"]["hr@2"]
    assert "hr@3" in evaluator.evaluate(lists, top_k=3)["all"]


@pytest.mark.parametrize("num_beams", [4, 6])
def test_beams_for_every_sid_leave_nothing_out(num_beams):
    model = RecordingModel()
    results = make_evaluator().evaluate_model(model, "tokenizer", num_beams=num_beams)
    assert model.asked[2]["top_k"] == 6 and "sid_hr@3" in results["all"] and "hr@3" in results["all"]


@pytest.mark.parametrize("kind", ["numpy", "pandas"])
def test_rows_in_other_formats(kind):
    lists = [["4", "3", "6"], ["1", "2", "6"], ["1", "6", "7"], ["6", "3", "4"]]
    other = RecommendationEvaluator(ROWS.with_format(kind), INDEX, TRAIN.with_format(kind), ks=(1, 2, 3))
    assert other.evaluate(lists) == make_evaluator().evaluate(lists)


def test_a_real_model_over_the_whole_tiny_catalogue(model, tokenizer, dataset):
    evaluator = RecommendationEvaluator(dataset.test, dataset.sid_index, dataset.train)
    assert evaluator.top_k == len(dataset.items) == 8
    results = evaluator.evaluate_model(model, tokenizer, num_beams=8)
    # Every item is recommended, so nothing is missed in 10 places.
    assert results["all"]["hr@10"] == results["all"]["sid_hr@10"] == 1
    ranks = [
        [found.item_id for found in items].index(target)
        for items, target in zip(
            model.recommend(tokenizer, dataset.test["history"][:], top_k=8, num_beams=8), dataset.test["target"][:]
        )
    ]
    assert results["all"]["ndcg@10"] == pytest.approx(sum(1 / math.log2(rank + 2) for rank in ranks) / 2)


@needs_data
def test_slices_of_industrial():
    dataset = load_minionerec(INDUSTRIAL)
    evaluator = RecommendationEvaluator(dataset.test, dataset.sid_index, dataset.train)
    assert evaluator.top_k == 20
    results = evaluator.evaluate([[target] for target in dataset.test["target"][:]])
    counts = {name: metrics["num_rows"] for name, metrics in results.items()}
    assert counts["all"] == 4_533
    assert round(counts["cold"] / 4_533, 3) == 0.032
    assert round(counts["repeat"] / 4_533, 3) == 0.028
    assert counts["memorised"] + counts["unmemorised"] == 4_533
    assert round(counts["memorised"] / 4_533, 3) == 0.35
    assert results["all"]["hr@1"] == results["cold"]["sid_ndcg@10"] == 1


def test_a_prior_alone_is_ranked_by_its_weights(dataset, sid_index):
    evaluator = RecommendationEvaluator(dataset.test, sid_index, dataset.train)
    prior = NextItemPrior.fit(dataset.train, sid_index)
    weights = prior.weights(dataset.test["history"][:]).to_dense()
    lists = [
        sorted(sid_index.item_ids, key=lambda item: -row[sid_index.position_of(item)].item())[: evaluator.top_k]
        for row in weights
    ]
    assert evaluator.evaluate_prior(prior) == evaluator.evaluate(lists)
