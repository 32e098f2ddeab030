"""Evaluation requests: complete results in time, or an error, without delaying frames."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.serving.evaluation import EvaluationQueue, EvaluationRequest, FrameTiming, ScoreRequest
from jepa_runtime.serving.pipeline import Evaluation, Pipeline
from tests.errors import code
from tests.runtime.fakes import DIM, HORIZON, NUM_SAMPLES, TOKENS, FakeModel, frame, manifest
from tests.runtime.pipelines import serve

MS = 1_000_000
PATIENCE_S = 5.0


def actions(count: int, steps: int = HORIZON) -> np.ndarray:
    return np.random.default_rng(count).uniform(-1, 1, (count, steps, 2)).astype(np.float32)


class Slow(FakeModel):
    """A model whose predictions take ``predict_s`` and are logged."""

    def __init__(self, predict_s: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self._predict_s = predict_s
        self.counts: list[int] = []

    def predict(self, request: np.ndarray, **kwargs: Any) -> Any:
        time.sleep(self._predict_s)
        self.counts.append(len(request))
        futures = super().predict(request, **kwargs)
        self.timings["predict"] = self._predict_s * 1e3
        return futures


@pytest.mark.parametrize("count", [1, NUM_SAMPLES - 1, NUM_SAMPLES, 2 * NUM_SAMPLES + 1])
def test_evaluation_predicts_any_number_of_sequences_from_the_newest_image(count: int) -> None:
    request = actions(count)
    model = Slow()
    with serve(model) as served:
        served.feed(frame(0, 2), frame(1, 7))
        model.counts.clear()
        result = served.pipeline.evaluate(request, timeout_s=PATIENCE_S)
    assert max(model.counts) <= NUM_SAMPLES and sum(model.counts) == count
    assert result.stamp_ns == frame(1).stamp_ns
    assert result.latents is not None and result.latents.shape == (count, HORIZON, TOKENS, DIM)
    np.testing.assert_allclose(result.latents[..., 0, 0], 7 + np.cumsum(request[:, :, 0], axis=1), rtol=1e-6)
    assert result.energies is None and result.current_energy is None and result.goal_stamp_ns is None
    assert result.error_bounds.tolist() == [0.5, 1.0, 1.5]


def test_evaluation_accepts_sequences_shorter_than_the_horizon() -> None:
    with serve() as served:
        served.feed(frame(0))
        result = served.pipeline.evaluate(actions(3, 1), timeout_s=PATIENCE_S)
    assert result.latents is not None and result.latents.shape[:2] == (3, 1)


def test_evaluation_returns_energies_to_the_goal_and_optionally_latents() -> None:
    request = actions(NUM_SAMPLES + 2)
    with serve() as served:
        served.pipeline.set_goal(np.full((8, 8, 3), 9, np.uint8), 77)
        served.feed(frame(0, 7))
        result = served.pipeline.evaluate(request, timeout_s=PATIENCE_S, latents=False)
    assert result.latents is None and result.goal_stamp_ns == 77
    assert result.current_energy == pytest.approx(4.0)
    assert result.energies is not None
    np.testing.assert_allclose(result.energies, (np.cumsum(request[:, :, 0], axis=1) - 2) ** 2, rtol=1e-4)


def test_evaluation_without_a_goal_and_latents_is_rejected() -> None:
    with serve() as served:
        served.feed(frame(0))
        with pytest.raises(JepaRuntimeError, check=code("evaluation.no_goal")):
            served.pipeline.evaluate(actions(2), timeout_s=PATIENCE_S, latents=False)
        served.feed(frame(1))
    assert len(served.results) == 2


@pytest.mark.parametrize(
    "sequences",
    [
        np.zeros((0, HORIZON, 2)),
        np.zeros((2, HORIZON + 1, 2)),
        np.zeros((2, 0, 2)),
        np.zeros((2, HORIZON, 3)),
        np.zeros((HORIZON, 2)),
        np.full((2, HORIZON, 2), np.nan),
        np.full((2, HORIZON, 2), 1001.0),
        np.where(np.arange(2 * HORIZON * 2) == 5, np.inf, 0.0).reshape(2, HORIZON, 2),
    ],
)
def test_evaluation_with_an_invalid_action_sequence_is_rejected_immediately(sequences: np.ndarray) -> None:
    with serve() as served, pytest.raises(ValueError, match=r"actions must be \[1\.\.65536, 1\.\.3, 2\]"):
        served.pipeline.evaluate(sequences, timeout_s=PATIENCE_S)


def test_evaluation_with_latents_beyond_memory_is_rejected() -> None:
    with serve() as served:
        served.model.manifest.io.latent.tokens = 65536
        with pytest.raises(ValueError, match="GiB"):
            served.pipeline.evaluate(actions(2000), timeout_s=PATIENCE_S)


def test_evaluation_waits_for_the_first_image_and_reports_a_timeout() -> None:
    with serve() as served, ThreadPoolExecutor() as others:
        with pytest.raises(JepaRuntimeError, check=code("evaluation.timeout")):
            served.pipeline.evaluate(actions(2), timeout_s=0.05)
        waits = others.submit(served.pipeline.evaluate, actions(2), timeout_s=PATIENCE_S)
        time.sleep(0.05)
        assert not waits.done()
        served.feed(frame(0))
        assert waits.result(PATIENCE_S).stamp_ns == frame(0).stamp_ns


def test_evaluation_of_a_stream_without_images_does_not_block_others() -> None:
    with serve(streams=("left", "right")) as served, ThreadPoolExecutor() as others:
        waits = others.submit(served.pipeline.evaluate, actions(2), timeout_s=3.0, stream="right")
        served.pipeline.submit(frame_of("left"))
        assert served.pipeline.evaluate(actions(2), timeout_s=2.5, stream="left").stamp_ns
        with pytest.raises(JepaRuntimeError, check=code("evaluation.timeout")):
            waits.result(PATIENCE_S)
        with pytest.raises(JepaRuntimeError, check=code("pipeline.unknown_stream")):
            served.pipeline.evaluate(actions(2), timeout_s=1.0, stream="up")


def frame_of(stream: str) -> Any:
    from dataclasses import replace

    return replace(frame(0), stream=stream)


class Schedule:
    """Frames on a schedule and requests between them, on a simulated clock."""

    def __init__(self, *, period: int, frame: int, run: int) -> None:
        self.now = self._due = 0
        self._period, self._frame, self.run = period, frame, run
        self._predict_ms, self._frames = run / MS, 0
        self._processor = FakeProcessor(1.0)
        predict = self._processor.model.predict

        def timed(*request: Any, **kwargs: Any) -> Any:
            self.now += self.run
            return predict(*request, **kwargs)

        self._processor.model.predict = timed  # type: ignore[method-assign]
        self.queue = EvaluationQueue(lambda: self.now)

    def go(self, frames: int) -> list[int]:
        """The time that each frame waited [ns]."""
        waits = []
        for _ in range(frames):
            waits.append(self.now - self._due)
            self.queue.add_frame("", self._due)
            self.now += self._frame
            # Each frame measures the predictor, and never twice the same.
            self._frames += 1
            self._processor.model.timings["predict"] = self._predict_ms + 1e-6 * self._frames
            self._due += self._period
            while self.now < self._due:
                patience_s = self.queue.frame_timeout_s()
                if patience_s == 0.0:
                    self.queue.run_next(self._processor)  # type: ignore[arg-type]
                else:
                    waited = self._period if patience_s is None else round(patience_s * 1e9)
                    self.now = min(self.now + waited, self._due)
        return waits


@given(
    period=st.integers(20, 100), share=st.floats(0.1, 0.9), run=st.integers(1, 60), count=st.integers(1, 60)
)
def test_evaluation_never_delays_a_frame(period: int, share: float, run: int, count: int) -> None:
    schedule = Schedule(period=period * MS, frame=round(share * period * MS), run=run * MS)
    schedule.go(3)
    request = EvaluationRequest(manifest(), actions(count), "", latents=True)  # type: ignore[arg-type]
    schedule.queue.submit(request)
    assert schedule.go(count) == [0] * count
    room = (1 - share) * period
    if run * 1.3 < room:
        assert request.future.done(), "each gap has room for at least one run"
    elif run > room:
        assert not request.has_started
        with pytest.raises(JepaRuntimeError, check=code("evaluation.timeout")):
            request.wait(0.0)


def test_evaluation_that_would_delay_the_next_pipelined_frame_does_not_run() -> None:
    now_ns = [0]
    with serve(Slow(predict_s=0.02), clock_ns=lambda: now_ns[0]) as served:
        for number in range(3):
            now_ns[0] = number * 20 * MS
            served.feed(frame(number))
        with pytest.raises(JepaRuntimeError, check=code("evaluation.timeout")):
            served.pipeline.evaluate(actions(2), timeout_s=0.1)


def test_delayed_evaluation_is_answered_when_the_camera_stops() -> None:
    schedule = Schedule(period=40 * MS, frame=20 * MS, run=30 * MS)
    schedule.go(3)
    request = make_request()
    schedule.queue.submit(request)
    schedule.go(3)
    assert not request.has_started
    while not request.future.done():
        assert schedule.now < 6 * 40 * MS + 100 * MS
        schedule.now += 10 * MS
        schedule.queue.run_next(schedule._processor)  # type: ignore[arg-type]


def test_evaluation_continues_after_a_single_slow_run() -> None:
    schedule = Schedule(period=40 * MS, frame=10 * MS, run=10 * MS)
    schedule.go(3)
    schedule.run = 60 * MS
    schedule.queue.submit(slow := make_request())
    schedule.go(2)
    assert slow.future.done()
    schedule.run = 10 * MS
    schedule._due = max(schedule._due, schedule.now)
    schedule.queue.submit(request := make_request())
    schedule.go(30)
    assert request.future.done()


def test_evaluation_continues_at_once_after_a_run_that_was_preempted() -> None:
    schedule = Schedule(period=33 * MS, frame=14 * MS, run=2 * MS)
    schedule.go(3)
    for run in (2 * MS, 2 * MS, 18 * MS):
        schedule.run = run
        schedule.queue.submit(make_request())
        schedule.go(1)
    schedule.run = 2 * MS
    schedule.queue.submit(request := make_request())
    schedule.go(1)
    assert request.future.done()


def test_scores_continue_after_a_slow_call_that_no_frame_repeats() -> None:
    """Without a goal, frames compute no energies: the last duration of an energy stays what it was."""
    schedule = Schedule(period=40 * MS, frame=10 * MS, run=10 * MS)
    schedule.go(3)
    schedule._processor.model.timings["energy"] = 150.0
    latents = np.zeros((3, TOKENS, DIM), np.float32)
    scores = ScoreRequest(manifest(), latents, latents[0], "", np.zeros(0, int))  # type: ignore[arg-type]
    schedule.queue.submit(scores)
    schedule.go(50)
    assert scores.future.done()


def test_frames_and_an_evaluation_of_many_runs_are_both_served() -> None:
    with serve() as served, ThreadPoolExecutor() as others:
        served.feed(frame(0))
        waits = others.submit(served.pipeline.evaluate, actions(50 * NUM_SAMPLES), timeout_s=30.0)
        number = 0
        while not waits.done():
            number += 1
            served.feed(frame(number))
            time.sleep(0.02)
        result = waits.result()
    assert result.latents is not None and len(result.latents) == 50 * NUM_SAMPLES
    assert len(served.results) == number + 1


def test_inference_thread_without_requests_sleeps() -> None:
    request = EvaluationQueue(time.perf_counter_ns)
    assert request.frame_timeout_s() is None
    request.submit(make_request())
    assert request.frame_timeout_s() == 0.0


def test_evaluation_rejected_during_its_run_is_answered_once() -> None:
    processor, request = FakeProcessor(1.0), EvaluationQueue(time.perf_counter_ns)
    predict = processor.model.predict

    def stopped_meanwhile(*args: Any, **named: Any) -> Any:
        request.close("stopped")
        return predict(*args, **named)

    processor.model.predict = stopped_meanwhile  # type: ignore[method-assign]
    request.submit(waits := make_request())
    request.run_next(processor)  # type: ignore[arg-type]
    with pytest.raises(JepaRuntimeError, check=code("pipeline.stopped")):
        waits.wait(0.0)


def make_request() -> EvaluationRequest:
    return EvaluationRequest(manifest(), actions(2), "", latents=True)  # type: ignore[arg-type]


def test_evaluation_queue_is_limited_and_excludes_cancelled_requests() -> None:
    waiting = [make_request() for _ in range(2)]
    request = EvaluationQueue(time.perf_counter_ns, limit=2)
    for each in waiting:
        request.submit(each)
    with pytest.raises(JepaRuntimeError, check=code("evaluation.too_many_pending")):
        request.submit(make_request())
    with pytest.raises(JepaRuntimeError, check=code("evaluation.timeout")):
        waiting[1].wait(0.01)
    request.submit(make_request())


def test_waiting_and_new_evaluations_of_a_stopped_pipeline_raise() -> None:
    pipeline = Pipeline(FakeModel, on_result=lambda result: None)
    pipeline.start()
    with ThreadPoolExecutor() as others:
        waits = others.submit(pipeline.evaluate, actions(2), timeout_s=60.0)
        while not pipeline._evaluations._pending:
            time.sleep(0.001)
        pipeline.stop()
        for call in (
            lambda: waits.result(PATIENCE_S),
            lambda: pipeline.evaluate(actions(2), timeout_s=60.0),
        ):
            with pytest.raises(JepaRuntimeError, check=code("pipeline.stopped")):
                call()


def test_model_error_is_raised_to_the_requester_and_frames_continue() -> None:
    class Failing(FakeModel):
        def predict(self, request: np.ndarray, **kwargs: Any) -> Any:
            if len(request) == 2:
                raise RuntimeError("out of memory")
            return super().predict(request, **kwargs)

    with serve(Failing()) as served:
        served.feed(frame(0))
        with pytest.raises(RuntimeError, match="out of memory"):
            served.pipeline.evaluate(actions(2), timeout_s=PATIENCE_S)
        served.feed(frame(1))
    assert len(served.results) == 2 and served.errors == []


class FakeProcessor:
    """A frame processor with a model and one image."""

    def __init__(self, value: float) -> None:
        from jepa_runtime.serving.history import Context

        self.model = FakeModel()
        latents = np.full((1, TOKENS, DIM), value, np.float32)
        self._context = Context(latents, np.zeros((0, 2), np.float32), int(value))

    def prediction_context(self, stream: str) -> Any:
        from jepa_runtime.serving.frame_processor import PredictionContext

        return PredictionContext(self._context, np.arange(HORIZON, dtype=np.float32), None, None)

    def predict(self, request: np.ndarray, context: Any, goal: Any) -> Any:
        return self.model.predict(
            request, latents=context.latents, history_actions=context.actions, goal=goal
        )


def test_all_futures_of_an_evaluation_have_one_model_and_one_image() -> None:
    first, second, request = FakeProcessor(1.0), FakeProcessor(2.0), actions(NUM_SAMPLES + 1)
    one = EvaluationRequest(manifest(), request, "", latents=True)  # type: ignore[arg-type]
    assert one.run(first) is None  # type: ignore[arg-type]
    assert one.run(second) is None, "it starts from the beginning"  # type: ignore[arg-type]
    second._context = first._context
    result = one.run(second)  # type: ignore[arg-type]
    assert isinstance(result, Evaluation) and result.stamp_ns == 2 and result.latents is not None
    assert result.error_bounds.tolist() == list(range(HORIZON)), "the learned bounds, not those of the bundle"
    np.testing.assert_allclose(result.latents[:, 0, 0, 0], 2 + request[:, 0, 0], rtol=1e-6)


@given(
    period=st.integers(10 * MS, 100 * MS),
    late=st.lists(st.integers(0, 3 * MS), min_size=2, max_size=8),
    after=st.floats(0, 4),
)
def test_next_frame_is_expected_one_period_after_the_last(period: int, late: list[int], after: float) -> None:
    moments = [number * period + jitter for number, jitter in enumerate(late)]
    timetable = FrameTiming()
    for moment in moments:
        timetable.add("", moment)
    now = moments[-1] + round(after * period)
    due = timetable.next_due_ns(now)
    if after > 2.7:
        assert due is None, "a stopped camera is not waited for"
    elif after < 1.3:
        assert due is not None and abs(due - moments[-1] - period) <= 6 * MS


def test_next_frame_is_expected_at_its_regular_time_after_one_was_late() -> None:
    timetable = FrameTiming()
    for moment in (0, 33, 66, 109, 132, 165):
        timetable.add("", moment)
    assert timetable.next_due_ns(166) == 198, "one interval of 23 makes no period of 23"
    timetable.add("", 208)
    assert timetable.next_due_ns(209) == 231, "after a late frame, the next one may be on time"


def test_next_frame_of_a_camera_with_two_rates_is_expected_at_the_higher_one() -> None:
    timetable = FrameTiming()
    for moment in (0, 33, 100, 133, 200):
        timetable.add("", moment)
    assert timetable.next_due_ns(201) == 233


def test_missing_frames_do_not_move_the_time_of_the_next_frame() -> None:
    timetable = FrameTiming()
    for moment in (0, 33, 66, 132, 165):
        timetable.add("", moment)
    assert timetable.next_due_ns(166) == 198


def test_next_frame_belongs_to_the_stream_that_is_due_first() -> None:
    timetable = FrameTiming()
    for stream, moments in {"slow": (0, 100), "fast": (50, 80, 110), "new": (115,)}.items():
        for moment in moments:
            timetable.add(stream, moment)
    assert timetable.next_due_ns(120) == 140
    assert timetable.next_due_ns(175) == 200


def test_swap_does_not_wait_for_an_evaluation_of_many_runs() -> None:
    first = Slow(predict_s=0.01)
    second = Slow(predict_s=0.0)
    with serve(first) as served, ThreadPoolExecutor() as others:
        served.feed(frame(0))
        waits = others.submit(served.pipeline.evaluate, actions(200 * NUM_SAMPLES), timeout_s=30.0)
        time.sleep(0.1)
        served.pipeline.swap(lambda: second)
        assert not waits.done()
        result = waits.result(PATIENCE_S)
    assert result.latents is not None and len(result.latents) == 200 * NUM_SAMPLES
    assert second.counts.count(NUM_SAMPLES) > 200, "all of it was requested from the second"


def test_scores_fit_between_frames_that_leave_no_time_for_predictions() -> None:
    schedule = Schedule(period=40 * MS, frame=30 * MS, run=30 * MS)
    schedule.go(3)
    schedule.queue.submit(predictions := make_request())
    latent = np.zeros((1, TOKENS, DIM), np.float32)
    schedule.queue.submit(
        scores := ScoreRequest(manifest(), latent, latent[0], "", np.zeros(0, int))  # type: ignore[arg-type]
    )
    assert schedule.go(5) == [0] * 5
    assert scores.future.done() and not predictions.has_started


def test_scores_of_many_latents_are_computed_in_parts_between_frames() -> None:
    schedule = Schedule(period=40 * MS, frame=30 * MS, run=30 * MS)
    schedule.go(3)
    model = schedule._processor.model
    energy, counts = model.energy, []

    def timed(latents: np.ndarray, goal: np.ndarray) -> np.ndarray:
        schedule.now += 7 * MS
        counts.append(len(latents))
        return energy(latents, goal)

    model.energy = timed  # type: ignore[method-assign]
    model.timings["energy"] = 7.0
    block = NUM_SAMPLES * HORIZON
    latents = np.arange(2 * block + 1, dtype=np.float32)[:, None, None] + np.zeros(
        (1, TOKENS, DIM), np.float32
    )
    schedule.queue.submit(
        scores := ScoreRequest(manifest(), latents, latents[5], "", np.zeros(0, int))  # type: ignore[arg-type]
    )
    assert schedule.go(5) == [0] * 5
    assert counts == [block, block, 1]
    np.testing.assert_array_equal(scores.wait(0.0).energies, energy(latents, latents[5]))
