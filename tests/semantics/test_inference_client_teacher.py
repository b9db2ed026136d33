"""`InferenceClientTeacher` against a server on the loopback that also fails, stalls and talks nonsense."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tsrec_hf.semantics import InferenceClientTeacher


CLUSTERS = {f"<a_{number}>": [{"item_id": f"{number}", "title": f"Thing number{number}"}] for number in range(6)}
STALL = object()


def good(name: str = "things") -> str:
    return json.dumps({"description": f"About {name}.", "keywords": [f"{name} {number}" for number in range(15)]})


def chat(content) -> dict:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


class Server(ThreadingHTTPServer):
    """Answers request `n` about a thing by `script(thing, n)`: a string, a body, (status, headers) or `STALL`."""

    daemon_threads = True

    def __init__(self, script) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.requests: list[dict] = []
        self.tries: dict[str, int] = {}
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        thing = body["messages"][0]["content"].split("Thing number")[1][0]
        with server.lock:
            attempt = server.tries[thing] = server.tries.get(thing, 0) + 1
            server.requests.append(
                {"path": self.path, "headers": {name.lower(): value for name, value in self.headers.items()}, **body}
            )
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        answer = server.script(thing, attempt)
        with server.lock:
            server.under_way -= 1
        if answer is STALL:
            server.closing.wait(20)
            return
        status, headers, content = 200, {}, answer
        if isinstance(answer, tuple):
            (status, headers), content = answer, {"error": "not now"}
        elif isinstance(answer, str | None):
            content = chat(answer)
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def serve(monkeypatch):
    """Starts servers: `server, teacher = serve(script, **settings of the teacher)`."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def start(script, **kwargs):
        server = Server(script)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        settings = {"base_url": server.url, "timeout": 5.0, "backoff": 0.01, "max_backoff": 0.05, "concurrency": 3}
        return server, InferenceClientTeacher("m", **{**settings, **kwargs})

    yield start
    for server in servers:
        server.closing.set()
        server.shutdown()
        server.server_close()


def test_the_request_says_all_that_decides_the_answer(serve, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_the_hub")
    server, teacher = serve(lambda thing, attempt: good(), temperature=0.5, max_tokens=99, extra_body={"top_k": 7})
    described = teacher.describe(CLUSTERS)
    assert {meaning.description for meaning in described.values()} == {"About things."}
    assert list(described) == list(CLUSTERS)
    assert described["<a_2>"].provenance["teacher"] == "InferenceClientTeacher"
    assert described["<a_2>"].provenance["model"] == "m"
    for request in server.requests:
        assert request["path"] == "/v1/chat/completions"
        assert (request["model"], request["temperature"], request["max_tokens"]) == ("m", 0.5, 99)
        assert request["top_k"] == 7 and not request["stream"]
        # The Hub's token is for the Hub.
        assert "hf_secret" not in json.dumps(request["headers"])
    _, teacher = serve(lambda thing, attempt: good())
    assert teacher.identity()["temperature"] == 0.0


def test_a_token_that_is_passed_is_sent(serve) -> None:
    server, teacher = serve(lambda thing, attempt: good(), token="key-1")
    teacher.describe(CLUSTERS)
    assert {request["headers"]["authorization"] for request in server.requests} == {"Bearer key-1"}


def test_no_more_requests_at_once_than_allowed(serve) -> None:
    def script(thing, attempt):
        time.sleep(0.1)
        return good()

    server, teacher = serve(script, concurrency=2)
    teacher.describe(CLUSTERS)
    assert server.most_under_way == 2 and len(server.requests) == 6


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"Retry-After": "0"}),
        (500, {}),
        (503, {"Retry-After": "Wed, 21 Oct 2065 07:28:00 GMT"}),
        b"<html>starting up</html>",
        b"\xff\xfe",
        b"",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        b'"text"',
    ],
    ids=str,
)
def test_passing_trouble_is_waited_out(serve, trouble) -> None:
    server, teacher = serve(lambda thing, attempt: trouble if attempt <= 2 else good(thing))
    described = teacher.describe(CLUSTERS)
    assert [meaning.description for meaning in described.values()] == [f"About {n}." for n in range(6)]
    assert server.tries == {str(n): 3 for n in range(6)}
    assert (teacher.report.asked, teacher.report.unanswered, teacher.report.bad_answers) == (6, 0, 0)


def test_a_server_that_stalls_is_given_up(serve) -> None:
    server, teacher = serve(
        lambda thing, attempt: STALL if thing == "4" or attempt == 1 and thing == "1" else good(),
        timeout=0.3,
        max_tries=2,
        concurrency=6,
    )
    started = time.monotonic()
    described = teacher.describe(CLUSTERS)
    assert time.monotonic() - started < 5
    assert server.tries["1"] == server.tries["4"] == 2
    assert teacher.report.fallbacks == ["<a_4>"] and teacher.report.unanswered == 1
    assert described["<a_4>"].provenance["teacher"] == "KeywordTeacher"
    assert described["<a_1>"].description == "About things."


