"""Downloads respect their limits of time, rate and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jepa_runtime.errors import FetchError, TransferLimitError, TrustError, UpdateError
from jepa_runtime.ota.transport.fetch import FetchBudget, fetch_bytes, fetch_file
from jepa_runtime.ota.transport.http_source import HttpSource
from jepa_runtime.ota.transport.repository_sources import Body, FolderSource, Limits
from tests.errors import code
from tests.ota import servers
from tests.ota.downloads import LARGE, MIB, SMALL, fetch, has_content
from tests.ota.servers import FakeClock, FastClock, FaultServer


def test_trickling_download_without_pauses_times_out(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.trickle(0.01)
    limits = Limits(read_s=3000, free_bytes=0)
    clock = FastClock()
    with pytest.raises(FetchError, check=code("transfer.too_slow")):
        fetch(HttpSource(server.url, limits, clock), part, SMALL, "small", limits, clock)


def test_body_may_take_longer_than_the_read_timeout(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.trickle(0.1, step=len(SMALL) // 12)
    fetch(HttpSource(server.url, Limits(read_s=1, free_bytes=0)), part, SMALL, "small")
    assert part.read_bytes() == SMALL


class Paced:
    """A source that delays every read, and returns at most ``step`` bytes."""

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


def test_slow_start_is_tolerated(part: Path) -> None:
    clock = FakeClock()
    fetch(Paced(LARGE, clock, seconds=29), part, LARGE[: 1 << 18], "f", Limits(free_bytes=0), clock)


def test_file_over_the_time_limit_is_resumed_later(part: Path) -> None:
    clock = FakeClock()
    limits = Limits(total_s=100, free_bytes=0)
    with pytest.raises(FetchError, check=code("transfer.time_limit")):
        fetch(Paced(LARGE, clock, seconds=25, step=1 << 19), part, LARGE, "f", limits, clock)
    assert part.exists()


def test_download_rate_stays_below_the_limit(part: Path) -> None:
    clock = FakeClock()
    limits = Limits(max_bytes_s=50_000, free_bytes=0)
    fetch(Paced(LARGE, clock, seconds=0), part, LARGE, "f", limits, clock)
    assert clock.now == pytest.approx(len(LARGE) / 50_000, rel=0.01)


def test_download_rate_stays_below_the_limit_after_a_pause(part: Path) -> None:
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
        verify=has_content(content),
        budget=FetchBudget(limits, clock),
        progress=watch,
    )
    after = [(now, done) for now, done in taken if now > 61 + 30]
    (start, first), (end, last) = after[0], after[-1]
    assert (last - first) / (end - start) <= 100_001


def test_update_does_not_exceed_its_byte_limit(server: FaultServer, part: Path) -> None:
    limits = Limits(max_bytes=40_000, free_bytes=0)
    source = HttpSource(server.url, limits)
    for attempt in range(2):
        with pytest.raises(FetchError, check=code("transfer.byte_limit")):
            fetch(source, part, SMALL, "small", limits)
        assert len(server.requests) == attempt + 1
    fetch(source, part, SMALL, "small", limits)
    assert part.read_bytes() == SMALL


def test_several_files_share_one_byte_limit(served: Path, part: Path) -> None:
    clock = FakeClock()
    source, few = FolderSource(served), FetchBudget(Limits(max_bytes=150_000, free_bytes=0), clock)
    short = FetchBudget(Limits(total_s=100, free_bytes=0), clock)
    for budget, expected in ((short, "transfer.time_limit"), (few, "transfer.byte_limit")):
        part.unlink(missing_ok=True)
        fetch_file(source, "small", part, length=len(SMALL), verify=has_content(SMALL), budget=budget)
        part.unlink()
        clock.sleep(101)
        with pytest.raises(TransferLimitError, check=code(expected)):
            fetch_file(source, "small", part, length=len(SMALL), verify=has_content(SMALL), budget=budget)


def test_wrong_content_is_detected_when_the_update_cannot_fetch_all_of_it(served: Path, part: Path) -> None:
    """Existing bytes may be wrong, so everything is fetched again, over the required number of updates."""
    errors = []
    for _ in range(5):
        budget = FetchBudget(Limits(max_bytes=60_000, free_bytes=0))
        try:
            fetch_file(
                FolderSource(served),
                "small",
                part,
                length=len(SMALL),
                verify=has_content(b""),
                budget=budget,
            )
        except UpdateError as error:
            errors.append(type(error))
            if isinstance(error, TrustError):
                break
    assert errors == [TransferLimitError, TransferLimitError, TransferLimitError, TrustError]
    assert not part.exists()


def test_exhausted_byte_limit_sends_no_request(server: FaultServer, part: Path) -> None:
    limits = Limits(max_bytes=2 * MIB, free_bytes=0)
    with pytest.raises(FetchError, check=code("transfer.byte_limit")):
        fetch(HttpSource(server.url, limits), part, LARGE, "large", limits)
    assert server.requests == [("large", None)]


def test_small_file_is_not_delayed_by_the_attempt_limit(server: FaultServer) -> None:
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
def test_unsatisfiable_limits_are_rejected(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**fields)
