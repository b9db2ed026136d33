"""`benchmarks/baselines.py` on a tiny data set: runs, ranks and scores on disk, runs that resume, the table."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tsrec_hf import NextItemPrior, RecommendationEvaluator, baseline_results


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIBLINGS = ("baselines", "common", "cornac_models", "full_softmax", "sid_models")
COUNTS = ["popularity", "next-item-counts", "transitions"]
NEEDS_CORNAC = "trains a model of Cornac's: pip install 'tsrec_hf[baselines]'"


@pytest.fixture
def baselines(monkeypatch):
    """The script and the files beside it, imported as if it were run by its path; no module is left behind."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("baselines")
    for name in SIBLINGS:
        sys.modules.pop(name, None)


@pytest.fixture
def arguments(baselines, dataset, tmp_path):
    def arguments(*models: str, **options):
        return baselines.BaselineArguments(
            data_dir=str(dataset.save(tmp_path / "data")),
            models=list(models),
            output_dir=str(tmp_path / "out"),
            **{"quick": True, **options},
        )

    return arguments


def result(folder: Path, name: str) -> dict:
    return json.loads((folder / "out" / "runs" / f"{name}.json").read_text())


def test_counts_are_the_library_s_own(baselines, arguments, dataset, tmp_path) -> None:
    baselines.main(arguments(*COUNTS))
    evaluator = RecommendationEvaluator(dataset.test, dataset.sid_index, dataset.train, ks=baselines.KS)
    expected = baseline_results(evaluator, dataset.train, dataset.test["history"][:])
    assert result(tmp_path, "popularity-seed0")["metrics"]["test"] == expected["popularity"]
    assert result(tmp_path, "next-item-counts-seed0")["metrics"]["test"] == expected["next-item counts"]
    transitions = evaluator.evaluate_prior(NextItemPrior.fit(dataset.train, dataset.sid_index))
    assert result(tmp_path, "transitions-seed0")["metrics"]["test"] == transitions


def test_ranks_and_scores_stand_beside_the_metrics(baselines, arguments, dataset, tmp_path) -> None:
    baselines.main(arguments("transitions", save_scores=True))
    metrics = result(tmp_path, "transitions-seed0")["metrics"]["test"]["all"]
    ranks = np.load(tmp_path / "out" / "ranks" / "transitions-seed0.npz")
    for match, prefix in (("item", ""), ("sid", "sid_")):
        hits = (ranks[match] >= 0) & (ranks[match] < 5)
        assert hits.mean() == pytest.approx(metrics[f"{prefix}hr@5"])
    prior = NextItemPrior.fit(dataset.train, dataset.sid_index)
    for split in ("valid", "test"):
        scores = np.load(tmp_path / "out" / "scores" / f"transitions-seed0-{split}.npy")
        weights = prior.weights(getattr(dataset, split)["history"][:]).to_dense().numpy()
        assert scores.dtype == np.float16
        np.testing.assert_allclose(np.exp(scores.astype(float)), weights / weights.sum(1, keepdims=True), rtol=0.01)


def test_a_finished_run_is_not_repeated(baselines, arguments, tmp_path, monkeypatch) -> None:
    fitted = []
    fit = baselines.fit
    monkeypatch.setattr(baselines, "fit", lambda name, *rest: fitted.append(name) or fit(name, *rest))
    baselines.main(arguments("popularity"))
    baselines.main(arguments("popularity", "transitions"))
    assert fitted == ["popularity", "transitions"]
    # Scores that were not kept need the model again, once.
    for _ in range(2):
        baselines.main(arguments("popularity", save_scores=True))
    assert fitted == ["popularity", "transitions", "popularity"]
    with pytest.raises(ValueError, match="popularity-seed0.json to be a run of the same settings"):
        baselines.main(arguments("popularity", quick=False))


