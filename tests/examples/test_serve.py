"""The server of `examples/serve`: its answers are those of `recommend`, whatever happens beside them."""

import json
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest


pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

APP = Path(__file__).parents[2] / "examples" / "serve" / "app.py"
TOKEN = {"Authorization": "Bearer secret"}


def ask(port, method="GET", path="/", data=None, headers=None):
    """Status, headers and body of an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    body = data if data is None or isinstance(data, (str, bytes)) else json.dumps(data)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    is_json = response.headers["content-type"] == "application/json"
    return response.status, response.headers, json.loads(text) if is_json else text


@pytest.fixture
def serve(model, tokenizer, monkeypatch):
    """Starts the application with some settings, and gives its port."""
    monkeypatch.setenv("TSREC_ITEMS_TOKEN", "secret")
    create_app = runpy.run_path(str(APP))["create_app"]
    running = []

    def start(**settings):
        app = create_app(model, tokenizer, **settings)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=server.run)
        running.append((server, thread))
        thread.start()
        while not server.started:
            time.sleep(0.005)
        return server.servers[0].sockets[0].getsockname()[1]

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()


def expected(model, tokenizer, history, **options):
    return [item._asdict() for item in model.recommend(tokenizer, [history], **options)[0]]


def assert_same(answer, wanted):
    assert [item["item_id"] for item in answer] == [item["item_id"] for item in wanted]
    for found, item in zip(answer, wanted):
        assert found == item | {"score": pytest.approx(item["score"], abs=1e-4)}


def test_many_clients_get_the_answers_of_recommend(serve, model, tokenizer):
    port = serve(max_batch_size=8)
    items = tokenizer.sid_index.item_ids
    requests = [([first, second], k) for first in items for second in items for k in (1, 3)]

    def one(request):
        history, top_k = request
        data = {"inputs": history, "parameters": {"top_k": top_k, "exclude_items": history[:1]}}
        return ask(port, "POST", data=data)

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(one, requests))
    for (history, top_k), (status, _, answer) in zip(requests, answers):
        assert status == 200
        assert_same(answer, expected(model, tokenizer, history, top_k=top_k, exclude_items=history[:1]))
    status, headers, text = ask(port, path="/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    assert 'tsrec_requests_total{route="/",status="200"} 128.0' in text
    assert "tsrec_batch_users_sum 128.0" in text and "tsrec_items 8.0" in text and "tsrec_waiting_users 0.0" in text
    # Some were searched together.
    assert float(re.search(r"tsrec_batch_users_count (\S+)", text)[1]) < 128


def test_the_form_is_that_of_the_handler(serve, model, tokenizer):
    port = serve()
    _, _, several = ask(port, "POST", data={"inputs": [["hammer"], ["apple"]], "parameters": {"top_k": 2}})
    for history, answer in zip((["hammer"], ["apple"]), several):
        assert_same(answer, expected(model, tokenizer, history, top_k=2))
    assert ask(port)[0] == 405 and ask(port, path="/health")[::2] == (200, {"ready": True})


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        ("{", 400, "a request in JSON"),
        ("[" * 100_000, 413, "at most 10000 bytes"),
        ("[" * 9_999, 400, "a request in JSON|as an object"),
        ({"inputs": []}, 400, "`inputs` with item ids"),
        ({"inputs": ["anvil"]}, 400, "'anvil'"),
        ({"inputs": ["nail"], "parameters": {"top_k": "5"}}, 400, "`top_k` as a whole number"),
        ({"inputs": ["nail"], "parameters": {"batch_size": 1}}, 400, "`parameters` among"),
    ],
)
def test_bad_requests_are_told_what_to_send(serve, data, status, words):
    found, _, answer = ask(serve(max_request_bytes=10_000), "POST", data=data)
    assert found == status and set(answer) == {"error"} and re.search(words, answer["error"])


def test_too_many_requests_get_a_503(serve, model, tokenizer, monkeypatch):
    gate, recommend = threading.Event(), type(model).recommend
    monkeypatch.setattr(
        type(model), "recommend", lambda *args, **options: (gate.wait(), recommend(*args, **options))[1]
    )
    monkeypatch.setattr(sys.modules["tsrec_hf.models.handler"], "client_parameters", lambda _: [])
    monkeypatch.setattr("tsrec_hf.serving.batching.client_parameters", lambda _: [])
    port = serve(max_waiting=1, max_delay_ms=0)
    with ThreadPoolExecutor(8) as clients:
        futures = [clients.submit(ask, port, "POST", data={"inputs": ["nail"]}) for _ in range(8)]
        while sum(future.done() for future in futures) < 6:  # one is searched, one waits
            time.sleep(0.005)
        assert ask(port, path="/health")[0] == 200
        gate.set()
        answers = [future.result() for future in futures]
    refused = [(headers, answer) for status, headers, answer in answers if status == 503]
    assert len(refused) == 6 and sum(status == 200 for status, _, _ in answers) == 2
    assert all(headers["Retry-After"] == "1" and "at most 1 may" in answer["error"] for headers, answer in refused)


def test_items_are_added_and_removed_while_it_runs(serve, tokenizer):
    port = serve()
    data = {"item_ids": ["axe"], "sids": ["<a_1><b_2><c_0>"], "titles": ["sharp axe"]}
    only = {"inputs": ["axe"], "parameters": {"allowed_items": ["axe"]}}
    assert ask(port, "POST", data=only)[0] == 400
    assert ask(port, "POST", "/items", data, TOKEN)[::2] == (200, {"items": 9})
    [item] = ask(port, "POST", data=only)[2]
    assert item["item_id"] == "axe" and item["title"] == "sharp axe" and item["sid"] == "<a_1><b_2><c_0>"
    assert "tsrec_items 9.0" in ask(port, path="/metrics")[2]
    assert ask(port, "DELETE", "/items", {"item_ids": ["axe"]}, TOKEN)[::2] == (200, {"items": 8})
    assert ask(port, "POST", data=only)[0] == 400


@pytest.mark.parametrize(
    ("method", "data", "headers", "status", "words"),
    [
        ("POST", {"item_ids": ["axe"], "sids": ["<a_1><b_2><c_0>"]}, {}, 401, "Authorization: Bearer"),
        ("DELETE", {"item_ids": ["nail"]}, {"Authorization": "Bearer guess"}, 401, "Authorization: Bearer"),
        ("POST", {"item_ids": ["nail"], "sids": ["<a_1><b_2><c_0>"]}, TOKEN, 400, "nail"),
        ("POST", {"item_ids": ["axe"], "sids": ["<a_7><b_2><c_0>"]}, TOKEN, 400, "<a_7>"),
        ("POST", {"item_ids": ["axe"]}, TOKEN, 400, "item_ids, sids, and perhaps titles. Found .'item_ids'."),
        ("DELETE", {"item_ids": [1]}, TOKEN, 400, "lists of strings"),
        ("DELETE", ["nail"], TOKEN, 400, "Found list"),
        ("DELETE", {"item_ids": ["anvil"]}, TOKEN, 400, "anvil"),
    ],
)
def test_the_catalogue_is_changed_by_its_owner_alone(serve, tokenizer, method, data, headers, status, words):
    before = tokenizer.sid_index
    found, _, answer = ask(serve(), method, "/items", data, headers)
    assert found == status and re.search(words, answer["error"]) and tokenizer.sid_index is before


def test_without_a_token_nobody_changes_it(serve, monkeypatch):
    monkeypatch.delenv("TSREC_ITEMS_TOKEN")
    status, _, answer = ask(serve(), "DELETE", "/items", {"item_ids": ["nail"]}, {"Authorization": "Bearer "})
    assert status == 403 and "TSREC_ITEMS_TOKEN" in answer["error"]


def test_paths_that_strangers_invent_are_one_series(serve):
    port = serve()
    assert [ask(port, path=f"/{number}")[0] for number in range(3)] == [404] * 3
    text = ask(port, path="/metrics")[2]
    assert 'tsrec_requests_total{route="unknown",status="404"} 3.0' in text and "/1" not in text


@pytest.mark.slow
def test_a_stop_answers_what_was_asked(model, tokenizer, tmp_path):
    """As pasted from the command line, with a signal in the middle of the load."""
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(APP), "--model_name_or_path", str(tmp_path), "--port", str(port)]
    # Nothing is searched before the stop: the batch is not full, and its time not over.
    command += ["--max_delay_ms", "20000", "--max_batch_size", "100"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while True:
            try:
                if ask(port, path="/health")[0] == 200:
                    break
            except OSError:
                assert server.poll() is None, server.stderr.read()
                time.sleep(0.1)
        with ThreadPoolExecutor(20) as clients:
            futures = [clients.submit(ask, port, "POST", data={"inputs": ["nail"]}) for _ in range(20)]
            while "tsrec_waiting_users 20.0" not in ask(port, path="/metrics")[2]:
                time.sleep(0.02)
            server.send_signal(signal.SIGTERM)
            answers = [future.result(timeout=60) for future in futures]
        wanted = expected(model, tokenizer, ["nail"])
        for status, _, answer in answers:
            assert status == 200
            assert_same(answer, wanted)
        server.wait(timeout=60)
        with pytest.raises(OSError):
            ask(port, path="/health")
    finally:
        server.kill()
        server.wait()
