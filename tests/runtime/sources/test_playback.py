"""Open-loop playback of a source, at a rate or live."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event, Timer

import pytest

from jepa_runtime.sources.base import Frame, PassiveSource
from jepa_runtime.sources.playback import paced_frames
from jepa_sim.two_rooms_source import TwoRoomsSource
from tests.runtime.fakes import frame


def test_frames_are_due_at_their_own_time_after_a_late_one() -> None:
    now = {"ns": 0}
    waits: list[float] = []

    class Patient(Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            waits.append(timeout)
            now["ns"] += round(timeout * 1e9)
            return False

    published = []
    source = TwoRoomsSource(rate_hz=10.0)
    for index, (_, late_ms) in enumerate(
        paced_frames(source, rate_hz=10.0, duration_s=1.0, stopping=Patient(), clock_ns=lambda: now["ns"])
    ):
        published.append((now["ns"], late_ms))
        if index == 2:
            now["ns"] += 250_000_000
    assert len(published) == 10
    assert published[2] == (200_000_000, 0.0)
    assert published[3] == (450_000_000, 150.0)
    assert published[4] == (450_000_000, 50.0)
    assert published[5] == (500_000_000, 0.0)


@pytest.mark.parametrize(
    ("stamps_s", "due_s"),
    [
        ([5, 5.2, 7, 7.1], [0, 0.2, 2, 2.1]),
        # The clock was set, or the recording was paused for long.
        ([5, 4, 4.2, 4.2, 90], [0, 0.1, 0.3, 0.4, 0.5]),
    ],
)
def test_playback_by_stamps_takes_the_recorded_time(stamps_s: list[float], due_s: list[float]) -> None:
    now = {"ns": 0}

    class Recorded(PassiveSource):
        name, rate_hz = "recorded", None

        def frames(self) -> Iterator[Frame]:
            for sequence, stamp_s in enumerate(stamps_s):
                yield replace(frame(sequence), stamp_ns=round(stamp_s * 1e9))

    class Patient(Event):
        def wait(self, timeout: float | None = None) -> bool:
            now["ns"] += round((timeout or 0) * 1e9)
            return False

    played_s = [
        now["ns"] / 1e9
        for _ in paced_frames(
            Recorded(),
            rate_hz=10.0,
            by_stamps=True,
            duration_s=None,
            stopping=Patient(),
            clock_ns=lambda: now["ns"],
        )
    ]
    assert played_s == pytest.approx(due_s)


def test_waiting_playback_ends_on_request() -> None:
    stopping, began_s = Event(), time.monotonic()
    Timer(0.1, stopping.set).start()
    assert len(list(paced_frames(TwoRoomsSource(), rate_hz=0.01, duration_s=None, stopping=stopping))) == 1
    assert time.monotonic() - began_s < 50, "the next frame would be due after 100 s"


class Camera(PassiveSource):
    """A source of three frames that calls ``waited`` with the number of each."""

    name, rate_hz = "camera", None

    def __init__(self, waited: Callable[[int], None], *, live: bool) -> None:
        self._waited, self.live = waited, live

    def frames(self) -> Iterator[Frame]:
        for sequence in range(3):
            self._waited(sequence)
            yield frame(sequence)


def played(takes_ns: int, *, live: bool, stop_at: int | None = None) -> list[tuple[int, float]]:
    """Return number and delay of the frames of a slow camera, played at 10 Hz."""
    now, stopping = {"ns": 0}, Event()

    def waited(sequence: int) -> None:
        now["ns"] += takes_ns
        if sequence == stop_at:
            stopping.set()

    frames = paced_frames(
        Camera(waited, live=live),
        rate_hz=10.0,
        duration_s=None,
        stopping=stopping,
        clock_ns=lambda: now["ns"],
    )
    return [(each.sequence, late_ms) for each, late_ms in frames]


def test_live_source_is_never_late_and_any_other_from_its_first_frame() -> None:
    assert played(300_000_000, live=True) == [(0, 0.0), (1, 0.0), (2, 0.0)]
    assert played(300_000_000, live=False) == [(0, 0.0), (1, 200.0), (2, 400.0)]


def test_late_playback_ends_on_request() -> None:
    assert played(300_000_000, live=False, stop_at=2) == [(0, 0.0), (1, 200.0)]
