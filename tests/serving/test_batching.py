"""Requests that are searched together get what they would get alone, and harm nobody."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tsrec_hf import NextItemPrior
from tsrec_hf.serving import RequestBatcher, ServerBusy


REQUESTS = [
    {"inputs": ["hammer", "nail"]},
    {"inputs": ["apple"], "parameters": {"top_k": 3}},
    {"inputs": ["bread"], "parameters": {"top_k": 3, "exclude_items": ["pear", "apple"]}},
    {"inputs": [["hammer"], ["apple"]], "parameters": {"top_k": 3, "exclude_items": [["saw"], ["pear"]]}},
    {"inputs": ["saw"], "parameters": {"top_k": 3, "allowed_items": ["hammer", "bread", "nail"]}},
    {"inputs": ["pear"], "parameters": {"top_k": 3, "prior": {"cheese": 9.0}, "exclude_history": True}},
    {"inputs": [["pear"], ["saw"]], "parameters": {"top_k": 3, "prior": [{"cheese": 9.0}, {"nail": 9.0}]}},
    {"inputs": ["cheese"], "parameters": {"search": "exact", "top_k": 2}},
]


class Recorder:
    """A model that tells of its searches, and waits in them until it is let go."""

    def __init__(self, model):
        self._model, self.sizes, self.gate = model, [], threading.Event()
        self.gate.set()
        self.recommend = self._recording(model.recommend)

    def __getattr__(self, name):
        return getattr(self._model, name)

    def _recording(self, recommend):
        from functools import wraps

        @wraps(recommend)
        def recorded(tokenizer, histories, **options):
            self.gate.wait()
            lists = recommend(tokenizer, histories, **options)
            self.sizes.append(len(histories))
            return lists

        return recorded


def alone(model, tokenizer, request):
    histories, single = request["inputs"], isinstance(request["inputs"][0], str)
    lists = model.recommend(tokenizer, [histories] if single else histories, **request.get("parameters") or {})
    answers = [[item._asdict() for item in row] for row in lists]
    return answers[0] if single else answers


def assert_same(answer, expected):
    """Equal but for the last bits of the scores, which are those of another matrix product."""
    assert len(answer) == len(expected)
    for found, wanted in zip(answer, expected):
        if isinstance(found, list):
            assert_same(found, wanted)
            continue
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            assert value == (pytest.approx(wanted[name], abs=1e-4) if isinstance(value, float) else wanted[name])


def test_every_request_gets_its_own_answer(model, tokenizer):
    """Of all kinds of options, from many threads at once."""
    requests = REQUESTS * 5
    expected = [alone(model, tokenizer, request) for request in REQUESTS] * 5
    with RequestBatcher(model, tokenizer, max_batch_size=7) as batcher, ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda request: batcher.submit(request).result(timeout=60), requests))
    for answer, wanted in zip(answers, expected):
        assert_same(answer, wanted)


def test_what_waits_is_searched_together(model, tokenizer):
    recorder = Recorder(model)
    recorder.gate.clear()
    batches = []
    with RequestBatcher(recorder, tokenizer, max_batch_size=4, on_batch=lambda *of: batches.append(of)) as batcher:
        first = batcher.submit({"inputs": ["hammer"]})
        while batcher.num_waiting:  # its search has begun
            time.sleep(0.001)
        others = [batcher.submit({"inputs": [item]}) for item in ("nail", "saw", "pear", "apple", "bread", "cheese")]
        assert batcher.num_waiting == 6
        recorder.gate.set()
        for future in (first, *others):
            future.result(timeout=60)
    assert recorder.sizes == [1, 4, 2]
    assert [size for size, _ in batches] == [1, 4, 2] and all(seconds > 0 for _, seconds in batches)


def test_a_request_waits_for_others_for_a_while(model, tokenizer):
    recorder = Recorder(model)
    with RequestBatcher(recorder, tokenizer, max_batch_size=3, max_delay=30) as batcher:
        # Full before the time is over.
        futures = [batcher.submit({"inputs": [item]}) for item in ("hammer", "nail", "saw")]
        assert all(future.result(timeout=20) for future in futures)
    assert recorder.sizes == [3]


def test_a_large_request_is_taken_whole(model, tokenizer):
    request = {"inputs": [["hammer"], ["nail"], ["saw"], ["pear"], ["apple"]], "parameters": {"top_k": 2}}
    with RequestBatcher(model, tokenizer, max_batch_size=2, max_waiting=3) as batcher:
        assert_same(batcher.submit(request).result(timeout=60), alone(model, tokenizer, request))


def test_a_bad_request_harms_no_other(model, tokenizer):
    recorder = Recorder(model)
    recorder.gate.clear()
    with RequestBatcher(recorder, tokenizer) as batcher:
        good = [batcher.submit({"inputs": [item]}) for item in ("nail", "saw", "pear")]
        unknown, empty = batcher.submit({"inputs": ["anvil"]}), batcher.submit({"inputs": [[]]})
        barred = batcher.submit({"inputs": ["nail"], "parameters": {"allowed_items": []}})
        odd = batcher.submit({"inputs": ["nail"], "parameters": {"exclude_items": "nail"}})
        good.append(batcher.submit({"inputs": ["apple"]}))
        recorder.gate.set()
        for future, words in (
            (unknown, "'anvil'"),
            (empty, "history of at least one item"),
            (barred, "the rules leave none"),
            (odd, "collection of item ids"),
        ):
            with pytest.raises(ValueError, match=words):
                future.result(timeout=60)
        for future, item in zip(good, ("nail", "saw", "pear", "apple")):
            assert_same(future.result(timeout=60), alone(model, tokenizer, {"inputs": [item]}))


def test_too_many_are_refused_and_those_that_wait_are_answered(model, tokenizer):
    recorder = Recorder(model)
    recorder.gate.clear()
    batcher = RequestBatcher(recorder, tokenizer, max_waiting=2)
    taken = [batcher.submit({"inputs": ["hammer"]})]
    while batcher.num_waiting:
        time.sleep(0.001)
    taken += [batcher.submit({"inputs": ["nail"]}), batcher.submit({"inputs": ["saw"]})]
    with pytest.raises(ServerBusy, match="2 users wait .* at most 2 may. Ask again"):
        batcher.submit({"inputs": ["pear"]})
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while batcher.is_open:
        time.sleep(0.001)
    with pytest.raises(ServerBusy, match="is stopping"):
        batcher.submit({"inputs": ["pear"]})
    with pytest.raises(ServerBusy, match="is stopping"):
        batcher.change_items(lambda index: index.without_items(["saw"]))
    recorder.gate.set()
    closing.join(timeout=60)
    assert not closing.is_alive() and all(future.result(timeout=1) for future in taken)


def test_a_request_that_was_given_up_is_not_searched(model, tokenizer):
    recorder = Recorder(model)
    recorder.gate.clear()
    with RequestBatcher(recorder, tokenizer) as batcher:
        batcher.submit({"inputs": ["hammer"]})
        while batcher.num_waiting:
            time.sleep(0.001)
        given_up, other = batcher.submit({"inputs": [["nail"], ["saw"]]}), batcher.submit({"inputs": ["saw"]})
        assert given_up.cancel()
        recorder.gate.set()
        other.result(timeout=60)
    assert recorder.sizes == [1, 1]


def test_items_come_and_go_while_requests_are_answered(model, tokenizer, dataset):
    """With a prior, which belongs to a catalogue and changes with it."""
    tokenizer.set_prior(NextItemPrior.fit(dataset.train, tokenizer.sid_index))
    stop, failures, answered = threading.Event(), [], []
    with RequestBatcher(model, tokenizer, max_delay=0) as batcher:

        def ask():
            while not stop.is_set():
                try:
                    answered.append(batcher.submit({"inputs": ["hammer"]}).result(timeout=60))
                except Exception as error:
                    failures.append(error)

        clients = [threading.Thread(target=ask) for _ in range(3)]
        [client.start() for client in clients]
        for number in range(20):
            name = f"axe{number}"
            batcher.change_items(lambda index: index.with_items([name], codes=[[1, 2, 0]], titles=["sharp axe"]))
            known = batcher.submit({"inputs": [name], "parameters": {"allowed_items": [name]}}).result(timeout=60)
            assert [item["item_id"] for item in known] == [name]
            batcher.change_items(lambda index: index.without_items([name]))
            with pytest.raises(ValueError, match=name):
                batcher.submit({"inputs": [name]}).result(timeout=60)
        stop.set()
        [client.join(timeout=60) for client in clients]
        before = batcher.tokenizer.sid_index
        with pytest.raises(ValueError, match="hammer"):
            batcher.change_items(lambda index: index.with_items(["hammer"], codes=[[0, 0, 0]]))
        with pytest.raises(ValueError, match="grew out of"):
            batcher.change_items(lambda index: type(index)(["kiwi"], [[1, 2, 0]]))
        assert batcher.tokenizer.sid_index is before
    assert not failures and len(answered) > 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch_size": 0}, "`max_batch_size` of at least 1"),
        ({"max_waiting": 0}, "`max_waiting` of at least 1"),
        ({"max_delay": -1}, "`max_delay` in seconds"),
    ],
)
def test_settings_are_checked(model, tokenizer, options, words):
    with pytest.raises(ValueError, match=words):
        RequestBatcher(model, tokenizer, **options)
