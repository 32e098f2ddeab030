"""Several cameras in one pipeline, each with its own slot, history, goal and counters."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.serving.history import Reset
from jepa_runtime.serving.pipeline import Pipeline, Result
from jepa_runtime.sources.base import Frame
from tests.errors import code
from tests.runtime.fakes import FakeModel, frame
from tests.runtime.pipelines import serve


class Street:
    """Frames of several cameras on a schedule, and a model with a set duration, on a simulated clock, so
    that limits are exact.

    Frames that are due while the model computes are submitted from within it.
    """

    def __init__(self, periods_ms: dict[str, int], durations_ms: list[int], *, frames: int) -> None:
        self.now_ms = 0
        self.periods_ms = periods_ms
        self._durations = itertools.cycle(durations_ms)
        self._arrivals = deque(
            sorted((number * period, name) for name, period in periods_ms.items() for number in range(frames))
        )
        self.results: list[Result] = []
        self.served_ms: list[int] = []
        street = self

        class Model(FakeModel):
            def encode(self, image: np.ndarray) -> np.ndarray:
                street.work()
                return super().encode(image)

        self.pipeline = Pipeline(
            Model,
            on_result=self.results.append,
            streams=tuple(periods_ms),
            clock_ns=lambda: self.now_ms * 1_000_000,
        )

    def run(self) -> None:
        self._open = False
        with self.pipeline:
            self._open = True
            while self._arrivals:
                self._arrive()
                assert self.pipeline.wait_idle(5.0)

    def work(self) -> None:
        if not self._open:
            return
        duration = next(self._durations)
        end = self.now_ms + duration
        while self._arrivals and self._arrivals[0][0] <= end:
            self._arrive()
        self.now_ms = end
        self.served_ms.append(duration)

    def _arrive(self) -> None:
        due, name = self._arrivals.popleft()
        self.now_ms = max(self.now_ms, due)
        number = due // self.periods_ms[name]
        self.pipeline.submit(replace(frame(number), stamp_ns=due * 1_000_000, stream=name))


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(5, 60), min_size=1),
    st.lists(st.integers(1, 120), min_size=1, max_size=40),
)
@settings(max_examples=60)
@pytest.mark.slow
def test_slow_inference_keeps_data_recent_and_queues_nothing(
    periods_ms: dict[str, int], durations_ms: list[int]
) -> None:
    street = Street(periods_ms, durations_ms, frames=20)
    street.run()
    worst_ms = max(durations_ms)
    for result, duration in zip(street.results, street.served_ms, strict=True):
        wait_ms = round(result.timings_ms["wait"])
        if result.sequence < 19:
            assert wait_ms <= periods_ms[result.stream], "a newer one would have replaced it"
        assert wait_ms <= len(periods_ms) * worst_ms, "one frame in progress, and one of each other camera"
        assert round(result.timings_ms["total"]) == wait_ms + duration
    for name in periods_ms:
        stats = street.pipeline.stats(name)
        assert (stats.received, stats.processed + stats.dropped) == (20, 20)
        assert [result.sequence for result in street.results if result.stream == name][-1] == 19


def test_fast_camera_does_not_starve_another() -> None:
    street = Street({"fast": 1, "slow": 30}, [50], frames=300)
    street.run()
    # Both always have a frame waiting while the fast one still sends.
    served = [result.stream for result in street.results][:6]
    assert served.count("fast") == served.count("slow") == 3


def test_each_stream_has_its_own_history_and_all_share_the_actions() -> None:
    with serve(streams=("left", "right")) as served:
        served.pipeline.add_action(frame(0).stamp_ns, np.array([1.0, 0.0], np.float32))
        for index in (0, 1, 2, 3, 4, 5, 6, 100):
            served.feed(replace(frame(index, 10 + index // 6), stream="left"))
        for index in range(7):
            served.feed(replace(frame(index, 50), stream="right"))
    left, right = served.results[:8], served.results[8:]
    assert {result.stream for result in left} == {"left"}
    assert [result.reset for result in left] == [Reset.FIRST, *[None] * 6, Reset.GAP]
    assert [result.reset for result in right] == [Reset.FIRST, *[None] * 6]
    assert left[6].surprise == pytest.approx(0.0, abs=1e-5)
    assert right[6].surprise == pytest.approx(1.0, abs=1e-5)
    assert served.pipeline.stats("left").resets == {
        "first": 1,
        "gap": 1,
        "clock_backwards": 0,
        "frame": 0,
        "model": 0,
    }
    assert served.pipeline.stats().resets == {
        "first": 2,
        "gap": 1,
        "clock_backwards": 0,
        "frame": 0,
        "model": 0,
    }


def test_goal_belongs_to_one_stream() -> None:
    with serve(streams=("left", "right")) as served:
        served.pipeline.set_goal(np.full((8, 8, 3), 5, np.uint8), 11, "right")
        served.feed(replace(frame(0, 7), stream="left"), replace(frame(0, 7), stream="right"))
    assert [result.current_energy for result in served.results] == [None, 4.0]
    assert [result.goal_stamp_ns for result in served.results] == [None, 11]


def test_counters_are_kept_per_stream_and_summed() -> None:
    bad = Frame(np.zeros(3, np.uint8), frame(0).stamp_ns, "camera", 0, "right")
    with serve(streams=("left", "right")) as served:
        served.feed(replace(frame(0), stream="left"), replace(frame(1), stream="left"), bad)
    stats = [served.pipeline.stats(stream) for stream in ("left", "right", None)]
    assert [each.processed for each in stats] == [2, 0, 2]
    assert [each.failed for each in stats] == [0, 1, 1]
    assert [about for _, about in served.errors] == [bad]


def test_unknown_stream_is_an_error() -> None:
    pipeline = Pipeline(FakeModel, on_result=lambda result: None, streams=("left", "right"))
    with pytest.raises(JepaRuntimeError, check=code("pipeline.unknown_stream")):
        pipeline.submit(frame(0))
    with pytest.raises(JepaRuntimeError, check=code("pipeline.unknown_stream")):
        pipeline.set_goal(None)
    with pytest.raises(JepaRuntimeError, check=code("pipeline.unknown_stream")):
        pipeline.stats("up")


@pytest.mark.parametrize("streams", [(), ("left", "left")])
def test_stream_names_must_be_unique(streams: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="streams"):
        Pipeline(FakeModel, on_result=lambda result: None, streams=streams)
