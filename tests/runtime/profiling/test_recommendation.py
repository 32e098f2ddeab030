"""Models measured in turns: the order of the turns, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from threading import Event
from typing import Any

import numpy as np
import pytest

from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling.load_generator import LoadGenerator, Workload
from jepa_runtime.profiling.profile import Run
from jepa_runtime.profiling.recommendation import count_turns, measure_in_turns
from tests.errors import code
from tests.runtime.fakes import FakeModel

FRAMES = Workload("fake", [np.full((8, 8, 3), 7, np.uint8)], 0.0)


@pytest.fixture
def loads() -> Iterator[dict[int, LoadGenerator]]:
    with ExitStack() as opened:
        yield {
            key: opened.enter_context(LoadGenerator(FakeModel, FRAMES, stopping=Event())) for key in (3, 5)
        }


def make_run(latencies_ms: list[float], *, dropped: int = 0) -> Run:
    count = len(latencies_ms)
    return Run(
        rate_hz=100.0,
        deadline_ms=1.0,
        duration_s=(count + dropped) / 100,
        scheduled_s=[index / 100 for index in range(count)],
        latency_ms=latencies_ms,
        stages_ms={},
        dropped_s=[(count + index) / 100 for index in range(dropped)],
    )


class Recorded:
    """A load whose passes have been measured before."""

    def __init__(self, runs: list[Run], log: list[str], name: str) -> None:
        self._runs, self._log, self._name = runs, log, name
        self.settings: list[dict[str, Any]] = []

    def open_loop(self, rate_hz: float, duration_s: float, **settings: Any) -> Run:
        self._log.append(self._name)
        self.settings.append({"rate_hz": rate_hz, "duration_s": duration_s} | settings)
        return self._runs.pop(0)


def measure(loads: Any, *, deadline_ms: float, **settings: Any) -> Any:
    stopping = settings.pop("stopping", Event())
    return measure_in_turns(
        loads, **{"rate_hz": 100.0, "duration_s": 10.0} | settings, deadline_ms=deadline_ms, stopping=stopping
    )


def test_models_take_turns_and_all_their_frames_count() -> None:
    log: list[str] = []
    fast = Recorded([make_run([1.0] * 60), make_run([3.0] * 60)], log, "fast")
    slow = Recorded([make_run([5.0] * 60), make_run([5.0] * 58, dropped=2)], log, "slow")
    ticks: list[None] = []
    timings = measure({0: fast, 1: slow}, deadline_ms=4.0, tick=lambda: ticks.append(None))
    assert count_turns(10.0) == 2 and log == ["fast", "slow", "fast", "slow"] and len(ticks) == 4
    assert fast.settings[0] == {
        "rate_hz": 100.0,
        "duration_s": 5.0,
        "deadline_ms": 4.0,
        "align_stamps": True,
    }
    assert (timings[0].response.n, timings[0].late) == (120, 0)
    assert timings[0].response.p99 == pytest.approx(3.0)
    assert timings[0].verdict == "keeps the deadline"
    assert (timings[1].response.n, timings[1].late, timings[1].verdict) == (120, 120, "misses the deadline")
    assert timings[1].response.max is not None and timings[1].response.max > 5.0


@pytest.mark.parametrize(("late", "verdict"), [(2, "keeps the deadline"), (3, "misses the deadline")])
def test_more_than_one_late_frame_of_a_hundred_misses_the_deadline(late: int, verdict: str) -> None:
    run = make_run([1.0] * (200 - late) + [9.0] * late)
    timing = measure({0: Recorded([run], [], "")}, deadline_ms=4.0, duration_s=1.0)[0]
    assert (timing.late, timing.verdict) == (late, verdict)


def test_fewer_than_a_hundred_frames_are_too_few() -> None:
    run = make_run([1.0] * 99)
    timing = measure({0: Recorded([run], [], "")}, deadline_ms=4.0, duration_s=1.0)[0]
    assert timing.response.n == 99 and timing.verdict == "too few frames"


def test_stopped_measurement_counts_the_frames_until_then() -> None:
    log: list[str] = []
    stopping = Event()
    loads = {key: Recorded([make_run([1.0] * 120) for _ in range(2)], log, str(key)) for key in range(2)}
    timings = measure(loads, deadline_ms=4.0, stopping=stopping, tick=stopping.set)
    assert log == ["0"]
    assert timings[0].verdict == "keeps the deadline" and timings[1].verdict == "too few frames"


@pytest.mark.parametrize("stopped", [True, False])
def test_turn_without_a_processed_frame_ends_the_measurement(stopped: bool) -> None:
    class Empty(Recorded):
        def open_loop(self, *_: Any, **__: Any) -> Run:
            raise ProfileError("none of 0 frames was processed", code="profile.no_frame_processed")

    stopping = Event()
    if stopped:
        stopping.set()
        timing = measure({0: Empty([], [], "")}, deadline_ms=4.0, stopping=stopping)[0]
        assert timing.verdict == "too few frames" and timing.response.n == 0
    else:
        with pytest.raises(ProfileError, check=code("profile.no_frame_processed")):
            measure({0: Empty([], [], "")}, deadline_ms=4.0, stopping=stopping)


@pytest.mark.parametrize(
    ("deadline_ms", "verdict"), [(0.001, "misses the deadline"), (10_000.0, "keeps the deadline")]
)
def test_open_models_are_measured(loads: dict[int, LoadGenerator], deadline_ms: float, verdict: str) -> None:
    timings = measure(loads, rate_hz=200.0, duration_s=0.6, deadline_ms=deadline_ms)
    assert list(timings) == [3, 5]
    for timing in timings.values():
        assert timing.response.n == 120 and timing.verdict == verdict
        assert deadline_ms > 1 or timing.late == 120
