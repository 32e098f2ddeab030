"""The load generator: fixed schedules, and an account of every frame."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import cv2
import numpy as np
import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.bundle.manifest import ClipSpec
from jepa_runtime.errors import ProfileError, SourceError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.profiling.load_generator import LoadGenerator, Snapshot, Workload, default_rate_hz
from jepa_runtime.profiling.profile import Run
from jepa_runtime.profiling.run_statistics import describe
from jepa_runtime.serving.pipeline import Pipeline
from jepa_runtime.sources.base import Frame
from tests.errors import code
from tests.runtime.fakes import FakeModel

FRAMES = Workload("fake", [np.full((8, 8, 3), value, np.uint8) for value in range(3)], 0.0)


class Stalling(FakeModel):
    """A model that stalls once, for ``seconds``, after ``after`` frames."""

    def __init__(self, *, after: int, seconds: float, history_size: int = 1) -> None:
        super().__init__(history_size=history_size)
        self._left, self._seconds = after, seconds

    def encode(self, frame: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        self._left -= 1
        if self._left == 0:
            time.sleep(self._seconds)
        return super().encode(frame)


class Failing(FakeModel):
    """A model that fails from the second frame on; the first is the pipeline's warm-up."""

    def __init__(self) -> None:
        super().__init__()
        self._warm = False

    def encode(self, frame: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        if self._warm:
            raise RuntimeError("out of order")
        self._warm = True
        return super().encode(frame)


@pytest.mark.parametrize(
    ("clip", "rate_hz"), [(None, 30.0), (ClipSpec(frames=4, frames_per_step=2), pytest.approx(5.0))]
)
def test_default_rate_is_that_of_a_camera_or_of_the_steps_that_clips_complete(
    toy_bundle: Path, clip: ClipSpec | None, rate_hz: float
) -> None:
    manifest = Bundle.open(toy_bundle).manifest
    io = manifest.io.model_copy(update={"clip": clip})
    assert default_rate_hz(manifest.model_copy(update={"io": io})) == rate_hz


def load(make: Callable[[], Any], stopping: Event | None = None) -> LoadGenerator:
    return LoadGenerator(make, FRAMES, stopping=stopping or Event())


def undisturbed(run: Callable[[], Run], *, most_dropped: int = 0) -> Run:
    """Return the first run without dropped frames, which this machine did not disturb."""
    return next(done for done in (run() for _ in range(20)) if len(done.dropped_s) <= most_dropped)


class Clocked(FakeModel):
    """A model on a device with its own clock."""

    def __init__(self) -> None:
        super().__init__(history_size=2)
        self.device_timings = {"encode": 0.5, "predict": 0.25}


@pytest.mark.parametrize("with_goal", [True, False])
def test_energy_and_relative_pose_are_measured_with_a_goal(pose_bundle: Path, with_goal: bool) -> None:
    with LoadGenerator(
        lambda: WorldModel.open(pose_bundle), FRAMES, stopping=Event(), with_goal=with_goal
    ) as loaded:
        run = loaded.open_loop(30, 0.4, align_stamps=True)
    for stage in ("energy", "relative_pose"):
        assert (stage in run.stages_ms, stage in run.absent) == (with_goal, not with_goal)
        assert all(time_ms > 0 for time_ms in run.stages_ms.get(stage, []))


def test_device_times_of_skipped_predictions_are_absent() -> None:
    # At 7.5 Hz no frame is one step after another.
    with load(Clocked) as loaded:
        alone = loaded.open_loop(7.5, 0.8)
        together = undisturbed(lambda: loaded.open_loop(50, 0.2, align_stamps=True))
    assert set(alone.device_ms) == {"encode"}
    assert together.device_ms["predict"] == [0.25] * len(together.latency_ms)


def test_stages_do_not_overlap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submit = Pipeline.submit

    def held_up(pipeline: Pipeline, frame: Frame) -> None:
        submit(pipeline, frame)
        time.sleep(0.01)  # The submitting thread is not always the next to run.

    monkeypatch.setattr(Pipeline, "submit", held_up)
    with load(lambda: FakeModel(encode_s=0.002)) as loaded:
        run = loaded.open_loop(20, 0.5)
    summed = np.sum(list(run.stages_ms.values()), axis=0)
    assert (summed <= np.array(run.latency_ms) + 0.01).all()


class Surprised(FakeModel):
    """A model whose comparison with the prediction is slow."""

    def surprise(self, *of: Any, **states: Any) -> float:
        time.sleep(0.002)
        return super().surprise(*of)


def test_lead_frames_fill_history_and_first_surprise() -> None:
    with load(Surprised) as loaded:
        run = loaded.open_loop(30, 0.3)
    with load(Surprised) as loaded:
        closed = loaded.closed_loop(0.1)
    with load(Surprised) as loaded:
        gap = loaded.idle_gap(0.05, 1)
    assert all(run.stages_ms["surprise"]) and all(closed.stages_ms["surprise"])
    assert gap.latency_ms[0] > 2


def test_open_loop_accounts_for_every_scheduled_frame() -> None:
    with load(lambda: FakeModel(encode_s=0.001)) as loaded:
        run = loaded.open_loop(100, 0.5, deadline_ms=10.0)
    assert len(run.scheduled_s) + len(run.dropped_s) + len(run.failed_s) == 50
    assert np.allclose(np.diff(sorted(run.scheduled_s + run.dropped_s)), 0.01, atol=1e-6)
    assert set(run.stages_ms) >= {"receive", "wait", "encode", "predict", "surprise"}
    assert describe(run).residual.max is not None


def test_latency_of_late_frame_counts_from_its_schedule() -> None:
    def hold_up(snapshot: Snapshot) -> None:
        if snapshot.sent == 5:
            time.sleep(0.3)

    with load(FakeModel) as loaded:
        run = loaded.open_loop(10, 0.7, tick=hold_up)
    assert run.scheduled_s[-1] == pytest.approx(0.6)
    assert 200 <= run.stages_ms["receive"][-1] <= run.latency_ms[-1]
    assert run.duration_s >= 0.8


class Faltering(FakeModel):
    """A model that fails at every other frame."""

    encoded = 0

    def encode(self, frame: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        self.encoded += 1
        if self.encoded % 2 == 0:
            raise RuntimeError("out of order")
        return super().encode(frame)


def test_snapshot_cost_is_independent_of_the_run_length() -> None:
    """A snapshot that iterates over all results blocks the inference thread."""
    loaded, count = load(FakeModel), 100_000
    loaded._results = {key: (key + 2_000_000, {}, {}) for key in range(1, count + 1)}
    loaded._sequence = count
    due = {key: key for key in range(1, count + 1)}
    tracemalloc.start()
    try:
        recent = loaded._recent(due)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (recent.n, recent.p50) == (300, 2.0)
    assert peak < 100_000, "bytes; a copy of all results takes megabytes"


def test_failed_frames_are_not_dropped() -> None:
    with load(Faltering) as loaded:
        run = loaded.open_loop(10, 0.6)
    assert (len(run.scheduled_s), len(run.failed_s), run.dropped_s) == (3, 3, [])


def test_stall_with_drops_shows_in_the_response() -> None:
    def stalled() -> Run:
        with load(lambda: Stalling(after=60, seconds=0.4)) as loaded:
            return loaded.open_loop(100, 2.0)

    run = undisturbed(stalled, most_dropped=45)
    reported = describe(run)
    assert 30 <= len(run.dropped_s) <= 45
    assert reported.response.p90.value is not None and reported.latency.p90.value is not None
    assert reported.response.p90.value > 180
    assert reported.latency.p90.value < 50


@pytest.mark.parametrize("history_size", [1, 3])
def test_lead_frames_are_not_counted(history_size: int) -> None:
    with load(lambda: FakeModel(history_size=history_size)) as loaded:
        run = undisturbed(lambda: loaded.open_loop(50, 0.4))
    assert len(run.scheduled_s) == 20
    assert min(run.stages_ms["predict"]) > 0


def test_stall_during_lead_frames_keeps_first_predictions() -> None:
    with load(lambda: Stalling(after=4, seconds=0.3, history_size=3)) as loaded:
        run = loaded.open_loop(50, 0.4)
    assert len(run.scheduled_s) + len(run.dropped_s) == 20
    assert run.stages_ms["predict"][0] > 0


def test_rate_without_paired_frames_has_no_predictions() -> None:
    with load(lambda: FakeModel(history_size=2)) as loaded:
        run = undisturbed(lambda: loaded.open_loop(12.5, 0.4))
    assert len(run.scheduled_s) == 5
    for stage in ("predict", "surprise"):
        assert stage not in run.stages_ms
        assert run.absent[stage] == "no frame was one step (0.2 s) after another: use a multiple of 5 Hz"


@pytest.mark.parametrize("rate_hz", [3.0, 12.5, 28.0, 50.0])
def test_aligned_stamps_give_predictions_at_any_rate(rate_hz: float) -> None:
    with load(lambda: FakeModel(history_size=2)) as loaded:
        run = undisturbed(lambda: loaded.open_loop(rate_hz, 0.4, align_stamps=True))
    assert min(run.stages_ms["predict"]) > 0 and run.stages_ms["surprise"][-1] > 0


def test_sweep_includes_predictions() -> None:
    stopping, ticks = Event(), iter((False, True))

    class Predicting(FakeModel):
        predicted = 0

        def predict(self, *args: Any, **named: Any) -> Any:
            self.predicted += 1
            return super().predict(*args, **named)

    def stop(_: float) -> None:
        if next(ticks):
            stopping.set()

    model = Predicting(history_size=2)
    with load(lambda: model, stopping) as loaded:
        (point,) = loaded.sweep(4 * 12.5, 0.4, tick=stop).points
    assert point.rate_hz == 12.5 and model.predicted > point.frames


def test_run_begins_with_its_first_scheduled_frame() -> None:
    moments: list[float] = []

    class Timed(FakeModel):
        def encode(self, frame: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
            moments.append(time.monotonic())
            return super().encode(frame)

    with load(lambda: Timed(history_size=2)) as loaded:
        run = undisturbed(lambda: loaded.open_loop(10, 0.3))
    assert run.scheduled_s == pytest.approx([0.0, 0.1, 0.2])
    assert 0 <= moments[-3] - loaded.began_s < 0.09


def test_closed_loop_measures_the_highest_rate() -> None:
    with load(lambda: FakeModel(encode_s=0.01)) as loaded:
        run = loaded.closed_loop(0.5)
    assert run.rate_hz is None
    assert 20 <= len(run.scheduled_s) <= 50
    assert min(run.latency_ms) >= 10


def test_sweep_finds_the_knee() -> None:
    messages: list[float] = []
    with load(lambda: FakeModel(encode_s=0.02)) as loaded:
        sweep = loaded.sweep(100, 0.6, tick=messages.append)
    assert sweep.knee_hz is None or sweep.knee_hz < 50
    assert sweep.points[-1].misses > 0.5 * sweep.points[-1].frames
    assert messages == [point.rate_hz for point in sweep.points]


def test_knee_is_the_highest_rate_with_one_percent_late_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = {25.0: 0, 50.0: 2, 60.0: 3, 70.0: 2, 80.0: 60, 90.0: 101}

    def measured(
        _: LoadGenerator, rate_hz: float, *__: object, deadline_ms: float, align_stamps: bool
    ) -> Run:
        assert deadline_ms == 1e3 / rate_hz and align_stamps
        due, few = (np.arange(200) / rate_hz).tolist(), lost[rate_hz]
        latency_ms = [1.0 + 0.01 * number for number in range(200 - few)]
        return Run(
            rate_hz=rate_hz, deadline_ms=deadline_ms, duration_s=200 / rate_hz, scheduled_s=due[few:],
            latency_ms=latency_ms, stages_ms={}, dropped_s=due[:few],
        )  # fmt: skip

    monkeypatch.setattr(LoadGenerator, "open_loop", measured)
    sweep = load(FakeModel).sweep(100, 1.0)
    assert (sweep.knee_hz, sweep.max_late) == (70.0, 0.01)
    assert {point.rate_hz: point.misses for point in sweep.points} == lost, "and no higher rate"
    assert [point.dropped for point in sweep.points] == list(lost.values())
    first = sweep.points[0]
    assert (first.frames, first.p50_ms, first.p99_ms, first.max_ms) == pytest.approx((200, 1.99, 2.97, 2.99))


def test_failed_rate_ends_the_sweep_and_keeps_earlier_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[str] = []
    measure = LoadGenerator.open_loop

    def failing(self: LoadGenerator, rate_hz: float, *args: Any, **named: Any) -> Run:
        if rate_hz > 30:
            raise ProfileError("the engine hangs")
        return measure(self, rate_hz, *args, **named)

    monkeypatch.setattr(LoadGenerator, "open_loop", failing)
    with load(FakeModel) as loaded:
        sweep = loaded.sweep(100, 0.2, on_early_end=ended.append)
        with pytest.raises(ProfileError, check=code("profile.sweep_failed")) as caught:
            loaded.sweep(160, 0.2)
    assert "40 Hz" in str(caught.value) and "the engine hangs" in str(caught.value)
    assert [point.rate_hz for point in sweep.points] == [25.0]
    assert ended == ["50 Hz could not be measured: the engine hangs"]


@pytest.mark.parametrize(("stopped_at", "stored"), [(2, 1), (3, 2)])
def test_stopped_sweep_keeps_complete_rates(stopped_at: int, stored: int) -> None:
    stopping, rates = Event(), list[float]()

    def stop(rate_hz: float) -> None:
        rates.append(rate_hz)
        if len(rates) == stopped_at:
            stopping.set()

    with load(FakeModel, stopping) as loaded:
        sweep = loaded.sweep(200, 0.2, tick=stop)
    assert [point.rate_hz for point in sweep.points] == rates[:stored]


def test_sweep_stopped_at_its_first_rate_fails() -> None:
    stopping = Event()
    with load(FakeModel, stopping) as loaded, pytest.raises(ProfileError, check=code("profile.sweep_failed")):
        loaded.sweep(200, 0.2, tick=lambda _: stopping.set())


def test_idle_gap_precedes_every_latency() -> None:
    began = time.monotonic()
    with load(FakeModel) as loaded:
        gap = loaded.idle_gap(0.05, 4)
    assert time.monotonic() - began >= 0.2
    assert len(gap.latency_ms) == 4


def test_stopped_pass_keeps_its_measurements() -> None:
    stopping, reported = Event(), list[Snapshot]()

    def stop(snapshot: Snapshot) -> None:
        reported.append(snapshot)
        if snapshot.sent >= 20:
            stopping.set()

    with load(lambda: FakeModel(encode_s=0.002), stopping) as loaded:
        run = loaded.open_loop(40, 60, tick=stop)
    assert 19 <= len(run.scheduled_s) + len(run.dropped_s) <= 21
    assert [(snapshot.sent, snapshot.of) for snapshot in reported] == [(0, 2400), (20, 2400)]
    assert reported[-1].recent.p50 is not None and 2 <= reported[-1].recent.p50 < 500


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (lambda loaded: loaded.open_loop(50, 0.2), "profile.no_frame_processed"),
        (lambda loaded: loaded.closed_loop(0.2), "profile.frame_failed"),
        (lambda loaded: loaded.idle_gap(0.0, 1), "profile.frame_failed"),
    ],
)
def test_model_that_always_fails_raises_profile_error(
    measure: Callable[[LoadGenerator], object], expected: str
) -> None:
    with load(Failing) as loaded, pytest.raises(ProfileError, check=code(expected)):
        measure(loaded)


def test_workload_reads_and_scales_frames(tmp_path: Path) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((6, 8, 3), index, np.uint8))
    workload = Workload.read(str(tmp_path), rate_hz=10, size=(32, 24))
    assert len(workload.frames) == 3
    assert workload.size == (32, 24)


def test_workload_of_missing_source_names_it() -> None:
    with pytest.raises(SourceError, check=code("source.not_found")):
        Workload.read("nowhere.mp4", rate_hz=10)


def test_model_that_reads_states_has_futures_and_surprises(arm_bundle: Path) -> None:
    with LoadGenerator(
        lambda: WorldModel.open(arm_bundle, allow_untrained=True), FRAMES, stopping=Event()
    ) as loaded:
        run = loaded.open_loop(30, 0.4)
    assert len(run.stages_ms["predict"]) == len(run.stages_ms["surprise"]) == len(run.latency_ms) > 0