def test_the_table_has_mean_and_spread_over_seeds(baselines) -> None:
    def run(model: str, seed: int, value: float) -> dict:
        tests = dict.fromkeys(baselines.COLUMNS, value)
        metrics = {"test": {"all": tests}, "valid": {"all": {"ndcg@10": value}}}
        return {"model": model, "seed": seed, "metrics": metrics, "seconds": 10.0 * seed}

    header, _, *lines = baselines.summary([run("b", 1, 0.1), run("b", 2, 0.3), run("a", 1, 0.1)]).splitlines()
    assert header.startswith("| model | seeds | hr@5 | hr@10 | ndcg@5 | ndcg@10 | sid_hr@5 |")
    # The mean of .1 and .3, and the root of (.01 + .01) over one.
    assert [line.split(" | ")[:3] for line in lines] == [["| a", "1", "0.1000"], ["| b", "2", "0.2000 ± 0.1414"]]
    assert lines[1].endswith("| 15 |")


def test_without_cornac_its_models_are_skipped_with_a_message(baselines, arguments, monkeypatch, capsys) -> None:
    monkeypatch.setattr(baselines, "cornac_is_installed", lambda: False)
    baselines.main(arguments("sasrec", "popularity"))
    printed = capsys.readouterr().out
    assert "sasrec skipped: it needs Cornac, `pip install '.[baselines]'` in a clone of the repository" in printed
    assert "| popularity | 1 |" in printed


def test_an_unknown_model_is_refused(arguments) -> None:
    with pytest.raises(ValueError, match="Expected models among .*'sasrec'.*found .'sas-rec'"):
        arguments("sas-rec")


def test_sessions_chain_the_rows_of_a_user(baselines, dataset) -> None:
    sessions = importlib.import_module("cornac_models")._sessions(dataset.train)
    assert sessions == [
        ("ann", ["hammer", "nail", "saw", "screw"]),
        ("bob", ["apple", "pear", "bread"]),
        ("cid", ["bread", "hammer"]),
    ]


@pytest.mark.parametrize("name", ["item-knn", "fpmc", "gru4rec", "bert4rec", "sasrec-bce", "sasrec"])
def test_a_model_of_cornac_ranks_the_catalogue(name, baselines, arguments, dataset, tmp_path) -> None:
    pytest.importorskip("cornac", reason=NEEDS_CORNAC)
    baselines.main(arguments(name, save_scores=True))
    found = result(tmp_path, f"{name}-seed0")
    assert found["metrics"]["test"]["all"]["num_rows"] == len(dataset.test)
    scores = np.load(tmp_path / "out" / "scores" / f"{name}-seed0-test.npy")
    assert scores.shape == (len(dataset.test), len(dataset.sid_index)) and np.isfinite(scores).all()


def test_sasrec_learns_what_follows(baselines, dataset) -> None:
    """Trained on a cycle, the full softmax puts the item that follows first."""
    pytest.importorskip("cornac", reason=NEEDS_CORNAC)
    from cornac.data import SequentialDataset
    from full_softmax import FullSoftmaxSASRec

    items = list(dataset.sid_index.item_ids)
    rows = [("u", session, items[(session + place) % 8], place) for session in range(8) for place in range(4)]
    ids = {item: number for number, item in enumerate(items)}
    sessions = SequentialDataset.build(rows, "USIT", global_iid_map=ids)
    model = FullSoftmaxSASRec(
        embedding_dim=16, max_len=4, batch_size=4, learning_rate=0.01, n_epochs=30, dropout=0.0, patience=30, seed=0
    ).fit(sessions, sessions)
    scores = model.score_all([[number] for number in range(8)])
    assert scores.argmax(1).tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiger", "sid-decoder"])
def test_a_generative_model_ranks_the_catalogue(name, baselines, arguments, dataset, tmp_path) -> None:
    if name != "sid-decoder":
        pytest.importorskip("cornac", reason=NEEDS_CORNAC)
    baselines.main(arguments(name))
    assert result(tmp_path, f"{name}-seed0")["metrics"]["test"]["all"]["num_rows"] == len(dataset.test)
