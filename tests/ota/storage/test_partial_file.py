"""Partial downloads on a full or failing disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa_runtime.errors import FetchError, StorageError
from jepa_runtime.ota.storage.partial_file import PartialFile
from jepa_runtime.ota.transport.http_source import HttpSource
from jepa_runtime.ota.transport.repository_sources import FolderSource, Limits
from tests.errors import code
from tests.ota import servers
from tests.ota.downloads import LARGE, LIMITS, SMALL, fetch
from tests.ota.servers import FaultServer


def test_disk_without_enough_space_is_reported_before_the_request(server: FaultServer, part: Path) -> None:
    limits = Limits(free_bytes=1 << 60)
    with pytest.raises(StorageError, match=r"5\.3 MB", check=code("storage.full")):
        fetch(HttpSource(server.url, limits), part, LARGE, "large", limits)
    assert server.requests == [] and not part.exists()


def test_disk_full_at_the_second_attempt_keeps_the_received_bytes(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.first(1, servers.cut(60_000))
    with pytest.raises(FetchError):
        fetch(HttpSource(server.url, LIMITS), part, SMALL, "small")
    with pytest.raises(StorageError):
        fetch(HttpSource(server.url, LIMITS), part, SMALL, "small", Limits(free_bytes=1 << 60))
    fetch(HttpSource(server.url, LIMITS), part, SMALL, "small")
    assert server.requests[-1] == ("small", "bytes=60000-")


@pytest.mark.parametrize("call", ["fsync", "pwrite", "posix_fallocate", "ftruncate", "pread"])
def test_part_after_a_disk_error_is_removed(
    served: Path, part: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with PartialFile(part, len(SMALL), free_bytes=0) as file:
        file.write(SMALL[:1000])
        file.sync()

    real = getattr(os, call)

    def fail(fd: int, *rest: int) -> object:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return real(fd, *rest)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError, match="Input/output error", check=code("storage.disk_error")):
        fetch(FolderSource(served), part, SMALL, "small")
    assert not part.exists()


def test_part_counts_only_synced_bytes(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def telling(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return real(*arguments)

        return call

    with PartialFile(part, 10, free_bytes=0) as file:
        for name in ("pwrite", "fsync", "ftruncate"):
            monkeypatch.setattr(os, name, telling(name, getattr(os, name)))
        file.write(b"12345")
        file.sync()
        file.write(b"67890")
        file.finish()
    # The second sync confirms the bytes, and finally the length.
    assert calls == ["pwrite", "fsync", "pwrite", "pwrite", "fsync", "ftruncate", "fsync"]
    assert part.read_bytes() == b"1234567890"


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_part_that_is_not_a_regular_file_is_untouched(served: Path, part: Path, what: str) -> None:
    other = served / "other"
    other.write_bytes(b"mine")
    if what == "link":
        part.symlink_to(other)
    elif what == "pipe":
        os.mkfifo(part)
    else:
        part.mkdir()
    with pytest.raises(StorageError):
        fetch(FolderSource(served), part, SMALL, "small")
    assert other.read_bytes() == b"mine"
