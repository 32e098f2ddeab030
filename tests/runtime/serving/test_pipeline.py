"""The pipeline: the newest frame wins, everything is counted, and errors do not end the inference thread."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.serving.frame_processor import FrameProcessor, ProcessingConfig
from jepa_runtime.serving.history import Reset
from jepa_runtime.serving.pipeline import STAGES, Candidates, Pipeline, Result
from jepa_runtime.serving.types import StreamCounters
from jepa_runtime.sources.base import Frame
from jepa_sim.two_rooms_source import TwoRoomsSource
from tests.errors import code
from tests.runtime.fakes import HORIZON, NUM_SAMPLES, FakeModel, frame
from tests.runtime.pipelines import serve


def test_model_is_used_only_on_the_inference_thread() -> None:
    opened_on = []

    def open_model() -> FakeModel:
        opened_on.append(threading.current_thread().name)
        return model

    model = FakeModel()
    model.threads.clear()
    pipeline = Pipeline(open_model, on_result=lambda result: None)
    with pipeline:
        pipeline.submit(frame(0))
        pipeline.wait_idle(5.0)
    assert opened_on == ["jepa-inference"]
    assert model.threads == {"jepa-inference"}
    assert model.closed


def test_start_raises_the_error_of_opening_the_model() -> None:
    def open_model() -> FakeModel:
        raise JepaRuntimeError("no such bundle", code="test.missing")

    with pytest.raises(JepaRuntimeError, check=code("test.missing")):
        Pipeline(open_model, on_result=lambda result: None).start()


def test_start_twice_raises() -> None:
    with serve() as served, pytest.raises(JepaRuntimeError, check=code("pipeline.already_started")):
        served.pipeline.start()


def test_stop_can_be_called_twice_or_before_start() -> None:
    pipeline = Pipeline(FakeModel, on_result=lambda result: None)
    pipeline.stop()
    with serve() as served:
        served.pipeline.stop()
        served.pipeline.stop()


def test_pipeline_stopped_before_its_start_opens_no_model() -> None:
    opened: list[FakeModel] = []

    def open_model() -> FakeModel:
        opened.append(FakeModel())
        return opened[-1]

    pipeline = Pipeline(open_model, on_result=lambda result: None)
    pipeline.stop()
    with pytest.raises(JepaRuntimeError, check=code("pipeline.stopped")):
        pipeline.start()
    assert not opened


def test_stop_does_not_wait_forever_for_a_hanging_model() -> None:
    with (
        pytest.raises(JepaRuntimeError, check=code("pipeline.thread_hangs")),
        serve(FakeModel(encode_s=0.5)) as served,
    ):
        served.pipeline.submit(frame(0))
        time.sleep(0.05)
        served.pipeline.stop(timeout_s=0.05)
    served.pipeline.stop()


def test_result_has_its_frame_and_all_stages() -> None:
    model = FakeModel(encode_s=0.002)
    model.timings["preprocess"] = 0.5
    with serve(model) as served:
        served.feed(frame(3, 7))
    (result,) = served.results
    assert (result.sequence, result.frame_id, result.stamp_ns) == (3, "camera", frame(3).stamp_ns)
    assert result.reset is Reset.FIRST
    assert result.latent[0, 0] == 7
    assert tuple(result.timings_ms) == STAGES
    assert result.timings_ms["total"] >= result.timings_ms["wait"] > 0
    assert (result.timings_ms["preprocess"], result.timings_ms["encode"]) == (0.5, 2.0)


def test_every_graph_runs_once_before_the_first_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    model, graphs = FakeModel(), ("encode", "predict", "surprise", "energy")
    ran = {name: Mock(wraps=getattr(model, name)) for name in graphs}
    for name, graph in ran.items():
        monkeypatch.setattr(model, name, graph)
    FrameProcessor(model, ProcessingConfig())
    # The energies of futures are computed by another graph than that of one state.
    assert [graph.call_count for graph in ran.values()] == [1, 1, 1, 2]


def test_default_candidates_are_used_without_proposals() -> None:
    with serve() as served:
        served.feed(frame(0))
    (result,) = served.results
    assert result.candidates.source == "fan"
    assert result.futures is not None
    assert result.futures.latents.shape[:2] == (NUM_SAMPLES, HORIZON)


@pytest.mark.parametrize(
    "wrap", [lambda actions: actions, lambda actions: Candidates(actions, "planner", 42)]
)
def test_proposed_candidates_are_used(wrap: Callable[[np.ndarray], Any]) -> None:
    actions = np.full((2, HORIZON, 2), 0.5, np.float32)
    with serve(candidates=lambda: wrap(actions)) as served:
        served.feed(frame(0))
    (result,) = served.results
    assert result.futures is not None
    np.testing.assert_array_equal(result.futures.actions, actions)
    assert (result.candidates.source, result.candidates.stamp_ns) in {("candidates", 0), ("planner", 42)}


def test_surprise_is_the_error_of_the_prediction_one_step_ago() -> None:
    with serve() as served:
        served.pipeline.add_action(frame(0).stamp_ns, np.array([1.0, 0.0], np.float32))
        served.feed(*(frame(index, 10) for index in range(6)), frame(6, 11), frame(7, 14))
    assert [result.surprise for result in served.results[:6]] == [None] * 6
    assert served.results[6].surprise == pytest.approx(0.0, abs=1e-5)
    assert served.results[7].surprise == pytest.approx(3.0, abs=1e-5)
    assert [result.surprising for result in served.results[6:]] == [False, True]


def test_futures_are_published_before_the_surprise_is_computed() -> None:
    calls: list[tuple[str, Result, int]] = []
    model = FakeModel()
    with serve(
        model,
        on_futures=lambda result: calls.append(("futures", result, model.surprises)),
        on_result=lambda result: calls.append(("result", result, model.surprises)),
    ) as served:
        served.pipeline.add_action(0, np.zeros(2, np.float32))
        served.feed(*(frame(number) for number in range(10)))
    early, late = calls[-2:]
    assert (early[0], late[0]) == ("futures", "result")
    assert early[1].surprise is None and late[1].surprise is not None
    assert early[2] == late[2] - 1
    assert early[1].futures is late[1].futures is not None
    assert early[1].timings_ms["total"] == late[1].timings_ms["total"]
    assert late[1].timings_ms["surprise"] > 0


def test_pipeline_without_futures_publishes_only_results() -> None:
    early: list[Result] = []
    with serve(FakeModel(history_size=3), on_futures=early.append) as served:
        served.feed(frame(0))
    assert early == [] and served.results[0].futures is None


def test_failing_futures_callback_is_counted_and_the_result_follows() -> None:
    def fail(result: Result) -> None:
        raise RuntimeError("no reader")

    with serve(on_futures=fail) as served:
        served.feed(frame(0))
    assert served.pipeline.stats().callback_errors == 1
    assert len(served.results) == 1 and str(served.errors[0][0]) == "no reader"


def test_surprise_without_known_actions_is_none() -> None:
    with serve() as served:
        served.feed(*(frame(index) for index in range(10)))
    assert all(result.surprise is None for result in served.results)


def test_gap_is_counted_and_reported() -> None:
    with serve() as served:
        served.feed(frame(0), frame(1), frame(100), frame(2))
    assert [result.reset for result in served.results] == [
        Reset.FIRST,
        None,
        Reset.GAP,
        Reset.CLOCK_BACKWARDS,
    ]
    assert served.pipeline.stats().resets == {
        "first": 1,
        "gap": 1,
        "clock_backwards": 1,
        "model": 0,
        "frame": 0,
    }


def test_model_with_a_longer_history_predicts_once_it_is_filled() -> None:
    with serve(FakeModel(history_size=2)) as served:
        served.pipeline.add_action(frame(0).stamp_ns, np.zeros(2, np.float32))
        served.feed(*(frame(index) for index in range(8)))
    assert [result.futures is not None for result in served.results] == [False] * 6 + [True] * 2


def test_action_space_with_a_single_value_needs_no_commands() -> None:
    model = FakeModel(history_size=2)
    model.manifest.io.action.low = model.manifest.io.action.high = [0.0, 0.0]
    model.manifest.takes_actions = False
    with serve(model) as served:
        served.feed(*(frame(index) for index in range(14)))
        served.feed(*(frame(index) for index in range(1, 14)))
    assert served.results[14].reset is Reset.CLOCK_BACKWARDS
    for last in (served.results[13], served.results[-1]):
        assert last.futures is not None and last.surprise == pytest.approx(0.0, abs=1e-5)


def test_failing_frame_is_counted_and_the_next_one_served() -> None:
    bad = Frame(np.zeros(3, np.uint8), frame(1).stamp_ns, "camera", 1)
    with serve() as served:
        served.feed(frame(0), bad, frame(2))
    assert [result.sequence for result in served.results] == [0, 2]
    assert [(str(error), about) for error, about in served.errors] == [("not an image", bad)]
    stats = served.pipeline.stats()
    assert (stats.received, stats.processed, stats.failed, stats.dropped) == (3, 2, 1, 0)


def test_invalid_action_is_reported_and_the_frame_served() -> None:
    with serve() as served:
        served.pipeline.add_action(0, np.array([np.nan, 0.0], np.float32))
        served.feed(frame(0))
    assert len(served.results) == 1
    assert "finite" in str(served.errors[0][0])


def test_non_finite_action_is_reported_and_later_ones_are_known() -> None:
    with serve() as served:
        for index in range(14):
            served.pipeline.add_action(
                frame(index).stamp_ns, np.array([1e30 if index == 4 else 0.5, 0.0], np.float32)
            )
            served.feed(frame(index))
    assert [str(error) for error, _ in served.errors] == [
        "action must be finite numbers of at most 1000, got [1.0000000150474662e+30, 0.0]"
    ]
    # The distance of one step at half a meter per second, which images do not show.
    surprises = [result.surprise for result in served.results if result.surprise is not None]
    assert surprises == [0.5] * 8


def test_failing_callback_is_counted_and_reported() -> None:
    def fail(result: Result) -> None:
        raise RuntimeError("disk full")

    with serve(on_result=fail) as served:
        served.feed(frame(0), frame(1))
    assert served.pipeline.stats().callback_errors == 2
    assert [str(error) for error, _ in served.errors] == ["disk full", "disk full"]


def test_errors_without_an_error_callback_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), serve(on_error=None) as served:
        served.feed(Frame(np.zeros(3, np.uint8), 5, "camera", 1))
    assert "not an image (frame 1, stamp 5 ns)" in caplog.text


def test_failing_error_callback_does_not_end_the_service(caplog: pytest.LogCaptureFixture) -> None:
    def fail(error: Exception, about: Frame | None) -> None:
        raise RuntimeError("reporting failed")

    with serve(on_error=fail) as served:
        served.feed(Frame(np.zeros(3, np.uint8), 5, "camera", 1), frame(2))
    assert len(served.results) == 1
    assert "reporting failed" in caplog.text


def test_overload_drops_frames_and_bounds_the_age() -> None:
    period_ms, clock = 10, {"ns": 0}
    began, may_end = threading.Semaphore(0), threading.Semaphore(1)

    class Slow(FakeModel):
        def encode(self, image: np.ndarray) -> np.ndarray:
            began.release()
            assert may_end.acquire(timeout=60)
            return super().encode(image)

    with serve(Slow(), deadline_ms=1.0, clock_ns=lambda: clock["ns"]) as served:
        assert began.acquire(timeout=60), "the warm-up"
        for index in range(61):
            if index < 60:
                served.pipeline.submit(frame(index))
            if index and index % 3 == 0:
                may_end.release()
            if index % 3 == 0:
                assert began.acquire(timeout=60)
            clock["ns"] += period_ms * 1_000_000
        may_end.release()
        assert served.pipeline.wait_idle(60)
    stats = served.pipeline.stats()
    assert stats.received == 60
    assert (stats.processed, stats.dropped) == (21, 39), "two of three frames, and the last is served"
    assert stats.late == stats.processed
    assert stats.deadline_misses == stats.longest_miss_run == stats.received
    # A frame waits at most for the one in progress: a queue would let the age grow from frame to frame.
    assert max(result.timings_ms["wait"] for result in served.results) <= 3 * period_ms
    assert [result.sequence for result in served.results] == [*range(0, 60, 3), 59]


def test_consecutive_misses_are_counted() -> None:
    now = iter(range(10**9))
    warm_up_ms = 50
    durations_ms = [warm_up_ms, 1, 9, 9, 1, 9]
    clock = {"ns": 0}

    class Paced(FakeModel):
        def encode(self, image: np.ndarray) -> np.ndarray:
            clock["ns"] += durations_ms[next(now)] * 1_000_000
            return super().encode(image)

    with serve(Paced(), deadline_ms=5.0, clock_ns=lambda: clock["ns"]) as served:
        served.feed(*(frame(index) for index in range(5)))
    assert [result.deadline_missed for result in served.results] == [False, True, True, False, True]
    stats = served.pipeline.stats()
    assert (stats.deadline_misses, stats.longest_miss_run) == (3, 2)


@pytest.mark.parametrize("history_size", [1, 2])
def test_pipeline_serves_a_real_model(tmp_path: Path, history_size: int) -> None:
    bundles = pytest.importorskip("tests.bundles", reason="onnx is not installed (extra dev)")
    bundles.make_bundle(tmp_path / "toy", history_size=history_size)
    results: list[Result] = []
    errors: list[str] = []
    pipeline = Pipeline(
        lambda: WorldModel.open(tmp_path / "toy"),
        on_result=results.append,
        on_error=lambda error, about: errors.append(str(error)),
    )
    with pipeline:
        source = TwoRoomsSource(seed=1)
        pipeline.set_goal(source.goal, 5)
        for each in itertools.islice(source.frames(), 20):
            assert source.command is not None
            pipeline.add_action(each.stamp_ns, source.command)
            pipeline.submit(each)
            assert pipeline.wait_idle(5.0)
        model = pipeline.model
    assert errors == []
    last = results[-1]
    assert last.futures is not None and last.futures.energies is not None
    assert last.futures.latents.shape == (bundles.NUM_SAMPLES, bundles.HORIZON, bundles.TOKENS, bundles.DIM)
    assert last.futures.energies.shape == (bundles.NUM_SAMPLES, bundles.HORIZON)
    assert last.current_energy is not None and last.current_energy > 0
    assert last.surprise is not None and last.surprise > 0
    assert [result.futures is not None for result in results] == [
        i >= 6 * (history_size - 1) for i in range(20)
    ]
    with pytest.raises(JepaRuntimeError, check=code("model.closed")):
        model.encode(np.zeros((8, 8, 3), np.uint8))


def test_consecutive_misses_include_dropped_and_failed_frames() -> None:
    in_time, late = (SimpleNamespace(reset=None, deadline_missed=missed) for missed in (False, True))
    counters = StreamCounters()
    counters.add(in_time, delivered=True, dropped=0)
    counters.add(late, delivered=True, dropped=2)
    counters.fail(dropped=2)
    counters.add(in_time, delivered=True, dropped=3)
    assert counters.stats(received=7, dropped=3).longest_miss_run == 5
    stats = counters.stats(received=13, dropped=9)
    assert (stats.late, stats.dropped, stats.failed, stats.deadline_misses) == (1, 9, 1, 11)
    assert stats.longest_miss_run == 6, "frames dropped after the last result"
