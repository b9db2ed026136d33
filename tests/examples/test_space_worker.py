"""The process behind the page: it dies and comes back, its queue has an end, and users get their own answers."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest


SPACE = Path(__file__).parents[2] / "examples" / "space"
STUB = """
import os, time

class Recommender:
    def __init__(self, checkpoint, revision=None):
        if checkpoint == "none":
            raise FileNotFoundError("no folder")
        self.source = checkpoint, revision

    def echo(self, value):
        return value, *self.source

    def wait(self, seconds):
        time.sleep(seconds)

    def die(self):
        os._exit(1)
"""


@pytest.fixture
def worker_module(tmp_path, monkeypatch):
    """`worker`, beside a recommender without a model."""
    (tmp_path / "recommender.py").write_text(STUB)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(SPACE), *sys.path])
    import worker

    yield worker
    sys.modules.pop("worker")


def test_it_comes_back_when_it_dies(worker_module) -> None:
    worker = worker_module.Worker("here", "main")
    worker.loading.result(timeout=60)
    with ThreadPoolExecutor(20) as users:
        assert list(users.map(lambda user: worker.ask("echo", user)[0], range(200))) == list(range(200))
    with pytest.raises(ValueError, match="being started again. Ask again"):
        worker.ask("die")
    assert worker.ask("echo", 1) == (1, "here", "main")
    worker.close()


def test_the_queue_has_an_end(worker_module) -> None:
    worker = worker_module.Worker("here", most_waiting=3)
    worker.loading.result(timeout=60)
    with ThreadPoolExecutor(3) as users:
        waiting = [users.submit(worker.ask, "wait", 0.5) for _ in range(3)]
        while worker._waiting < 3:
            time.sleep(0.01)
        with pytest.raises(ValueError, match="3 questions are waiting"):
            worker.ask("echo", 1)
        assert all(one.result() is None for one in waiting)
    assert worker.ask("echo", 1)[0] == 1
    worker.close()


def test_a_checkpoint_that_is_not_there(worker_module) -> None:
    worker = worker_module.Worker("none")
    with pytest.raises(FileNotFoundError, match="no folder"):
        worker.loading.result(timeout=60)
    worker.close()


def test_twenty_users_at_once_get_what_one_gets(model, tokenizer, tmp_path, monkeypatch) -> None:
    pytest.importorskip("rapidfuzz", reason='needs RapidFuzz: pip install "tsrec_hf[space]"')
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    monkeypatch.setattr(sys, "path", [str(SPACE), *sys.path])
    monkeypatch.delitem(sys.modules, "worker", raising=False)
    import worker

    ids = tokenizer.sid_index.item_ids
    histories = [[ids[number % len(ids)], ids[number // len(ids)]] for number in range(40)]
    asked = worker.Worker(str(tmp_path / "checkpoint"))
    asked.loading.result(timeout=120)
    with ThreadPoolExecutor(20) as users:
        found = list(users.map(lambda history: asked.ask("recommend", history), histories))
    asked.close()
    sys.modules.pop("worker")
    for history, items in zip(histories, found, strict=True):
        [expected] = model.recommend(tokenizer, [history], top_k=len(items), exclude_history=True)
        assert [item["item_id"] for item in items] == [item.item_id for item in expected]
