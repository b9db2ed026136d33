"""
A small Hub on the loopback: repositories, commits, branches, large files, gates. As much of the Hub's protocol as
`huggingface_hub` speaks when it creates, uploads and downloads.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import transformers
from huggingface_hub import constants


class FakeHub(ThreadingHTTPServer):
    """`hub.repos[repo_id][branch][path]` are the bytes of a file; repositories in `hub.gated` ask for access."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.gated: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def commit_of(self, repo_id: str, branch: str) -> str:
        """A name of what a branch holds."""
        content = hashlib.sha1()
        for path, data in sorted(self.repos[repo_id][branch].items()):
            content.update(path.encode() + hashlib.sha1(data).digest())
        return content.hexdigest()

    def branch(self, repo_id: str, revision: str) -> str | None:
        """The branch that a revision names, by its name or by its commit."""
        branches = self.repos[repo_id]
        return next((name for name in branches if revision in (name, self.commit_of(repo_id, name))), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._route("GET")

    def do_HEAD(self):
        self._route("HEAD")

    def do_POST(self):
        self._route("POST")

    def do_PUT(self):
        self._route("PUT")

    def _route(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{method} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for verb, pattern, handle in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and (verb == method or (verb == "GET" and method == "HEAD")):
                return handle(self, **match.groupdict())
        self._answer(404, {"error": f"no such route: {method} {path}"})

    def _answer(self, status: int, content=None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str, words: str) -> None:
        self._answer(status, {"error": words}, {"X-Error-Code": code, "X-Error-Message": words})

    def _find(self, repo: str, revision: str) -> str | None:
        """The branch, or `None` after a refusal."""
        if repo not in self.server.repos:
            return self._refuse(401, "RepoNotFound", f"Repository {repo} was not found on this Hub.")
        if repo in self.server.gated and not self.headers.get("Authorization"):
            return self._refuse(403, "GatedRepo", f"Access to model {repo} is restricted: ask its authors for access.")
        branch = self.server.branch(repo, revision)
        if branch is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return branch

    def whoami(self):
        self._answer(200, {"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token"}})

    def create(self):
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if repo in self.server.repos:
            return self._answer(409, {"error": "exists", "url": f"{self.server.url}/{repo}", "id": repo})
        self.server.repos[repo] = {"main": {}}
        self._answer(200, {"url": f"{self.server.url}/{repo}", "id": repo, "name": repo})

    def validate_yaml(self):
        self._answer(200, {"errors": [], "warnings": []})

    def create_branch(self, repo, branch):
        if branch in self.server.repos[repo]:
            return self._answer(409, {"error": "exists"})
        self.server.repos[repo][branch] = dict(self.server.repos[repo]["main"])
        self._answer(200, {})

    def preupload(self, repo, revision):
        # Weights and indices go the way of large files, as on the Hub.
        files = json.loads(self.body)["files"]
        mode = {file["path"]: "lfs" if file["path"].endswith(".safetensors") else "regular" for file in files}
        self._answer(
            200,
            {"files": [{"path": path, "uploadMode": way, "shouldIgnore": False} for path, way in mode.items()]},
        )

    def lfs_batch(self, repo):
        objects = json.loads(self.body)["objects"]
        for item in objects:
            item["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}", "header": {}}}
        self._answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        self.server.blobs[oid] = self.body
        self._answer(200, {})

    def commit(self, repo, revision):
        files = self.server.repos[repo][revision]
        for line in self.body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        oid = self.server.commit_of(repo, revision)
        self._answer(200, {"commitUrl": f"{self.server.url}/{repo}/commit/{oid}", "commitOid": oid, "success": True})

    def info(self, repo, revision="main"):
        branch = self._find(repo, revision)
        if branch is not None:
            siblings = [{"rfilename": path} for path in self.server.repos[repo][branch]]
            sha = self.server.commit_of(repo, branch)
            self._answer(200, {"id": repo, "modelId": repo, "sha": sha, "siblings": siblings, "tags": []})

    def tree(self, repo, revision, folder=""):
        branch = self._find(repo, revision)
        if branch is not None:
            files = self.server.repos[repo][branch]
            self._answer(
                200,
                [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in files.items()
                    if path.startswith(folder)
                ],
            )

    def resolve(self, repo, revision, path):
        branch = self._find(repo, revision)
        if branch is None:
            return
        data = self.server.repos[repo][branch].get(path)
        commit = {"X-Repo-Commit": self.server.commit_of(repo, branch)}
        if data is None:
            return self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", **commit})
        self._answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', **commit})


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", rf"/api/models/{_REPO}/branch/(?P<branch>.+)", _Handler.create_branch),
    ("POST", rf"/api/models/{_REPO}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"/api/models/{_REPO}/commit/(?P<revision>.+)", _Handler.commit),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", _Handler.lfs_put),
    ("GET", rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)/?(?P<folder>.*)", _Handler.tree),
    ("GET", rf"/api/models/{_REPO}/revision/(?P<revision>.+)", _Handler.info),
    ("GET", rf"/api/models/{_REPO}", _Handler.info),
    ("GET", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty Hub in the place of the real one, with an empty cache and a token."""
    fake = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", fake.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", fake.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", fake.url)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # made with the endpoint of its time
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield fake
    fake.close()
