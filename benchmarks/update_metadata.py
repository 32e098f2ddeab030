"""Measure what one robot downloads at each step of a rollout and at each new release.

A repository gets --releases versions of the bundle. Then the client of a robot checks it over HTTP, again
after one more ``publish``, and after each of five ``rollout`` steps, as an update does: the signed metadata,
the pointer, and for a new release its manifest. Bytes are those of the response bodies.

    plain   a server that does not compress (python -m http.server)
    gzip    one that compresses JSON (nginx with gzip on)
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.parse import unquote

from rich.console import Console
from rich.table import Table

from jepa_export.release.keys import KeyRing
from jepa_export.release.publish import Terms, publish, rollout
from jepa_export.release.repository import Repository
from jepa_export.release.roles import Policy, init
from jepa_runtime.bundle import MAX_MANIFEST_BYTES, Bundle, seal
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.ota import MAX_POINTER_BYTES, parse_release, pointer_path
from jepa_runtime.ota.transport import HttpSource, Limits
from jepa_runtime.ota.trust import Floors, RepositoryTrust
from jepa_runtime.telemetry import package_versions
from jepa_runtime.util import write_json

ROOT = Path(__file__).resolve().parent.parent
STEPS = (20.0, 40.0, 60.0, 80.0, 100.0)
CHANNEL = "stable"


class Server(ThreadingHTTPServer):
    """HTTP server of a folder that counts the bytes of response bodies."""

    daemon_threads = True

    def __init__(self, folder: Path, *, compresses: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.compresses, self.sent = folder, compresses, 0


class Handler(BaseHTTPRequestHandler):
    """Request handler that returns a file, or 404."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path = self.server.folder / unquote(self.path.removeprefix("/"))
        content = path.read_bytes() if path.is_file() else b""
        self.send_response(200 if path.is_file() else 404)
        if self.server.compresses and "gzip" in self.headers.get("Accept-Encoding", "") and content:
            content = gzip.compress(content, 6)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.server.sent += len(content)
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Suppress the request log."""


class Robot:
    """The client of a robot, with its local state."""

    def __init__(self, repo: Path, home: Path, model_id: str, *, compresses: bool) -> None:
        self._root = (repo / "metadata" / "1.root.json").read_bytes()
        self._home, self._pointer, self._floors = home, pointer_path(CHANNEL, model_id), Floors({}, None)
        self.server = Server(repo, compresses=compresses)

    def check(self, *, installs: bool) -> int:
        """Check for an update and return the number of bytes that the server sent."""
        url, before = f"http://127.0.0.1:{self.server.server_port}", self.server.sent
        trust = RepositoryTrust(
            self._home,
            root=self._root,
            metadata=HttpSource(f"{url}/metadata", Limits()),
            targets=HttpSource(f"{url}/targets", Limits()),
            limits=Limits(),
            now=lambda: datetime.now(timezone.utc),
        )
        self._floors = trust.refresh(self._floors)
        release = parse_release(trust.read(self._pointer, MAX_POINTER_BYTES))
        if installs:
            trust.read(release.manifest_target, MAX_MANIFEST_BYTES)
        return self.server.sent - before


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        report = measure(arguments.bundle, sorted(arguments.releases))
    except JepaRuntimeError as error:
        print(f"update_metadata: {error}", file=sys.stderr)
        return 2
    write_json(arguments.json, report)
    show(report, Console())
    return 0


def measure(bundle: Path, numbers: Sequence[int]) -> dict[str, Any]:
    """Measure all numbers of releases and return the report.

    Raises:
        JepaRuntimeError: The bundle is not usable.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = Bundle.open(shutil.copytree(bundle, folder / "bundle"))
        keys, repo, made = KeyRing(folder / "keys"), folder / "repo", 0
        init(repo, keys, channels=[CHANNEL, "canary"], policy=Policy(), externals={})

        def release() -> None:
            nonlocal made
            made += 1
            changed = source.manifest.model_copy(update={"version": f"1.0.{made}"})
            with Repository.opened(repo, keys) as repository:
                publish(repository, seal(source.path, changed), Terms(channel=CHANNEL, percent=1.0, deltas=0))
            empty_weights(repo)

        for number in numbers:
            while made < number - 1:
                release()
            rows.append(row(folder / str(number), repo, keys, source.manifest.model_id, release))
            rows[-1]["releases"] = made
            print(f"{made} releases", flush=True)
    return {
        "bundle": {"id": source.manifest.model_id, "files": len(source.manifest.files) + 1},
        "steps": len(STEPS),
        "rows": rows,
        "machine": {"versions": package_versions()},
    }


def row(home: Path, repo: Path, keys: KeyRing, model_id: str, release: Any) -> dict[str, Any]:
    """Publish one more release, roll it out, and return what a robot downloads of each."""
    robots = {
        name: Robot(repo, home / name, model_id, compresses=name == "gzip") for name in ("plain", "gzip")
    }
    downloads: dict[str, Any] = {name: {} for name in robots}
    with serving(robots.values()):
        for robot in robots.values():
            robot.check(installs=True)
        release()
        for name, robot in robots.items():
            downloads[name]["new_release"] = robot.check(installs=True)
        steps: dict[str, list[int]] = {name: [] for name in robots}
        for percent in STEPS:
            with Repository.opened(repo, keys) as repository:
                rollout(repository, CHANNEL, model_id, percent)
            for name, robot in robots.items():
                steps[name].append(robot.check(installs=False))
        for name, robot in robots.items():
            downloads[name]["rollout_step"] = round(mean(steps[name]))
            downloads[name]["idle_check"] = robot.check(installs=False)
    metadata = [path.stat().st_size for path in (repo / "metadata").iterdir()]
    return downloads | {"publisher_metadata_bytes": sum(metadata), "publisher_metadata_files": len(metadata)}


@contextmanager
def serving(robots: Any) -> Iterator[None]:
    """Run the server of each robot until the end of the block."""
    for robot in robots:
        threading.Thread(target=robot.server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        for robot in robots:
            robot.server.shutdown()
            robot.server.server_close()


def empty_weights(repo: Path) -> None:
    """Empty the files that no robot downloads here, to save disk space."""
    for path in (repo / "targets").rglob("*"):
        if path.is_file() and path.suffix != ".json":
            path.write_bytes(b"")


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report as a table."""
    table = Table(title=f"bytes for one robot ({report['bundle']['files']} files a release)")
    table.add_column("releases", justify="right")
    names = [
        (server, event)
        for event in ("idle_check", "rollout_step", "new_release")
        for server in ("plain", "gzip")
    ]
    for server, event in names:
        table.add_column(f"{event.replace('_', ' ')}, {server}", justify="right")
    table.add_column("publisher's metadata, MB", justify="right")
    for row in report["rows"]:
        cells = [f"{row[server][event]:,}" for server, event in names]
        table.add_row(str(row["releases"]), *cells, f"{row['publisher_metadata_bytes'] / 1e6:.1f}")
    console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument("--releases", type=int, nargs="+", default=[10, 200, 500])
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "update_metadata.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
