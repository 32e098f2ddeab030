"""Bytes come whole and right, or not at all, whatever a server, a link or a disk does."""

from __future__ import annotations

import datetime
import os
import random
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_runtime.errors import FetchError, StorageError, TrustError, UpdateError
from jepa_runtime.update.fetch import (
    Body,
    Clock,
    FolderSource,
    HttpSource,
    Limits,
    NotFoundError,
    Source,
    fetch_bytes,
    fetch_file,
)
from jepa_runtime.update.part import SYNC_BYTES, Part
from tests.update import servers
from tests.update.servers import FakeClock, FastClock, FaultServer

MIB = 1 << 20
SMALL = random.Random(1).randbytes(100_000)
LARGE = random.Random(2).randbytes(5 * MIB + 12345)
QUICK = Limits(connect_s=2, read_s=0.3, free_bytes=0)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "small").write_bytes(SMALL)
    (folder / "large").write_bytes(LARGE)
    return folder


@pytest.fixture
def server(served: Path) -> Iterator[FaultServer]:
    with FaultServer(served) as server:
        yield server


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "file.part"


def fetch(
    source: Source, part: Path, content: bytes, name: str, limits: Limits = QUICK, clock: Clock | None = None
) -> None:
    more = {} if clock is None else {"clock": clock}
    fetch_file(source, name, part, length=len(content), is_right=having(content), limits=limits, **more)


def having(content: bytes) -> Callable[[BufferedReader], bool]:
    return lambda file: file.read() == content


# What comes as it should.


