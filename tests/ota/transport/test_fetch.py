"""Downloads are complete and valid or absent, for any server, link or disk fault."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_runtime.errors import FetchError, TrustError
from jepa_runtime.ota.storage.partial_file import SYNC_BYTES, PartialFile
from jepa_runtime.ota.transport.fetch import FetchBudget, fetch_bytes, fetch_file
from jepa_runtime.ota.transport.http_source import HttpSource
from jepa_runtime.ota.transport.repository_sources import Body, FolderSource, NotFoundError
from tests.errors import code
from tests.ota import servers
from tests.ota.downloads import LARGE, LIMITS, MIB, SMALL, fetch, has_content
from tests.ota.servers import FaultServer

# Downloads without faults.


def test_fetched_file_is_complete_and_alone_in_its_part(server: FaultServer, part: Path) -> None:
    seen: list[tuple[int, int]] = []
    fetch_file(
        HttpSource(server.url, LIMITS),
        "large",
        part,
        length=len(LARGE),
        verify=has_content(LARGE),
        budget=FetchBudget(LIMITS),
        progress=lambda done, of: seen.append((done, of)),
    )
    assert part.read_bytes() == LARGE
    assert seen == sorted(seen) and seen[-1] == (len(LARGE), len(LARGE))


def test_file_from_a_folder_is_fetched(served: Path, part: Path) -> None:
    fetch(FolderSource(served), part, LARGE, "large")
    assert part.read_bytes() == LARGE


def test_empty_file_is_fetched(served: Path, part: Path) -> None:
    (served / "empty").touch()
    fetch(FolderSource(served), part, b"", "empty")
    assert part.read_bytes() == b""


def test_file_without_a_content_length_is_fetched(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.chunked
    fetch(HttpSource(server.url, LIMITS), part, SMALL, "small")
    assert part.read_bytes() == SMALL


def test_complete_part_is_not_fetched_again(server: FaultServer, part: Path) -> None:
    source = HttpSource(server.url, LIMITS)
    fetch(source, part, SMALL, "small")
    fetch(source, part, SMALL, "small")
    assert server.requests == [("small", None)]


def test_several_files_share_one_connection(server: FaultServer, part: Path) -> None:
    source = HttpSource(server.url, LIMITS)
    threads = threading.active_count()
    for _ in range(3):
        assert fetch_bytes(source, "small", max_bytes=len(SMALL), limits=LIMITS) == SMALL
    assert threading.active_count() <= threads + 1


# Resumed downloads.


def test_cut_download_is_resumed_by_the_next_attempt(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.first(1, servers.cut(60_000))
    source = HttpSource(server.url, LIMITS)
    with pytest.raises(FetchError, check=code("http.connection_lost")):
        fetch(source, part, SMALL, "small")
    fetch(source, part, SMALL, "small")
    assert part.read_bytes() == SMALL
    assert server.requests == [("small", None), ("small", "bytes=60000-")]


def test_download_cut_after_much_data_is_resumed_immediately(server: FaultServer, part: Path) -> None:
    server.faults["large"] = servers.cut(2 * MIB)
    fetch(HttpSource(server.url, LIMITS), part, LARGE, "large")
    assert part.read_bytes() == LARGE
    assert [requests for _, requests in server.requests] == [None, f"bytes={2 * MIB}-", f"bytes={4 * MIB}-"]


def test_server_without_range_support_sends_the_whole_file_again(server: FaultServer, part: Path) -> None:
    source = HttpSource(server.url, LIMITS)
    server.faults["small"] = servers.cut(60_000)
    with pytest.raises(FetchError):
        fetch(source, part, SMALL, "small")
    server.faults["small"] = servers.whole
    fetch(source, part, SMALL, "small")
    assert part.read_bytes() == SMALL


def test_unsatisfiable_range_restarts_the_download(server: FaultServer, part: Path) -> None:
    source = HttpSource(server.url, LIMITS)
    server.faults["small"] = servers.cut(60_000)
    with pytest.raises(FetchError):
        fetch(source, part, SMALL, "small")
    server.faults["small"] = servers.first(1, servers.status(416))
    fetch(source, part, SMALL, "small")
    assert part.read_bytes() == SMALL
    assert [requests for _, requests in server.requests] == [None, "bytes=60000-", None]


def test_unrequested_range_is_rejected(server: FaultServer, part: Path) -> None:
    source = HttpSource(server.url, LIMITS)
    server.faults["small"] = servers.first(1, servers.cut(60_000))
    with pytest.raises(FetchError):
        fetch(source, part, SMALL, "small")
    server.faults["small"] = servers.shifted
    with pytest.raises(FetchError, check=code("http.wrong_range")):
        fetch(source, part, SMALL, "small")


def test_killed_process_loses_only_unsynced_bytes(served: Path, part: Path) -> None:
    class Dies(FolderSource):
        @contextmanager
        def open(self, path: str, offset: int = 0) -> Iterator[Body]:
            with super().open(path, offset) as body:
                yield _DiesAt(body, 5 * MIB)

    with pytest.raises(KeyboardInterrupt):
        fetch(Dies(served), part, LARGE, "large")
    with FaultServer(served) as server:
        fetch(HttpSource(server.url, LIMITS), part, LARGE, "large")
        assert server.requests == [("large", f"bytes={SYNC_BYTES}-")]
    assert part.read_bytes() == LARGE


class _DiesAt:
    def __init__(self, body: Body, at: int) -> None:
        self._body = body
        self._left = at
        self.offset = body.offset

    def read(self, n: int, /) -> bytes:
        if self._left <= 0:
            raise KeyboardInterrupt
        data = self._body.read(min(n, self._left))
        self._left -= len(data)
        return data


def test_disk_space_is_allocated_before_the_first_byte(server: FaultServer, part: Path) -> None:
    server.faults["large"] = servers.status(404)
    with pytest.raises(NotFoundError):
        fetch(HttpSource(server.url, LIMITS), part, LARGE, "large")
    assert part.stat().st_blocks * 512 >= len(LARGE)


@pytest.mark.parametrize("result", ["zeros where content was", "another file", "whole, but damaged"])
def test_resumed_part_is_verified_by_its_hash_alone(server: FaultServer, part: Path, result: str) -> None:
    if result == "zeros where content was":
        with PartialFile(part, len(SMALL), free_bytes=0) as file:
            file.write(bytes(60_000))
            file.sync()
    elif result == "another file":
        part.write_bytes(b"x" * 1234)
    else:
        part.write_bytes(SMALL[:-1] + b"!")
    fetch(HttpSource(server.url, LIMITS), part, SMALL, "small")
    assert part.read_bytes() == SMALL


# Content other than the signed one.


def test_file_with_another_hash_is_rejected_and_removed(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.instead(SMALL[::-1])
    with pytest.raises(TrustError, check=code("trust.hash_mismatch")):
        fetch(HttpSource(server.url, LIMITS), part, SMALL, "small")
    assert not part.exists()
    assert len(server.requests) == 1


def test_resumed_file_with_another_hash_is_fetched_once_more(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.first(1, servers.cut(60_000))
    source = HttpSource(server.url, LIMITS)
    with pytest.raises(FetchError):
        fetch(source, part, SMALL, "small")
    server.faults["small"] = servers.instead(SMALL[::-1])
    with pytest.raises(TrustError):
        fetch(source, part, SMALL, "small")
    assert [requests for _, requests in server.requests] == [None, "bytes=60000-", None]
    assert not part.exists()


def test_bytes_beyond_the_signed_length_are_rejected(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.endless
    with pytest.raises(TrustError):
        fetch(HttpSource(server.url, LIMITS), part, SMALL, "small")
    server.faults["small"] = servers.instead(SMALL + b"more")
    fetch(HttpSource(server.url, LIMITS), part, SMALL, "small")
    assert part.read_bytes() == SMALL


def test_bytes_beyond_the_announced_length_affect_neither_this_file_nor_the_next(server: FaultServer) -> None:
    server.faults["small"] = servers.longer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    source = HttpSource(server.url, LIMITS)
    for _ in range(3):
        assert fetch_bytes(source, "small", max_bytes=len(SMALL), limits=LIMITS) == SMALL


def test_file_truncated_on_the_server_can_be_retried(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.first(1, servers.instead(SMALL[:70_000]))
    source = HttpSource(server.url, LIMITS)
    with pytest.raises(FetchError, match="70000 of 100000 bytes", check=code("transfer.truncated")):
        fetch(source, part, SMALL, "small")
    fetch(source, part, SMALL, "small")
    assert part.read_bytes() == SMALL


def test_endless_small_file_is_rejected_early(server: FaultServer) -> None:
    server.faults["small"] = servers.endless
    with pytest.raises(TrustError, check=code("trust.too_long")):
        fetch_bytes(HttpSource(server.url, LIMITS), "small", max_bytes=1000, limits=LIMITS)


# Any sequence of faults.


class Chaotic:
    """A source with a scripted behavior at each opening: number of bytes, start, and whether they are
    valid."""

    def __init__(self, content: bytes, plan: list[tuple[int, bool, bool]]) -> None:
        self._content = content
        self._plan = plan

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        if not self._plan:
            yield _Chaos(self._content, offset, 1 << 30, True)
            return
        left, ranges, right = self._plan.pop()
        if left == 0:
            raise FetchError("f: not now")
        yield _Chaos(self._content, offset if ranges else 0, left, right)


class _Chaos:
    def __init__(self, content: bytes, offset: int, left: int, right: bool) -> None:
        self._content = content
        self._at = self.offset = offset
        self._left = left
        self._right = right

    def read(self, n: int, /) -> bytes:
        data = self._content[self._at : self._at + min(n, self._left)]
        self._at += len(data)
        self._left -= len(data)
        return data if self._right else bytes(len(data))


@settings(max_examples=150)
@given(
    length=st.integers(0, 3000),
    plan=st.lists(st.tuples(st.integers(0, 3000), st.booleans(), st.booleans()), max_size=8),
)
def test_fetched_file_is_valid_or_absent_for_any_source_behavior(
    tmp_path_factory: pytest.TempPathFactory, length: int, plan: list[tuple[int, bool, bool]]
) -> None:
    part = tmp_path_factory.mktemp("chaos") / "f.part"
    source = Chaotic(SMALL[:length], plan)
    for _ in range(len(plan) + 2):
        try:
            fetch(source, part, SMALL[:length], "f")
        except (FetchError, TrustError):
            continue
        break
    assert part.read_bytes() == SMALL[:length]
