"""A stand-in for the endpoints of the Hugging Face Hub that huggingface_hub calls for bundles.

It implements what the client of the tested version requests, not the Hub: no accounts, no LFS, no Xet.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class HubStandIn:
    """Repositories by name, each with commits and branches.

    Attributes:
        requests: Method, path and Range header of each request.
        cut: Paths of files of which only the first half is sent.
        cut_once: The same, for the first request only.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Files]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut: set[str] = set()
        self.cut_once: set[str] = set()
        self.url = ""

    def commit(self, name: str, files: Files, branch: str = "main") -> str:
        """Add a commit, and return its id."""
        listed = json.dumps({path: hashlib.sha256(data).hexdigest() for path, data in files.items()})
        commits = self.commits.setdefault(name, {})
        sha = hashlib.sha1(f"{len(commits)} {listed}".encode()).hexdigest()
        commits[sha] = files
        self.branches.setdefault(name, {})[branch] = sha
        return sha

    def resolve(self, name: str, revision: str) -> str | None:
        """Return the commit of a revision."""
        known = self.branches.get(name, {}).get(revision, revision)
        return known if known in self.commits.get(name, {}) else None

    def files(self, name: str) -> Files:
        """Return the files of the branch main."""
        return self.commits[name][self.branches[name]["main"]]


def files_of(folder: Path) -> Files:
    """Return the files of a folder, with those that the Hub adds."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return found | {"README.md": b"# A model card\n", ".gitattributes": b"*.bin filter=lfs\n"}


@contextmanager
def served() -> Iterator[HubStandIn]:
    """Serve an empty stand-in on the loopback interface."""
    hub = HubStandIn()

    class Handler(_Handler):
        stand_in = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run_python(
    words: list[str], hub: HubStandIn, home: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with the endpoint of a stand-in, which the client reads when it is imported."""
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "none", "HF_HUB_ETAG_TIMEOUT": "2"}
    return subprocess.run(
        [sys.executable, *words],
        env=os.environ | variables | environment,
        capture_output=True,
        text=True,
    )


class _Handler(BaseHTTPRequestHandler):
    stand_in: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._record()
        path = urlsplit(self.path).path
        if path == "/api/validate-yaml":
            return self._json({})
        if path == "/api/repos/create":
            made = json.loads(body)
            name = "/".join(filter(None, (made.get("organization"), made["name"])))
            if name in self.stand_in.commits:
                return self._json({"error": "exists", "url": f"{self.stand_in.url}/{name}"}, 409)
            self.stand_in.commit(name, {".gitattributes": b""})
            return self._json({"url": f"{self.stand_in.url}/{name}"})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/(.+)", path)
        if found is None:
            return self._json({"error": "unknown"}, 404)
        name, what, revision = found[1], found[2], unquote(found[3])
        if what == "preupload":
            names = [each["path"] for each in json.loads(body)["files"]]
            modes = [{"path": each, "uploadMode": "regular", "shouldIgnore": False} for each in names]
            return self._json({"files": modes})
        base = self.stand_in.resolve(name, revision)
        assert base is not None
        files = dict(self.stand_in.commits[name][base])
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.stand_in.commit(name, files, revision)
        return self._json({"commitUrl": f"{self.stand_in.url}/{name}/commit/{sha}", "commitOid": sha})

    def _respond(self) -> None:
        self._record()
        path = urlsplit(self.path).path
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            name, what, revision = found[1], found[2], unquote(found[3] or "main")
            if (sha := self.stand_in.resolve(name, revision)) is None:
                return self._missing(name)
            files = self.stand_in.commits[name][sha]
            if what == "tree":
                return self._json(
                    [
                        {"type": "file", "path": each, "size": len(data), "oid": _oid(data)}
                        for each, data in files.items()
                    ]
                )
            return self._json({"id": name, "sha": sha, "siblings": [{"rfilename": each} for each in files]})
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        sha = found and self.stand_in.resolve(found[1], unquote(found[2]))
        if not found or not sha:
            return self._missing(found[1] if found else "")
        data = self.stand_in.commits[found[1]][sha].get(unquote(found[3]))
        if data is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        first = 0
        if wanted := self.headers.get("Range"):
            first = int(wanted.removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        cut = self.command == "GET" and found[3] in self.stand_in.cut | self.stand_in.cut_once
        if cut:
            self.stand_in.cut_once.discard(found[3])
        return self._send(206 if wanted else 200, data[first:], headers, cut=cut)

    def _missing(self, name: str) -> None:
        kind = "RevisionNotFound" if name in self.stand_in.commits else "RepoNotFound"
        self._send(404, b"{}", {"X-Error-Code": kind})

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True

    def _record(self) -> None:
        self.stand_in.requests.append((self.command, unquote(self.path), self.headers.get("Range")))


def _oid(data: bytes) -> str:
    """Return the id that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