def test_a_file_comes_whole_and_is_all_that_the_part_holds(server: FaultServer, part: Path) -> None:
    seen: list[tuple[int, int]] = []
    fetch_file(
        HttpSource(server.url, QUICK),
        "large",
        part,
        length=len(LARGE),
        is_right=having(LARGE),
        limits=QUICK,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert part.read_bytes() == LARGE
    assert seen == sorted(seen) and seen[-1] == (len(LARGE), len(LARGE))


def test_a_file_comes_from_a_folder(served: Path, part: Path) -> None:
    fetch(FolderSource(served), part, LARGE, "large")
    assert part.read_bytes() == LARGE


def test_an_empty_file_is_fetched(served: Path, part: Path) -> None:
    (served / "empty").touch()
    fetch(FolderSource(served), part, b"", "empty")
    assert part.read_bytes() == b""


def test_a_file_without_a_length_in_its_headers_is_fetched(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.chunked
    fetch(HttpSource(server.url, QUICK), part, SMALL, "small")
    assert part.read_bytes() == SMALL


def test_a_part_that_is_whole_already_is_not_fetched_again(server: FaultServer, part: Path) -> None:
    source = HttpSource(server.url, QUICK)
    fetch(source, part, SMALL, "small")
    fetch(source, part, SMALL, "small")
    assert server.requests == [("small", None)]


def test_one_connection_serves_several_files(server: FaultServer, part: Path) -> None:
    source = HttpSource(server.url, QUICK)
    threads = threading.active_count()
    for _ in range(3):
        assert fetch_bytes(source, "small", max_bytes=len(SMALL), limits=QUICK) == SMALL
    assert threading.active_count() <= threads + 1


# What goes on from where it was.


def test_after_a_cut_the_next_attempt_goes_on_from_there(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.first(1, servers.cut(60_000))
    source = HttpSource(server.url, QUICK)
    with pytest.raises(
        FetchError, match=r"small: the connection was cut, or the answer is no HTTP: try again"
    ):
        fetch(source, part, SMALL, "small")
    fetch(source, part, SMALL, "small")
    assert part.read_bytes() == SMALL
    assert server.requests == [("small", None), ("small", "bytes=60000-")]


def test_a_cut_after_much_is_taken_up_at_once(server: FaultServer, part: Path) -> None:
    server.faults["large"] = servers.cut(2 * MIB)
    fetch(HttpSource(server.url, QUICK), part, LARGE, "large")
    assert part.read_bytes() == LARGE
    assert [asked for _, asked in server.requests] == [None, f"bytes={2 * MIB}-", f"bytes={4 * MIB}-"]


def test_a_server_that_knows_no_ranges_sends_all_of_it_again(server: FaultServer, part: Path) -> None:
    source = HttpSource(server.url, QUICK)
    server.faults["small"] = servers.cut(60_000)
    with pytest.raises(FetchError):
        fetch(source, part, SMALL, "small")
    server.faults["small"] = servers.whole
    fetch(source, part, SMALL, "small")
    assert part.read_bytes() == SMALL


def test_a_range_that_cannot_be_had_begins_again_from_the_start(server: FaultServer, part: Path) -> None:
    source = HttpSource(server.url, QUICK)
    server.faults["small"] = servers.cut(60_000)
    with pytest.raises(FetchError):
        fetch(source, part, SMALL, "small")
    server.faults["small"] = servers.first(1, servers.status(416))
    fetch(source, part, SMALL, "small")
    assert part.read_bytes() == SMALL
    assert [asked for _, asked in server.requests] == [None, "bytes=60000-", None]


def test_another_range_than_asked_for_is_not_taken(server: FaultServer, part: Path) -> None:
    source = HttpSource(server.url, QUICK)
    server.faults["small"] = servers.first(1, servers.cut(60_000))
    with pytest.raises(FetchError):
        fetch(source, part, SMALL, "small")
    server.faults["small"] = servers.shifted
    with pytest.raises(FetchError, match=r"sends other bytes than those asked for \(from 60000\)"):
        fetch(source, part, SMALL, "small")


def test_a_process_that_dies_has_lost_what_was_not_yet_safe_and_no_more(served: Path, part: Path) -> None:
    class Dies(FolderSource):
        @contextmanager
        def open(self, path: str, offset: int = 0) -> Iterator[Body]:
            with super().open(path, offset) as body:
                yield _DiesAt(body, 5 * MIB)

    with pytest.raises(KeyboardInterrupt):
        fetch(Dies(served), part, LARGE, "large")
    with FaultServer(served) as server:
        fetch(HttpSource(server.url, QUICK), part, LARGE, "large")
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


def test_the_room_is_taken_before_the_first_byte(server: FaultServer, part: Path) -> None:
    server.faults["large"] = servers.status(404)
    with pytest.raises(NotFoundError):
        fetch(HttpSource(server.url, QUICK), part, LARGE, "large")
    assert part.stat().st_blocks * 512 >= len(LARGE)


@pytest.mark.parametrize("found", ["zeros where content was", "another file", "whole, but damaged"])
def test_what_a_part_had_before_is_trusted_by_the_hash_alone(
    server: FaultServer, part: Path, found: str
) -> None:
    if found == "zeros where content was":
        with Part(part, len(SMALL), free_bytes=0) as file:
            file.write(bytes(60_000))
            file.keep()
    elif found == "another file":
        part.write_bytes(b"x" * 1234)
    else:
        part.write_bytes(SMALL[:-1] + b"!")
    fetch(HttpSource(server.url, QUICK), part, SMALL, "small")
    assert part.read_bytes() == SMALL


# What is not what was signed.


def test_another_content_is_refused_and_removed(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.instead(SMALL[::-1])
    with pytest.raises(TrustError, match=r"small: what came is not what was signed \(its hash is another\)"):
        fetch(HttpSource(server.url, QUICK), part, SMALL, "small")
    assert not part.exists()
    assert len(server.requests) == 1


def test_another_content_at_a_second_attempt_is_fetched_only_once_more(
    server: FaultServer, part: Path
) -> None:
    server.faults["small"] = servers.first(1, servers.cut(60_000))
    source = HttpSource(server.url, QUICK)
    with pytest.raises(FetchError):
        fetch(source, part, SMALL, "small")
    server.faults["small"] = servers.instead(SMALL[::-1])
    with pytest.raises(TrustError):
        fetch(source, part, SMALL, "small")
    assert [asked for _, asked in server.requests] == [None, "bytes=60000-", None]
    assert not part.exists()


def test_more_than_was_signed_is_not_taken(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.endless
    with pytest.raises(TrustError):
        fetch(HttpSource(server.url, QUICK), part, SMALL, "small")
    server.faults["small"] = servers.instead(SMALL + b"more")
    fetch(HttpSource(server.url, QUICK), part, SMALL, "small")
    assert part.read_bytes() == SMALL


def test_more_than_was_announced_spoils_neither_this_file_nor_the_next(server: FaultServer) -> None:
    server.faults["small"] = servers.longer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    source = HttpSource(server.url, QUICK)
    for _ in range(3):
        assert fetch_bytes(source, "small", max_bytes=len(SMALL), limits=QUICK) == SMALL


def test_a_file_that_is_too_short_on_the_server_can_be_tried_again(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.first(1, servers.instead(SMALL[:70_000]))
    source = HttpSource(server.url, QUICK)
    with pytest.raises(FetchError, match="small: ended after 70000 of 100000 bytes"):
        fetch(source, part, SMALL, "small")
    fetch(source, part, SMALL, "small")
    assert part.read_bytes() == SMALL


def test_a_small_file_without_end_is_refused_soon(server: FaultServer) -> None:
    server.faults["small"] = servers.endless
    with pytest.raises(TrustError, match="small: longer than the 1000 bytes that it may have"):
        fetch_bytes(HttpSource(server.url, QUICK), "small", max_bytes=1000, limits=QUICK)


# What cannot be had now: the exact reason, soon.

NOT_NOW = {
    "404": (servers.status(404), NotFoundError, r"the server says 404 \(Not Found\)"),
    "403, as object stores say": (servers.status(403), NotFoundError, r"the server says 403 \(Forbidden\)"),
    "401": (servers.status(401), FetchError, r"the server says 401 \(Unauthorized\)"),
    "silent before the headers": (lambda request, _: request.wait() and None, FetchError, "fell silent"),
    "silent in the body": (servers.stall(5000), FetchError, "the server fell silent, or is too slow"),
    "cut": (servers.cut(5000), FetchError, "the connection was cut, or the answer is no HTTP"),
    "cut at once": (servers.cut(0), FetchError, "the connection was cut, or the answer is no HTTP"),
    "no HTTP": (servers.garbage, FetchError, "the connection was cut, or the answer is no HTTP"),
    "headers without end": (servers.slow_headers(0.01), FetchError, "fell silent, or is too slow"),
    "sent to another host": (
        servers.status(302, Location="http://localhost:9/small"),
        FetchError,
        "the server sends us on to http://localhost:9/small, which is another server or protocol",
    ),
    "sent to another protocol": (
        servers.status(301, Location="ftp://127.0.0.1/small"),
        FetchError,
        "sends us on to ftp://127.0.0.1/small",
    ),
    "sent to a file": (
        servers.status(301, Location="file:///etc/passwd"),
        FetchError,
        "sends us on to file:",
    ),
    "sent to nonsense": (
        servers.status(301, Location="http://[bad/small"),
        FetchError,
        r"sends us on to http://\[bad/small, which is another server",
    ),
    "sent nowhere": (servers.status(307), FetchError, "sends us on to nowhere"),
    "sent in a circle": (servers.status(308, Location="/small"), FetchError, "the server says 308"),
}


@pytest.mark.parametrize("name", NOT_NOW)
def test_what_cannot_be_had_says_why(server: FaultServer, part: Path, name: str) -> None:
    fault, kind, message = NOT_NOW[name]
    server.faults["small"] = fault
    with pytest.raises(kind, match=f"^{server.url}/small: .*{message}") as caught:
        fetch(HttpSource(server.url, QUICK), part, SMALL, "small")
    assert type(caught.value) is kind


def test_a_failure_of_the_server_that_passes_is_not_noticed(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.first(2, servers.status(500))
    fetch(HttpSource(server.url, QUICK, FakeClock()), part, SMALL, "small")
    assert part.read_bytes() == SMALL


def test_a_failure_of_the_server_that_stays_is_told(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.status(503)
    with pytest.raises(FetchError, match=r"the server says 503 \(Service Unavailable\)"):
        fetch(HttpSource(server.url, QUICK, FakeClock()), part, SMALL, "small")
    assert len(server.requests) == 3


def test_trailers_without_end_do_not_hold_anybody(server: FaultServer) -> None:
    server.faults["small"] = servers.slow_trailers(0.01)
    with pytest.raises(FetchError, match="too slow"):
        fetch_bytes(HttpSource(server.url, QUICK), "small", max_bytes=2 * len(SMALL), limits=QUICK)


def test_a_refused_connection_is_told_as_such(part: Path) -> None:
    with pytest.raises(
        FetchError, match=r"no connection: check that the server runs.*\(Connection refused\)"
    ):
        fetch(HttpSource(_nobody(), QUICK), part, SMALL, "small")


def _nobody() -> str:
    with FaultServer(Path("/nonexistent")) as server:
        return server.url


def test_an_unknown_host_is_told_as_such(part: Path) -> None:
    with pytest.raises(FetchError, match="its name is not known here: check the address"):
        fetch(HttpSource("http://robot.invalid", QUICK), part, SMALL, "small")


def test_a_redirect_on_the_same_server_is_followed(server: FaultServer, part: Path) -> None:
    server.faults["old"] = servers.status(301, Location="/small")
    fetch(HttpSource(server.url, QUICK), part, SMALL, "old")
    assert part.read_bytes() == SMALL


def test_a_proxy_is_used_where_the_environment_names_one(
    server: FaultServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.faults["http://robot.invalid/small"] = servers.instead(SMALL)
    fetch(HttpSource("http://robot.invalid", QUICK), part, SMALL, "small")
    assert part.read_bytes() == SMALL


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "host/path", "http://", "https://host/?a=b", "https://me:secret@host", "http://[::1"],
)
def test_what_is_no_address_of_a_web_server_is_refused(url: str) -> None:
    with pytest.raises(UpdateError) as caught:
        HttpSource(url, QUICK)
    assert "secret" not in str(caught.value)


# Encryption.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def encrypted(served: Path, certificate: Path) -> Iterator[FaultServer]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with FaultServer(served, tls) as server:
        yield server


def test_a_server_that_cannot_prove_who_it_is_is_refused(encrypted: FaultServer, part: Path) -> None:
    with pytest.raises(FetchError, match=r"does not prove who it is: .*clock \(.*CERTIFICATE_VERIFY_FAILED"):
        fetch(HttpSource(encrypted.url, QUICK), part, SMALL, "small")
    assert encrypted.requests == []


def test_a_certificate_that_the_system_was_told_to_trust_is_trusted(
    encrypted: FaultServer, part: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    fetch(HttpSource(encrypted.url, QUICK), part, LARGE, "large")
    assert part.read_bytes() == LARGE


def test_nobody_is_led_from_https_to_http(
    encrypted: FaultServer,
    server: FaultServer,
    part: Path,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    encrypted.faults["small"] = servers.status(302, Location=f"{server.url}/small")
    with pytest.raises(FetchError, match="which is another server or protocol"):
        fetch(HttpSource(encrypted.url, QUICK), part, SMALL, "small")
    assert server.requests == []


# Limits.


def test_a_trickle_is_too_slow_although_it_never_pauses(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.trickle(0.01)
    limits = Limits(read_s=3000, free_bytes=0)
    clock = FastClock()
    with pytest.raises(FetchError, match=r"small: came with \d+ bytes per second, less than 1024"):
        fetch(HttpSource(server.url, limits, clock), part, SMALL, "small", limits, clock)


def test_a_body_may_take_longer_than_the_wait_for_each_of_its_bytes(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.trickle(0.05, step=len(SMALL) // 10)
    fetch(HttpSource(server.url, QUICK), part, SMALL, "small")
    assert part.read_bytes() == SMALL


class Paced:
    """A source that takes its time for every read, and gives at most ``step`` bytes."""

    def __init__(self, content: bytes, clock: FakeClock, *, seconds: float, step: int = 1 << 30) -> None:
        self._content = content
        self._clock = clock
        self._seconds = seconds
        self._step = step

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        self.offset = self._at = offset
        yield self

    def read(self, n: int, /) -> bytes:
        self._clock.sleep(self._seconds)
        data = self._content[self._at : self._at + min(n, self._step)]
        self._at += len(data)
        return data


def test_a_slow_start_is_forgiven(part: Path) -> None:
    clock = FakeClock()
    fetch(Paced(LARGE, clock, seconds=29), part, LARGE[: 1 << 18], "f", Limits(free_bytes=0), clock)


def test_a_file_that_takes_too_long_is_left_for_another_attempt(part: Path) -> None:
    clock = FakeClock()
    limits = Limits(total_s=100, free_bytes=0)
    with pytest.raises(FetchError, match="f: not there after 100 s: try again, or allow it more time"):
        fetch(Paced(LARGE, clock, seconds=25, step=1 << 19), part, LARGE, "f", limits, clock)
    assert part.exists()


def test_the_rate_is_kept_to_what_is_allowed(part: Path) -> None:
    clock = FakeClock()
    limits = Limits(max_bytes_s=50_000, free_bytes=0)
    fetch(Paced(LARGE, clock, seconds=0), part, LARGE, "f", limits, clock)
    assert clock.now == pytest.approx(len(LARGE) / 50_000, rel=0.01)


def test_after_a_pause_the_rate_is_still_kept(part: Path) -> None:
    clock = FakeClock()
    limits = Limits(max_bytes_s=100_000, free_bytes=0)
    content = LARGE[: 4 * MIB]
    source = Paced(content, clock, seconds=0)
    taken: list[tuple[float, int]] = []

    def watch(done: int, _: int) -> None:
        if done == 100_000:
            clock.sleep(60)
        taken.append((clock.now, done))

    fetch_file(
        source,
        "f",
        part,
        length=len(content),
        is_right=having(content),
        limits=limits,
        clock=clock,
        progress=watch,
    )
    after = [(now, done) for now, done in taken if now > 61 + 30]
    (start, first), (end, last) = after[0], after[-1]
    assert (last - first) / (end - start) <= 100_001


def test_no_attempt_takes_more_bytes_than_it_may(server: FaultServer, part: Path) -> None:
    limits = Limits(max_bytes=40_000, free_bytes=0)
    source = HttpSource(server.url, limits)
    for attempt in range(2):
        with pytest.raises(FetchError, match="the 40000 bytes of one attempt are used up"):
            fetch(source, part, SMALL, "small", limits)
        assert len(server.requests) == attempt + 1
    fetch(source, part, SMALL, "small", limits)
    assert part.read_bytes() == SMALL


def test_what_is_used_up_is_not_asked_for(server: FaultServer, part: Path) -> None:
    limits = Limits(max_bytes=2 * MIB, free_bytes=0)
    with pytest.raises(FetchError, match="are used up"):
        fetch(HttpSource(server.url, limits), part, LARGE, "large", limits)
    assert server.requests == [("large", None)]


def test_a_small_file_is_not_kept_back_by_the_limit_of_an_attempt(server: FaultServer) -> None:
    limits = Limits(max_bytes=1)
    assert fetch_bytes(HttpSource(server.url, limits), "small", max_bytes=1 << 20, limits=limits) == SMALL


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"read_s": 0}, "read_s must be above 0, got 0"),
        ({"max_bytes_s": 1500}, "max_bytes_s must be at least twice min_bytes_s"),
        ({"max_bytes": 0}, "max_bytes must be at least 1, got 0"),
    ],
)
def test_limits_that_nothing_can_keep_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(UpdateError, match=message):
        Limits(**fields)


# The disk.


def test_a_disk_that_is_too_full_is_told_before_anything_is_asked_for(
    server: FaultServer, part: Path
) -> None:
    limits = Limits(free_bytes=1 << 60)
    with pytest.raises(StorageError, match=r"file.part: takes 5.3 MB, but .* MB are free, .*: make room"):
        fetch(HttpSource(server.url, limits), part, LARGE, "large", limits)
    assert server.requests == [] and not part.exists()


def test_a_disk_that_is_full_at_the_second_attempt_keeps_what_came(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.first(1, servers.cut(60_000))
    with pytest.raises(FetchError):
        fetch(HttpSource(server.url, QUICK), part, SMALL, "small")
    with pytest.raises(StorageError):
        fetch(HttpSource(server.url, QUICK), part, SMALL, "small", Limits(free_bytes=1 << 60))
    fetch(HttpSource(server.url, QUICK), part, SMALL, "small")
    assert server.requests[-1] == ("small", "bytes=60000-")


@pytest.mark.parametrize("call", ["fsync", "pwrite", "posix_fallocate", "ftruncate", "pread"])
def test_after_an_error_of_the_disk_the_part_is_gone(
    served: Path, part: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with Part(part, len(SMALL), free_bytes=0) as file:
        file.write(SMALL[:1000])
        file.keep()

    real = getattr(os, call)

    def fail(fd: int, *rest: int) -> object:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return real(fd, *rest)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError, match=r"file.part: .*: Input/output error: it was removed"):
        fetch(FolderSource(served), part, SMALL, "small")
    assert not part.exists()


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_a_part_that_is_no_file_is_left_alone(served: Path, part: Path, what: str) -> None:
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


# A folder, such as that of a USB stick.


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, part: Path) -> None:
    with pytest.raises(FetchError, match="stick: no such folder: check that it is mounted") as caught:
        fetch(FolderSource(tmp_path / "stick"), part, SMALL, "small")
    assert not isinstance(caught.value, NotFoundError)


def test_a_file_that_a_folder_lacks_is_told(served: Path, part: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing: no such file"):
        fetch(FolderSource(served), part, SMALL, "nothing")


@pytest.mark.parametrize(
    "path", ["../secret", "a/../../secret", "%2e%2e/secret", "/etc/passwd", "out", "circle"]
)
def test_nothing_outside_of_a_folder_is_read(served: Path, part: Path, path: str) -> None:
    (served.parent / "secret").write_bytes(SMALL)
    (served / "out").symlink_to(served.parent / "secret")
    (served / "circle").symlink_to("circle")
    with pytest.raises(FetchError, match="leads out of it"):
        fetch(FolderSource(served), part, SMALL, path)


@pytest.mark.parametrize("what", ["pipe", "folder"])
def test_what_is_no_file_in_a_folder_is_not_read(served: Path, part: Path, what: str) -> None:
    os.mkfifo(served / "pipe")
    (served / "folder").mkdir()
    with pytest.raises(FetchError, match=f"{what}: is no regular file"):
        fetch(FolderSource(served), part, SMALL, what)


# Whatever happens.


class Chaotic:
    """A source that does what it is told at each opening: how many bytes come, from where, and whether they
    are right."""

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


@settings(max_examples=150, deadline=None)
@given(
    length=st.integers(0, 3000),
    plan=st.lists(st.tuples(st.integers(0, 3000), st.booleans(), st.booleans()), max_size=8),
)
def test_a_file_is_right_or_not_there_whatever_its_source_does(
    tmp_path_factory: pytest.TempPathFactory, length: int, plan: list[tuple[int, bool, bool]]
) -> None:
    part = tmp_path_factory.mktemp("chaos") / "f.part"
    source = Chaotic(SMALL[:length], plan)
    for _ in range(len(plan) + 1):
        try:
            fetch(source, part, SMALL[:length], "f")
        except (FetchError, TrustError):
            continue
        break
    assert part.read_bytes() == SMALL[:length]
