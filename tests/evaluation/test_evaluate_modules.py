"""Our modules of `evaluate`, loaded from their folders as users load them."""

import json
import math
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest

from tsrec_hf.evaluation import hit_rate_at_k, metrics, ndcg_at_k, target_ranks


FOLDER = Path(metrics.__path__[0])
FUNCTIONS = {"hit_rate": hit_rate_at_k, "ndcg": ndcg_at_k}


@pytest.fixture(params=FUNCTIONS)
def module(request, tmp_path):
    return evaluate.load(str(FOLDER / request.param), cache_dir=str(tmp_path))


def random_lists(seed=0, num_rows=200, num_items=40, length=15):
    """Lists of `length` items from a random order of all, whose scores they are, and a target per row."""
    generator = np.random.default_rng(seed)
    orders = np.stack([generator.permutation(num_items) for _ in range(num_rows)])
    targets = generator.integers(0, num_items, num_rows)
    lists = [[f"i{item}" for item in order[:length]] for order in orders]
    return lists, [f"i{target}" for target in targets], -orders.argsort(axis=1), targets


# Places 1, 3 and none: HR@2 1/3, HR@3 2/3; gains 1 / log2(2) and 1 / log2(4).
@pytest.mark.parametrize(("name", "at_2", "at_3"), [("hit_rate", 1 / 3, 2 / 3), ("ndcg", 1 / 3, 1.5 / 3)])
def test_by_hand(name, at_2, at_3, tmp_path):
    module = evaluate.load(str(FOLDER / name), cache_dir=str(tmp_path))
    lists, targets = [["a", "b"], ["a", "b", "c"], []], ["a", "c", "a"]
    scores = module.compute(predictions=lists, references=targets, k=[2, 3])
    assert scores == pytest.approx({f"{name}@2": at_2, f"{name}@3": at_3})
    for items, target in zip(lists, targets):
        module.add(prediction=items, reference=target)
    assert module.compute(k=3) == pytest.approx({f"{name}@3": at_3})


def test_equal_to_our_functions_and_to_scikit_learn(module):
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install scikit-learn")
    lists, references, scores, targets = random_lists()
    ks = [1, 3, 5, 10]
    found = module.compute(predictions=lists, references=references, k=ks)
    ranks = target_ranks(lists, references)
    assert found == {f"{module.name}@{k}": FUNCTIONS[module.name](ranks, k).item() for k in ks}
    relevance = np.eye(scores.shape[1])[targets]
    for k in ks:
        if module.name == "ndcg":
            expected = sklearn_metrics.ndcg_score(relevance, scores, k=k)
        else:
            expected = sklearn_metrics.top_k_accuracy_score(targets, scores, k=k, labels=range(scores.shape[1]))
        assert 0 < expected < 1
        assert found[f"{module.name}@{k}"] == pytest.approx(expected, abs=1e-6)


def test_both_at_once(tmp_path):
    lists, references, _, _ = random_lists()
    both = evaluate.combine([evaluate.load(str(FOLDER / name), cache_dir=str(tmp_path)) for name in FUNCTIONS])
    scores = both.compute(predictions=lists, references=references, k=5)
    ranks = target_ranks(lists, references)
    assert scores == {f"{name}@5": function(ranks, 5).item() for name, function in FUNCTIONS.items()}


def test_they_say_what_they_are(module):
    assert module.description.strip() and "at k" in module.description
    assert module.citation.strip().startswith("@article{") and "doi" in module.citation
    assert "predictions (`list[list[str]]`)" in module.inputs_description
    assert f'evaluate.load("tsrec_hf/evaluation/metrics/{module.name}")' in module.inputs_description
    assert set(module.features) == {"predictions", "references"}


@pytest.mark.parametrize(
    ("lists", "targets", "settings", "words"),
    [
        ([["a"], "bc"], ["a", "b"], {}, "list of recommendations per user, but found the string 'bc' in row 1"),
        ([["a"], ["b"]], ["a", None], {}, "found `None` in row 1"),
        ([["a"], ["b", None]], ["a", "b"], {}, "found `None` in row 1"),
        ([["a"], ["b"]], ["a"], {}, "Mismatch in the number of predictions"),
        ([], [], {}, "at least one row"),
        ([["a"]], ["a"], {"k": 0}, "at least 1, but found k=0"),
        ([["a"]], ["a"], {"k": []}, r"found k=\[\]"),
        ([["a"]], ["a"], {"k": "10"}, "found k='10'"),
    ],
)
def test_wrong_input(module, lists, targets, settings, words):
    with pytest.raises(ValueError, match=words):
        module.compute(predictions=lists, references=targets, **settings)


# Any attempt to reach a network ends the process.
PROCESS = """
import json, socket, sys
def refuse(*args): raise SystemExit(f"reached for the network: {args}")
socket.socket.connect = socket.getaddrinfo = refuse
import evaluate
path, cache, rank, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
module = evaluate.load(path, cache_dir=cache, num_process=2, process_id=rank, experiment_id="two")
for items, target in rows:
    module.add_batch(predictions=[items], references=[target])
print(json.dumps(module.compute(k=[1, 3])))
"""


def test_two_processes_offline_are_equal_to_one(tmp_path):
    lists, references, _, _ = random_lists(num_rows=7, num_items=5, length=3)
    rows = list(zip(lists, references))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, FOLDER / "ndcg", tmp_path, str(rank), json.dumps(rows[rank::2])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in printed)
    ranks = target_ranks(lists, references)
    assert first == pytest.approx({f"ndcg@{k}": ndcg_at_k(ranks, k).item() for k in (1, 3)})
    assert not math.isclose(first["ndcg@1"], first["ndcg@3"]) and second is None
