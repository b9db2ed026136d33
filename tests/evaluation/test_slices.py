import time

import numpy as np
import pytest
import torch
from datasets import Dataset

from tsrec_hf.evaluation.slices import find_slices


def test_by_hand():
    train = Dataset.from_dict({"history": [["1", "2"], ["3"], []], "target": ["3", "4", "5"]})
    rows = {
        "followed the last item": (["2"], "3"),
        "followed an earlier item at a distance": (["1", "4"], "3"),
        "came before it": (["3"], "1"),
        "follows by two steps only": (["2"], "4"),
        "was a target without a history": (["1"], "5"),
        "nothing is known of the history": (["9"], "3"),
        "no history": ([], "3"),
        "cold": (["1"], "8"),
        "repeat": (["1", "3"], "3"),
    }
    slices = find_slices([history for history, _ in rows.values()], [target for _, target in rows.values()], train)
    found = {name: [row for row, member in zip(rows, mask.tolist()) if member] for name, mask in slices.items()}
    assert found["memorised"] == [
        "followed the last item",
        "followed an earlier item at a distance",
        "repeat",
    ]
    assert found["unmemorised"] == [row for row in rows if row not in found["memorised"]]
    assert found["cold"] == ["cold"] and found["repeat"] == ["repeat"]
    assert found["new"] == [row for row in rows if row not in ("cold", "repeat")]
    assert found["all"] == list(rows)


@pytest.mark.parametrize("empty", [{"history": [], "target": []}, {"history": [[]], "target": ["1"]}])
def test_no_pairs_in_training(empty):
    slices = find_slices([["1"], []], ["2", "1"], Dataset.from_dict(empty))
    assert slices["memorised"].tolist() == [False, False] and slices["unmemorised"].dtype == torch.bool


def test_equal_to_a_loop_and_fast():
    generator = np.random.default_rng(0)

    def rows(size):
        items = generator.integers(0, 3_000, (size, 11)).astype(str).tolist()
        lengths = generator.integers(0, 11, size)
        return [row[:length] for row, length in zip(items, lengths)], [row[-1] for row in items]

    (train_histories, train_targets), (histories, targets) = rows(36_000), rows(4_500)
    train = Dataset.from_dict({"history": train_histories, "target": train_targets})
    start = time.process_time()
    memorised = find_slices(histories, targets, train)["memorised"].tolist()
    assert time.process_time() - start < 5  # a fraction of a second on an idle core
    followed: dict[str, set[str]] = {}
    for history, target in zip(train_histories, train_targets):
        for item in history:
            followed.setdefault(item, set()).add(target)
    expected = [
        any(target in followed.get(item, ()) for item in history) for history, target in zip(histories, targets)
    ]
    assert memorised == expected and 0 < sum(expected) < len(expected)
