"""Metadata is compressed if the server supports it, and a compressed answer bypasses no limit."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from jepa_runtime.errors import CodedError, FetchError, TrustError
from jepa_runtime.ota.transport.fetch import fetch_bytes
from jepa_runtime.ota.transport.http_source import HttpSource
from tests.errors import code
from tests.ota.downloads import LIMITS, QUICK, fetch
from tests.ota.servers import Fault, FaultServer, Request

CONTENT = json.dumps({"signed": list(range(5000))}).encode()
NAME = "metadata.json"


@pytest.fixture
def served(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    return folder


def compressed(change: object = None, *, size: int | None = None) -> Fault:
    """Answer with gzip if requested, as nginx does."""

    def act(request: Request, content: bytes) -> None:
        if request.headers.get("Accept-Encoding") != "gzip":
            request.send(request.head_of(content))
            return
        body = gzip.compress(content) if change is None else change(content)  # type: ignore[operator]
        request.head(200, Content_Length=len(body) if size is None else size, Content_Encoding="gzip")
        request.send(body)

    return act


def read(server: FaultServer, *, max_bytes: int = len(CONTENT), limits: object = LIMITS) -> bytes:
    source = HttpSource(server.url, limits)  # type: ignore[arg-type]
    return fetch_bytes(source, NAME, max_bytes=max_bytes, limits=limits)  # type: ignore[arg-type]


def test_compressed_metadata_is_read(server: FaultServer) -> None:
    sent: list[int] = []
    server.faults[NAME] = compressed(lambda content: sent.append(1) or gzip.compress(content))
    assert read(server) == CONTENT and sent == [1]
    server.faults.clear()
    assert read(server) == CONTENT


def test_large_files_are_requested_uncompressed_and_resumed(
    server: FaultServer, served: Path, part: Path
) -> None:
    (served / "weights.bin").write_bytes(CONTENT)
    server.faults["weights.bin"] = compressed()
    part.write_bytes(CONTENT[:1000])
    fetch(HttpSource(server.url, LIMITS), part, CONTENT, "weights.bin")
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        (lambda _: b"no gzip at all", FetchError, "http.invalid_gzip"),
        (lambda content: gzip.compress(content)[:-20], FetchError, "http.invalid_gzip"),
        (lambda _: gzip.compress(b"\0" * (1 << 26)), TrustError, "trust.too_long"),
    ],
    ids=["not compressed", "cut", "bomb"],
)
def test_malformed_compressed_answer_is_an_error(
    server: FaultServer, change: object, error: type[CodedError], expected: str
) -> None:
    server.faults[NAME] = compressed(change)
    with pytest.raises(error, check=code(expected)):
        read(server)


def test_compressed_answer_without_output_ends_early(server: FaultServer) -> None:
    """Send a gzip header with an endless name."""

    def drip(request: Request, _: bytes) -> None:
        request.head(200, Content_Length=1 << 30, Content_Encoding="gzip")
        request.send(bytes([31, 139, 8, 8, 0, 0, 0, 0, 0, 3]))
        while not request.wait(0.02):
            request.send(b"a")

    server.faults[NAME] = drip
    with pytest.raises(FetchError, check=code("http.read_timeout")):
        read(server, limits=QUICK)
