"""A run that divides its time."""

import time

import pytest

from tsrec_hf.trainers import RunClock


@pytest.fixture
def now(monkeypatch) -> dict[str, float]:
    times = {"monotonic": 50.0, "time": 1000.0}
    monkeypatch.setattr(time, "monotonic", lambda: times["monotonic"])
    monkeypatch.setattr(time, "time", lambda: times["time"])
    return times


def test_time_counts_from_the_beginning_of_the_run(now, capsys) -> None:
    clock, late = RunClock(100.0), RunClock(100.0, since=970.0)
    now["monotonic"] = 60.0
    assert (clock.elapsed, clock.left) == (10.0, 90.0)
    assert (late.elapsed, late.left) == (40.0, 60.0)
    # Somebody sets the clock of the machine.
    now["time"] = 5.0
    assert late.elapsed == 40.0
    late.say("Training", "for 9 seconds")
    assert capsys.readouterr().out == "[ 40 s] Training: for 9 seconds\n"


def test_rows_that_the_time_is_enough_for(now) -> None:
    clock = RunClock(100.0)
    assert clock.affordable(1000, row_seconds=0.5) == 200
    assert clock.affordable(1000, row_seconds=0.5, share=0.25, at_least=10) == 50
    assert clock.affordable(150, row_seconds=0.5) == 150
    # Too late: what is worth it all the same, or all where there is less.
    now["monotonic"] = 200.0
    assert clock.left == -50.0
    assert (clock.affordable(1000, row_seconds=0.5), clock.affordable(30, row_seconds=0.5)) == (50, 30)
