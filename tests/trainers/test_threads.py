"""The number of threads that is worth it."""

import time

import pytest
import torch

from tsrec_hf.trainers import choose_num_threads


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [({4: 3.0, 2: 1.5, 1: 2.0}, 2), ({4: 1.0, 2: 1.5, 1: 2.0}, 4), ({4: 3.0, 2: 2.0, 1: 1.0}, 1)],
)
def test_the_number_that_finishes_first(monkeypatch, seconds, chosen) -> None:
    state = {"threads": 4, "now": 0.0, "calls": 0}
    monkeypatch.setattr(torch, "get_num_threads", lambda: state["threads"])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: state.update(threads=number))
    monkeypatch.setattr(time, "monotonic", lambda: state["now"])

    def work() -> None:
        # The first call is the slowest, whatever the threads.
        state["calls"] += 1
        state["now"] += 100.0 if state["calls"] == 1 else seconds[state["threads"]]

    assert choose_num_threads(work) == seconds[chosen]
    assert state["threads"] == chosen and state["calls"] == 4
