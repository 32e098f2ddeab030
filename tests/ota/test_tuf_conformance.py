"""The client under the conformance suite follows the command line that the suite specifies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests.ota.repositories import CONTENT, FILE, Repository
from tests.ota.servers import FaultServer

OTHER = "models/canary/toy/2.0/other file.bin"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "repository", now=datetime.now(timezone.utc))
    repository.add(OTHER, b"other", role="channel-canary")
    repository.publish("channel-canary")
    return repository


@pytest.fixture
def server(repository: Repository) -> Iterator[FaultServer]:
    with FaultServer(repository.folder) as server:
        yield server


class Client:
    def __init__(self, home: Path, server: FaultServer) -> None:
        self.meta = home / "meta"
        self.targets = home / "targets"
        self.meta.mkdir()
        self.targets.mkdir()
        self._url = server.url

    def run(self, *arguments: str | Path) -> int:
        command = [sys.executable, "-m", "jepa_runtime.ota.tuf_conformance", "--metadata-dir", self.meta]
        return subprocess.run([*command, *arguments], stdin=subprocess.DEVNULL).returncode

    def refresh(self) -> int:
        return self.run("--metadata-url", f"{self._url}/metadata", "refresh")

    def download(self, *names: str) -> int:
        expected = [argument for name in names for argument in ("--target-name", name)]
        where = ["--target-dir", self.targets, "--target-base-url", f"{self._url}/targets"]
        return self.run("--metadata-url", f"{self._url}/metadata", *expected, *where, "download")

    def downloaded(self) -> list[bytes]:
        return sorted(path.read_bytes() for path in self.targets.iterdir())


@pytest.fixture
def client(tmp_path: Path, server: FaultServer, repository: Repository) -> Client:
    client = Client(tmp_path, server)
    root = tmp_path / "initial_root.json"
    root.write_bytes(repository.first_root)
    assert client.run("init", root) == 0
    assert server.requests == []
    return client


def test_refresh_stores_the_exact_bytes_under_plain_names(client: Client, repository: Repository) -> None:
    assert client.refresh() == 0
    for role in ("root", "timestamp", "snapshot", "targets"):
        assert (client.meta / f"{role}.json").read_bytes() == repository.file(role).read_bytes()


def test_refresh_of_unsigned_metadata_fails_with_the_reason(
    client: Client, repository: Repository, capfd: pytest.CaptureFixture[str]
) -> None:
    repository.file("timestamp").write_bytes(b"{}")
    assert client.refresh() == 1
    assert "timestamp.json: not valid signed metadata" in capfd.readouterr().err


def test_download_fetches_files_in_order_and_once(client: Client, server: FaultServer) -> None:
    assert client.download(FILE, OTHER) == 0
    assert client.downloaded() == sorted([CONTENT, b"other"])
    assert client.download(FILE, OTHER) == 0
    fetched = [
        path.rpartition("/")[2].partition(".")[2] for path, _ in server.requests if "targets/m" in path
    ]
    assert fetched == ["encoder.bin", "other file.bin"]


def test_download_stops_at_the_first_unavailable_file(client: Client) -> None:
    assert client.download(OTHER, "models/stable/toy/1.0/none", FILE) == 1
    assert client.downloaded() == [b"other"]


def test_download_of_a_file_with_another_hash_is_not_stored(client: Client, repository: Repository) -> None:
    repository.stored(FILE).write_bytes(CONTENT[::-1])
    assert client.download(FILE) == 1
    assert client.downloaded() == []
