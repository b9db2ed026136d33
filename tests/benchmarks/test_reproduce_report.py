"""Verdicts of the report on finished runs with made-up ranks."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MISS, HIT = -1, 0
NUM_ROWS = 200
CLAIM = "our default against random rows"


@pytest.fixture
def report(monkeypatch):
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import reproduce_report

    yield reproduce_report
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").exists():
            sys.modules.pop(name)


@pytest.fixture
def save_run(tmp_path):
    def save(name, seed, ranks):
        section = name.partition("/")[0]
        for kind in ("runs", "ranks"):
            (tmp_path / kind / section).mkdir(parents=True, exist_ok=True)
        run = {"name": f"{name}-seed{seed}", "seed": seed, "seconds": 1.0, "train_seconds": 1.0, "arguments": {}}
        metrics = {"sid_hr@10": float((ranks == HIT).mean()), "sid_ndcg@10": 0.5, "ndcg@10": 0.5}
        run["results"] = {"test": dict.fromkeys(("all", "memorised", "unmemorised"), metrics | {"num_rows": NUM_ROWS})}
        (tmp_path / "runs" / f"{name}-seed{seed}.json").write_text(json.dumps(run))
        users = np.arange(NUM_ROWS) // 2
        np.savez(tmp_path / "ranks" / f"{name}-seed{seed}.npz", **{"test/sid": ranks, "users": users})

    return save


def verdict_of(table: str) -> str:
    [line] = [line for line in table.splitlines() if line.startswith(f"| {CLAIM} ")]
    return line.split("|")[-2].strip()


def ranks_with(hits: int) -> np.ndarray:
    ranks = np.full(NUM_ROWS, MISS, dtype=np.int16)
    ranks[:hits] = HIT
    return ranks


@pytest.mark.parametrize(
    ("ours", "random", "verdict"),
    [(120, 40, "confirmed"), (40, 120, "the opposite"), (101, 100, "not decided"), (100, 100, "not decided")],
)
def test_a_verdict_of_two_seeds(report, save_run, tmp_path, ours, random, verdict):
    for seed in (0, 1):
        save_run("initialization/default", seed, ranks_with(ours))
        save_run("initialization/random", seed, ranks_with(random))
    table = report.contrast_table([report.Evidence(report.Results(tmp_path))], 200)
    assert verdict_of(table) == verdict
    assert table.count("not run") == len(report.CONTRASTS) - 1


def test_pairs_that_do_not_agree_decide_nothing(report, save_run, tmp_path):
    for seed, (ours, random) in enumerate([(160, 20), (160, 20), (40, 60)]):
        save_run("initialization/default", seed, ranks_with(ours))
        save_run("initialization/random", seed, ranks_with(random))
    table = report.contrast_table([report.Evidence(report.Results(tmp_path))], 200)
    assert "| +0.7000, +0.7000, -0.1000 |" in table and "| 3 | +0.4333 [+0.3" in table
    assert verdict_of(table) == "not decided"


def test_one_seed_decides_nothing_and_only_seeds_of_both_count(report, save_run, tmp_path):
    save_run("initialization/default", 0, ranks_with(120))
    save_run("initialization/default", 1, ranks_with(120))
    save_run("initialization/random", 1, ranks_with(40))
    save_run("initialization/random", 2, ranks_with(40))
    table = report.contrast_table([report.Evidence(report.Results(tmp_path))], 200)
    assert verdict_of(table) == "not decided by one seed"


def test_rows_of_a_slice_alone(report, save_run, tmp_path):
    import torch

    for seed in (0, 1):
        save_run("initialization/default", seed, ranks_with(120))
        save_run("initialization/random", seed, ranks_with(40))
    results = report.Results(tmp_path)
    # Both hit the first 40 rows, and neither one behind the first 120.
    for rows, verdict in (
        (slice(0, 40), "not decided"),
        (slice(120, None), "not decided"),
        (slice(40, 120), "confirmed"),
    ):
        mask = torch.zeros(NUM_ROWS, dtype=torch.bool)
        mask[rows] = True
        assert verdict_of(report.contrast_table([report.Evidence(results, mask)], 200)) == verdict


def test_the_document_counts_runs_hours_and_rows(report, save_run, tmp_path):
    save_run("initialization/default", 0, ranks_with(120))
    text = report.document(report.Results(tmp_path), "shop")
    assert text.startswith("## shop\n\n1 runs, 0.0 core-hours; 200 test rows.")
    assert "| initialization/default | 1 | 0.6000 | 0.5000 |" in text


def test_one_seed_each_of_two_data_sets_are_two_pairs(report, save_run, tmp_path):
    save_run("initialization/default", 0, ranks_with(120))
    save_run("initialization/random", 0, ranks_with(40))
    results = report.Results(tmp_path)
    table = report.contrast_table([report.Evidence(results, users=name) for name in ("here", "there")], 200)
    assert verdict_of(table) == "confirmed" and f"| {CLAIM} | 2 | +0.4000 [" in table


def test_a_folder_of_data_for_each_set_of_runs(report):
    with pytest.raises(ValueError, match="for each of"):
        report.ReportArguments(dataset=["industrial", "beauty"], data_dir=["amazon"])
