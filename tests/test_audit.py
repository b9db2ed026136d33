"""The step of `make quality` that asks for known vulnerabilities, against a service on the loopback."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"
FOUND = {
    "id": "GHSA-0000",
    "aliases": ["CVE-2026-0000"],
    "summary": "made up",
    "affected": [
        {
            "package": {"name": "packaging", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
        }
    ],
}


class Service(BaseHTTPRequestHandler):
    vulnerable: tuple[str, ...] = ()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = asked["package"]["name"]
        body = json.dumps({"vulns": [FOUND]} if name in self.vulnerable else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def service(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/query"
    server.shutdown()
    server.server_close()


def audit(url: str, tmp_path: Path, *more: str) -> subprocess.CompletedProcess:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("packaging==20.0\nfilelock==3.0\n", encoding="utf-8")
    line = [sys.executable, str(SCRIPT), "-s", "osv", "--osv-url", url, "-r", str(requirements), "--no-deps"]
    cache = ["--disable-pip", "--cache-dir", str(tmp_path / "cache")]
    return subprocess.run([*line, *cache, *more], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("vulnerable", [(), ("packaging",)])
def test_fails_for_a_known_vulnerability_only(service, tmp_path, monkeypatch, vulnerable):
    monkeypatch.setattr(Service, "vulnerable", vulnerable)
    ended = audit(service, tmp_path)
    assert ended.stdout == "Audited 2 of 2 packages, the ones that the service knows.\n"
    assert ended.returncode == len(vulnerable), ended.stderr
    told = "packaging 20.0: CVE-2026-0000, GHSA-0000; fixed in 99.1.\n"
    assert ended.stderr == (told if vulnerable else "")


def test_passes_a_vulnerability_that_is_ignored_by_name(service, tmp_path, monkeypatch):
    monkeypatch.setattr(Service, "vulnerable", ("packaging",))
    assert audit(service, tmp_path, "--ignore-vuln", "CVE-2026-0000").returncode == 0


def test_says_that_nothing_was_audited_when_the_service_does_not_answer(tmp_path):
    ended = audit("http://127.0.0.1:9/query", tmp_path)
    assert ended.returncode == 0
    assert ended.stdout.startswith("Not audited: the service of known vulnerabilities did not answer (")
    assert "refused" in ended.stdout


@pytest.mark.parametrize(
    ("more", "told"), [(["--no-such-option"], "--no-such-option"), (["-r", "no-such-file.txt"], "no-such-file.txt")]
)
def test_what_is_not_the_services_fault_fails(service, tmp_path, more, told):
    ended = audit(service, tmp_path, *more)
    assert ended.returncode != 0 and told in ended.stderr


def test_an_answer_that_is_no_json_is_told(service, tmp_path, monkeypatch):
    monkeypatch.setattr(json, "dumps", lambda answer: "<html>")
    ended = audit(service, tmp_path)
    assert ended.returncode == 0 and ended.stdout.startswith("Not audited")
