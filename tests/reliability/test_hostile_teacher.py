"""A hostile teacher on the loopback: floods, drips, packed bombs and odd answers are that token's failure."""

import gzip
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tsrec_hf.semantics import InferenceClientTeacher, answer_limits


CLUSTERS = {"<a_0>": [{"item_id": "0", "title": "steel nail"}], "<a_1>": [{"item_id": "1", "title": "rye bread"}]}
GOOD = json.dumps({"description": "Things.", "keywords": [f"word {number}" for number in range(15)]})


def chat(content) -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    return json.dumps({"id": "1", "object": "c", "created": 0, "model": "m", "choices": [choice]}).encode()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.encodings.append(self.headers["Accept-Encoding"])
        try:
            (self.server.attack if "steel nail" in body else Handler.answer)(self)
        except OSError:
            pass  # the client has had enough

    def answer(self, content: bytes = chat(GOOD), status: int = 200, length: int | None = None, **headers) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def flood(self) -> None:
        self.answer(b" " * 1000, length=1 << 40)
        while True:
            self.wfile.write(b" " * 100_000)

    def flood_of_an_error(self) -> None:
        self.answer(b" " * 1000, status=500, length=1 << 40)
        while True:
            self.wfile.write(b" " * 100_000)

    def drip(self) -> None:
        self.answer(b"", length=1 << 20)
        while not self.server.closing.wait(0.05):
            self.wfile.write(b" ")

    def drip_of_headers(self) -> None:
        self.send_response(200)
        self.flush_headers()
        while not self.server.closing.wait(0.05):
            self.wfile.write(b"X-Drop: 1\r\n")

    def bomb(self) -> None:
        self.answer(gzip.compress(b" " * 50_000_000), Content_Encoding="gzip")

    def log_message(self, *args) -> None:
        pass


ATTACKS = {
    "a flood": Handler.flood,
    "a flood as an error": Handler.flood_of_an_error,
    "a drip": Handler.drip,
    "a drip of headers": Handler.drip_of_headers,
    "a packed bomb": Handler.bomb,
    "nothing": lambda self: self.answer(b""),
    "no protocol": lambda self: self.wfile.write(b"\x00\x01\x02"),
    "half an answer": lambda self: self.answer(chat(GOOD)[:50], length=5000),
    "a list": lambda self: self.answer(chat([{"type": "text", "text": GOOD}])),
    "a number": lambda self: self.answer(chat(3)),
    "an object": lambda self: self.answer(chat({"a": 1})),
    "half a surrogate pair": lambda self: self.answer(chat('{"description": "\ud83d", "keywords": ["\ud83d"]}')),
    "deep JSON": lambda self: self.answer(chat("[" * 50_000)),
    "a deep body": lambda self: self.answer(b"[" * 50_000),
    "no choices": lambda self: self.answer(json.dumps({"choices": []}).encode()),
    "null": lambda self: self.answer(b"null"),
    "latin-1": lambda self: self.answer(b"\xff\xfe\xe9"),
    "a page": lambda self: self.answer(b"<html>sign in</html>", Content_Type="text/html"),
    "a redirect to itself": lambda self: self.answer(b"", status=307, Location=self.path),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_one_hostile_answer_is_that_tokens_failure(tmp_path, monkeypatch, name: str) -> None:
    monkeypatch.setattr(answer_limits, "MOST_BYTES", 1 << 20)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.attack = True, ATTACKS[name]
    server.closing, server.encodings = threading.Event(), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    started = time.monotonic()
    try:
        teacher = InferenceClientTeacher(
            "m",
            base_url=server_url(server),
            cache_file=tmp_path / "answers.jsonl",
            timeout=1.5,
            max_tries=1,
            max_retries=0,
        )
        described = teacher.describe(CLUSTERS)
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
    assert described["<a_1>"].description == "Things." and described["<a_1>"].provenance["model"] == "m"
    assert described["<a_0>"].provenance["teacher"] == "KeywordTeacher" and teacher.report.fallbacks == ["<a_0>"]
    assert set(server.encodings) == {"identity"}
    # No hang: the time-out is of the whole answer. The bound is generous to busy machines.
    assert time.monotonic() - started < 30
    # What is kept of it can be read again.
    again = InferenceClientTeacher("m", base_url=server_url(server), cache_file=tmp_path / "answers.jsonl")
    assert len(again.cache) <= 2


def server_url(server) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"
