"""Model swap between two frames without losing any, and rollback."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.serving import realtime
from jepa_runtime.serving.history import Reset
from jepa_runtime.serving.pipeline import Pipeline, Result
from tests.errors import code
from tests.runtime.fakes import DIM, TOKENS, FakeModel, frame, manifest


class Named(FakeModel):
    """A model whose latents are shifted by ``shift``, so that each result identifies it."""

    def __init__(self, shift: float = 0.0, *, space: str = "one", **options: Any) -> None:
        super().__init__(**options)
        self.latent_space = space
        self.shift = shift

    def encode(self, image: Any) -> Any:
        return super().encode(image) + np.float32(self.shift)


class Stage:
    """A started pipeline with ``first``, and its results."""

    def __init__(self, first: Named) -> None:
        self.results: list[Result] = []
        self.errors: list[Exception] = []
        self.changes: list[tuple[Any, bool]] = []
        self.pipeline = Pipeline(
            lambda: first,
            on_result=self.results.append,
            on_error=lambda error, _: self.errors.append(error),
            on_model=lambda model, stored: self.changes.append((model, stored)),
        )

    def feed(self, *sequences: int, value: int = 0) -> list[float]:
        """Return the latents of these frames."""
        before = len(self.results)
        for sequence in sequences:
            self.pipeline.submit(frame(sequence, value))
            assert self.pipeline.wait_idle(5.0)
        return [float(result.latent.mean()) for result in self.results[before:]]


@pytest.fixture
def first() -> Named:
    return Named(history_size=1)


@pytest.fixture
def stage(first: Named) -> Iterator[Stage]:
    stage = Stage(first)
    with stage.pipeline:
        yield stage


def test_swapped_model_serves_from_the_next_frame(stage: Stage, first: Named) -> None:
    second = Named(10.0)
    assert stage.feed(0, 1) == [0, 0]
    assert stage.pipeline.swap(lambda: second) is True
    assert stage.feed(2, 3) == [10, 10]
    assert stage.pipeline.model is second and stage.changes == [(second, True)]
    assert stage.pipeline.stats().processed == 4 and stage.pipeline.stats().dropped == 0


def test_huge_pages_are_merged_before_a_model_serves_and_not_during_service(
    first: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[str] = []
    monkeypatch.setattr(
        realtime, "collapse_huge_pages", lambda: joined.append(threading.current_thread().name)
    )
    stage = Stage(first)
    with stage.pipeline:
        assert joined == ["jepa-inference"]
        stage.pipeline.swap(lambda: Named(10.0))
        assert len(joined) == 1


def test_work_next_to_the_pipeline_waits_for_the_end_of_a_frame_with_a_timeout(stage: Stage) -> None:
    moments: list[float] = []

    def wait() -> None:
        stage.pipeline.wait_gap()
        moments.append(time.monotonic())

    began = time.monotonic()
    wait()
    assert 0.09 < moments.pop() - began < 2.0, "no frame arrived"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        time.sleep(0.02)
        assert not waiting.done()
        stage.feed(0)
        waiting.result(2.0)
    assert moments[0] - began < 2.0


def test_model_is_loaded_between_frames(toy_bundle: Path) -> None:
    gaps: list[None] = []
    options = BackendOptions(between=lambda: gaps.append(None))
    for engine in ("openvino:CPU", "onnxruntime:CPU"):
        pytest.importorskip(engine.partition(":")[0])
        gaps.clear()
        WorldModel.open(toy_bundle, engine=engine, options=options).close()
        assert len(gaps) >= 3, engine


def test_every_model_is_opened_used_and_closed_on_its_own_thread(stage: Stage, first: Named) -> None:
    threads: dict[str, set[int]] = {"first": set(), "second": set()}

    class Watched(Named):
        def encode(self, image: Any) -> Any:
            threads["second"].add(threading.get_ident())
            return super().encode(image)

        def close(self) -> None:
            threads["second"].add(threading.get_ident())
            super().close()

    second = Watched()
    stage.pipeline.swap(lambda: second)
    stage.feed(0)
    stage.pipeline.stop()
    assert len(threads["second"]) == 1 and threading.get_ident() not in threads["second"]
    assert first.closed and second.closed


def test_swap_within_a_latent_space_continues_the_history(stage: Stage) -> None:
    stage.pipeline.add_action(0, np.zeros(2, np.float32))
    stage.feed(0, 6)
    stage.pipeline.swap(Named)
    stage.feed(12)
    assert [result.reset for result in stage.results] == [Reset.FIRST, None, None]
    assert stage.results[-1].surprise is not None


def test_swap_to_another_latent_space_resets_the_history_and_keeps_the_actions(stage: Stage) -> None:
    stage.pipeline.add_action(0, np.ones(2, np.float32))
    stage.feed(0, 6)
    assert stage.pipeline.swap(lambda: Named(space="two")) is False
    stage.feed(12, 18)
    assert [result.reset for result in stage.results] == [Reset.FIRST, None, Reset.MODEL, None]
    assert stage.results[-2].surprise is None and stage.results[-1].surprise is not None


def test_goal_is_encoded_again_in_another_latent_space(stage: Stage) -> None:
    stage.pipeline.set_goal(np.full((8, 8, 3), 4, np.uint8), stamp_ns=7)
    stage.feed(0)
    stage.pipeline.swap(lambda: Named(10.0, space="two"))
    stage.feed(1, value=4)
    assert stage.results[-1].current_energy == 0 and stage.results[-1].goal_stamp_ns == 7


def test_dropped_goal_latent_does_not_return_with_its_model(stage: Stage) -> None:
    stage.pipeline.set_goal(np.zeros((TOKENS, DIM), np.float32), 7)
    stage.feed(0)
    stage.pipeline.swap(lambda: Named(10.0, space="two"))
    stage.feed(1)
    stage.pipeline.rollback()
    stage.feed(2)
    assert [result.goal_stamp_ns for result in stage.results] == [7, None, None]


def test_goal_latent_of_the_old_model_set_during_a_swap_is_discarded(first: Named) -> None:
    results: list[Result] = []

    def on_model(model: Any, stored: bool) -> None:
        pipeline.set_goal(np.zeros((TOKENS, DIM), np.float32), 7)

    pipeline = Pipeline(lambda: first, on_result=results.append, on_model=on_model)
    with pipeline:
        pipeline.swap(lambda: Named(10.0, space="two"))
        pipeline.submit(frame(0))
        assert pipeline.wait_idle(5.0)
        assert pipeline.rollback() is False
        pipeline.submit(frame(1))
        assert pipeline.wait_idle(5.0)
    assert [result.goal_stamp_ns for result in results] == [None, None]


def test_rollback_opens_nothing_and_works_in_both_directions(stage: Stage, first: Named) -> None:
    second = Named(10.0)
    stage.pipeline.swap(lambda: second)
    stage.feed(0)
    assert stage.pipeline.rollback() is True
    assert stage.feed(1) == [0]
    stage.pipeline.rollback()
    assert stage.feed(2) == [10] and not first.closed


def test_rollback_to_another_latent_space_resets_the_history(stage: Stage) -> None:
    stage.feed(0)
    stage.pipeline.swap(lambda: Named(space="two"))
    stage.feed(1)
    assert stage.pipeline.rollback() is False
    stage.feed(2)
    assert [result.reset for result in stage.results] == [Reset.FIRST, Reset.MODEL, Reset.MODEL]


def test_commit_closes_the_replaced_model_and_disables_rollback(stage: Stage, first: Named) -> None:
    stage.pipeline.swap(Named)
    stage.pipeline.commit()
    assert first.closed
    with pytest.raises(JepaRuntimeError, check=code("pipeline.no_rollback")):
        stage.pipeline.rollback()


def test_second_swap_closes_the_model_before_the_last(stage: Stage, first: Named) -> None:
    second, third = Named(10.0), Named(20.0)
    stage.pipeline.swap(lambda: second)
    stage.pipeline.swap(lambda: third)
    assert first.closed and not second.closed
    assert stage.feed(0) == [20]


def test_swap_of_a_stopped_pipeline_raises(stage: Stage) -> None:
    stage.pipeline.swap(Named)
    stage.pipeline.stop()
    for again in (lambda: stage.pipeline.swap(Named), stage.pipeline.rollback):
        with pytest.raises(JepaRuntimeError, check=code("pipeline.stopped")):
            again()
    assert not any(thread.name == "jepa-inference" for thread in threading.enumerate())


def refuse() -> Named:
    raise JepaRuntimeError("no such bundle", code="test.missing")


def foreign() -> Named:
    model = Named()
    model.manifest = manifest(high=(2.0, 2.0))
    return model


class Broken(Named):
    """A model that fails at its first run."""

    def encode(self, image: Any) -> Any:
        raise JepaRuntimeError("cannot run", code="test.broken")


BROKEN = [Broken()]


@pytest.mark.parametrize(
    ("open_model", "expected"),
    [
        (refuse, "test.missing"),
        (foreign, "bundle.incompatible_actions"),
        (lambda: BROKEN[0], "test.broken"),
    ],
)
def test_failed_swap_keeps_the_old_model_active(
    stage: Stage, first: Named, open_model: Any, expected: str
) -> None:
    with pytest.raises(JepaRuntimeError, check=code(expected)):
        stage.pipeline.swap(open_model)
    assert stage.feed(0, 1) == [0, 0]
    assert stage.pipeline.model is first and stage.changes == []
    assert BROKEN[0].closed == (open_model not in (refuse, foreign))


def test_callback_that_rejects_the_new_model_keeps_the_old_one_active(first: Named) -> None:
    def refuse_it(model: Any, stored: bool) -> None:
        raise RuntimeError("cannot announce it")

    other = Named(10.0, history_size=1)
    other.manifest.horizon, other.manifest.error_bounds = 2, (9.0, 9.0)
    results: list[Result] = []
    pipeline = Pipeline(lambda: first, on_result=results.append, on_model=refuse_it)
    pipeline.add_action(0, np.zeros(2, np.float32))
    with pipeline:
        with pytest.raises(RuntimeError, match="cannot announce"):
            pipeline.swap(lambda: other)
        pipeline.submit(frame(0))
        assert pipeline.wait_idle(5.0)
    assert results[0].latent.mean() == 0
    assert results[0].futures is not None
    np.testing.assert_allclose(results[0].futures.error_bounds, first.manifest.error_bounds)


def test_swaps_during_a_stream_lose_no_frame_and_mix_no_models(stage: Stage) -> None:
    """Each frame waits for the last: none is dropped, and each result is of one model, in order."""
    shifts = []
    for turn in range(1, 21):
        stage.pipeline.swap(lambda turn=turn: Named(100.0 * turn))
        shifts += stage.feed(*range(turn * 5, turn * 5 + 5))
    assert shifts == [100.0 * turn for turn in range(1, 21) for _ in range(5)]
    assert stage.pipeline.stats().dropped == 0 and not stage.errors
    assert sum(thread.name == "jepa-inference" for thread in threading.enumerate()) <= 2
