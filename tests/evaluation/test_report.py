import pytest

from tsrec_hf.evaluation import metrics_table


MODEL = {
    "all": {"num_rows": 2, "hr@1": 0.5, "hr@10": 1.0, "ndcg@1": 0.5, "ndcg@10": 0.81546}
    | {"sid_hr@1": 0.5, "sid_hr@10": 1.0, "sid_ndcg@1": 0.5, "sid_ndcg@10": 0.9},
    "cold": {"num_rows": 0},
}
BASELINE = {
    "all": {"num_rows": 2, "hr@1": 0.0, "hr@10": 0.04409, "ndcg@1": 0.0, "ndcg@10": 0.1}
    | {"sid_hr@1": 0.25, "sid_hr@10": 1 / 3, "sid_ndcg@1": 0.25, "sid_ndcg@10": 0.3},
    "cold": {"num_rows": 1, "hr@10": 1.0, "hr@1": 0.0},
}


def test_methods_side_by_side():
    assert metrics_table({"TS-Rec": MODEL, "popularity": BASELINE}) == (
        "| method | HR@1 | HR@10 | NDCG@1 | NDCG@10 |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| TS-Rec | 0.5000 | 1.0000 | 0.5000 | 0.8155 |\n"
        "| popularity | 0.0000 | 0.0441 | 0.0000 | 0.1000 |"
    )


def test_sid_match():
    assert metrics_table({"popularity": BASELINE}, match="sid").splitlines()[-1] == (
        "| popularity | 0.2500 | 0.3333 | 0.2500 | 0.3000 |"
    )


def test_a_slice_without_rows_has_dashes_and_cut_offs_rise():
    assert metrics_table({"a|b": MODEL, "popularity": BASELINE}, slice="cold").splitlines() == [
        "| method | HR@1 | HR@10 |",
        "| --- | --- | --- |",
        r"| a\|b | - | - |",
        "| popularity | 0.0000 | 1.0000 |",
    ]


def test_errors():
    with pytest.raises(ValueError, match="at least one method"):
        metrics_table({})
    with pytest.raises(ValueError, match=r"`match` to be one of \['item', 'sid'\], but found 'title'"):
        metrics_table({"model": MODEL}, match="title")
    with pytest.raises(ValueError, match=r"slice 'tail', but 'model' has \['all', 'cold'\]"):
        metrics_table({"model": MODEL}, slice="tail")
    with pytest.raises(ValueError, match=r"same metrics for every method, but 'baseline' has \['HR@1'\]"):
        metrics_table({"model": MODEL, "baseline": {"all": {"num_rows": 1, "hr@1": 0.0}}})
