import os

import pytest
from datasets import Dataset

from tsrec_hf.evaluation import (
    NextItemRecommender,
    PopularityRecommender,
    RecommendationEvaluator,
    baseline_results,
)
from tsrec_hf.items import load_minionerec
from tsrec_hf.models import SIDIndex


INDUSTRIAL = os.environ.get("TSREC_DATA")

# Targets: 10 three times, 9 and 2 twice, 30 once.
# After 1: 9 twice, 2 and 10 once. After 2: 10. After 3: 30. After 4: 2 and 10.
TRAIN = Dataset.from_dict(
    {
        "history": [["1"], ["2", "1"], ["1"], ["1"], ["1", "2"], ["3"], ["1", "4"], ["4"]],
        "target": ["9", "9", "10", "2", "10", "30", "2", "10"],
    }
)


def test_popularity_by_hand():
    recommender = PopularityRecommender(TRAIN)
    # 2 and 9 tie: the lower id comes first, as a number and not as text.
    assert recommender.recommend([["1"], []], top_k=3) == [["10", "2", "9"]] * 2
    assert recommender.recommend([["1"]]) == [["10", "2", "9", "30"]]


def test_next_item_by_hand():
    recommender = NextItemRecommender(TRAIN)
    # What followed 1 (9 twice; then 2 before 10, a tie), then what is popular: only 30 is left.
    assert recommender.recommend([["1"]]) == [["9", "2", "10", "30"]]
    # What followed 3, then what followed 1, the item before it.
    assert recommender.recommend([["1", "3"]]) == [["30", "9", "2", "10"]]
    # Nothing followed 7: what followed 3, then what is popular.
    assert recommender.recommend([["3", "7"]], top_k=3) == [["30", "10", "2"]]
    # Nothing is known.
    assert recommender.recommend([["7"], []], top_k=2) == [["10", "2"], ["10", "2"]]


def test_ties_do_not_depend_on_the_order_of_the_rows():
    turned = TRAIN.select(reversed(range(len(TRAIN))))
    histories = [["1"], ["4"], ["2", "3"], []]
    for baseline in (PopularityRecommender, NextItemRecommender):
        assert baseline(turned).recommend(histories) == baseline(TRAIN).recommend(histories)


def test_rows_without_history_count_for_popularity():
    train = Dataset.from_dict({"history": [["1"], [], []], "target": ["2", "3", "3"]})
    assert NextItemRecommender(train).recommend([["1"], ["2"]]) == [["2", "3"], ["3", "2"]]


def test_results_of_both_baselines_by_hand():
    index = SIDIndex(["1", "2", "9", "10", "30"], [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]])
    rows = Dataset.from_dict({"history": [["1"], ["3"]], "target": ["9", "10"]})
    evaluator = RecommendationEvaluator(rows, index, TRAIN, ks=(1, 2))
    results = baseline_results(evaluator, TRAIN, rows["history"][:])
    assert list(results) == ["popularity", "next-item counts"]
    # Popularity names 10, 2 to both; after 1 comes 9; after 3 comes 30, then the most popular, 10.
    found = {name: (slices["all"]["hr@1"], slices["all"]["hr@2"]) for name, slices in results.items()}
    assert found == {"popularity": (0.5, 0.5), "next-item counts": (0.5, 1.0)}


@pytest.mark.skipif(not INDUSTRIAL, reason="TSREC_DATA does not name the folder of Industrial_and_Scientific")
@pytest.mark.parametrize(
    ("baseline", "prefix", "expected"),
    [
        (
            PopularityRecommender,
            "sid_",
            {"hr@1": 0.0441, "hr@3": 0.0459, "hr@5": 0.0472, "hr@10": 0.0609}
            | {"ndcg@3": 0.0452, "ndcg@5": 0.0457, "ndcg@10": 0.0501},
        ),
        (
            NextItemRecommender,
            "",
            {"hr@1": 0.0655, "hr@3": 0.0979, "hr@5": 0.1066, "hr@10": 0.1264}
            | {"ndcg@3": 0.0852, "ndcg@5": 0.0887, "ndcg@10": 0.0951},
        ),
    ],
)
def test_baselines_of_industrial(baseline, prefix, expected):
    dataset = load_minionerec(INDUSTRIAL)
    evaluator = RecommendationEvaluator(dataset.test, dataset.sid_index, dataset.train)
    lists = baseline(dataset.train).recommend(dataset.test["history"][:], top_k=evaluator.top_k)
    metrics = evaluator.evaluate(lists)["all"]
    assert {name: round(metrics[prefix + name], 4) for name in expected} == expected