@pytest.mark.parametrize("nonsense", ["As a language model I cannot.", "", None, good()[:-9], "[" * 1000])
def test_answers_that_are_nonsense_are_asked_again_then_left(serve, nonsense) -> None:
    server, teacher = serve(lambda thing, attempt: nonsense if thing == "3" else good())
    described = teacher.describe(CLUSTERS)
    assert server.tries["3"] == 3 and server.tries["2"] == 1
    assert described["<a_3>"].provenance["num_bad_answers"] == 3
    assert (teacher.report.bad_answers, teacher.report.fallbacks) == (3, ["<a_3>"])


def test_a_refused_question_is_not_repeated(serve) -> None:
    server, teacher = serve(lambda thing, attempt: (400, {}) if thing == "0" else good())
    teacher.describe(CLUSTERS)
    assert server.tries["0"] == 1 and teacher.report.fallbacks == ["<a_0>"]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_name_stops_the_run(serve, status: int) -> None:
    server, teacher = serve(lambda thing, attempt: (status, {}), concurrency=1)
    with pytest.raises(ConnectionError, match=f"(?s)the server says {status}.*Check `token`, `base_url`"):
        teacher.describe(CLUSTERS)
    assert len(server.requests) <= 2


def test_a_dead_server_stops_the_run_and_the_next_one_goes_on(serve, tmp_path: Path) -> None:
    settings = {"max_tries": 2, "max_failures": 2, "concurrency": 1, "cache_file": tmp_path / "answers.jsonl"}
    server, teacher = serve(lambda thing, attempt: good() if thing in "012" else (500, {}), **settings)
    with pytest.raises(ConnectionError, match="2 questions in a row got none.*same `cache_file`"):
        teacher.describe(CLUSTERS)
    assert "5" not in server.tries or server.tries["5"] < 2
    server.script = lambda thing, attempt: good()
    server.tries.clear()
    settings["base_url"] = server.url
    _, again = serve(None, **settings)
    described = again.describe(CLUSTERS)
    assert (again.report.from_cache, again.report.asked, again.report.fallbacks) == (3, 3, [])
    assert sorted(server.tries) == ["3", "4", "5"] and len(described) == 6


def test_nobody_listens(serve) -> None:
    server, teacher = serve(None, max_tries=2, max_failures=1)
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match="1 questions in a row got none"):
        teacher.describe(CLUSTERS)


def test_offline_mode_is_said_at_once(serve, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    server, teacher = serve(lambda thing, attempt: good(), backoff=60.0, max_backoff=60.0)
    with pytest.raises(ConnectionError, match="offline mode"):
        teacher.describe(CLUSTERS)


def test_a_client_that_cannot_ask_says_so_at_once(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.inference._providers._common.get_token", lambda: None)
    with pytest.raises(ValueError, match="api_key"):
        InferenceClientTeacher("m", provider="together", backoff=60.0).describe(CLUSTERS)


def test_pauses_double_and_are_drawn_at_random(serve, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr("random.uniform", lambda low, high: drawn.append((low, high)) or 0.0)
    _, teacher = serve(lambda thing, attempt: good() if attempt == 5 else (503, {}), backoff=1.0, max_backoff=5.0)
    teacher.describe({"<a_0>": CLUSTERS["<a_0>"]})
    assert drawn == [(0, 1), (0, 2), (0, 4), (0, 5), (0, 5)]


def test_the_server_may_ask_for_a_longer_pause(serve) -> None:
    _, teacher = serve(
        lambda thing, attempt: good() if attempt == 2 else (429, {"Retry-After": "1"}), backoff=0.0, max_backoff=0.4
    )
    started = time.monotonic()
    teacher.describe({"<a_0>": CLUSTERS["<a_0>"]})
    assert 0.4 <= time.monotonic() - started < 1  # as long as it asks for, within the limit


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="Expected the name of a model"):
        InferenceClientTeacher(base_url="http://127.0.0.1:1/v1")
    with pytest.raises(ValueError, match="either `provider` or `base_url`"):
        InferenceClientTeacher("m", provider="together", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(ValueError, match="`concurrency`, `max_tries`"):
        InferenceClientTeacher("m", concurrency=0)


def test_the_same_name_elsewhere_is_another_model() -> None:
    urls = ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1", None)
    assert len({json.dumps(InferenceClientTeacher("m", base_url=url).identity()) for url in urls}) == 3
