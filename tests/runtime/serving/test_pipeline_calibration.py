"""Calibration in the pipeline: error samples, bounds and alarms."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jepa_runtime.errors import BackendError
from jepa_runtime.model.world_model import Futures
from jepa_runtime.serving.history import Reset
from jepa_runtime.serving.pipeline import Pipeline, Result
from jepa_runtime.util.finite import are_finite
from tests.errors import code
from tests.runtime.fakes import DIM, HORIZON, STEP_S, TOKENS, FakeModel, frame
from tests.runtime.pipelines import Served, serve

PER_STEP = 6
SIZE = np.sqrt(TOKENS * DIM)


def normal(model: FakeModel) -> FakeModel:
    """A model with normal data: scores up to 1."""
    model.manifest.normal_scores = SimpleNamespace(block=HORIZON, highest=np.linspace(0.01, 1.0, 400))
    return model


def run(served: Served, values: list[float], first: int = 0) -> list[Result]:
    """Process frames of these gray values while the robot stands, and return the results."""
    before = len(served.results)
    served.pipeline.add_action(frame(first).stamp_ns, np.zeros(2, np.float32))
    served.feed(*(frame(index, int(value)) for index, value in enumerate(values, start=first)))
    return served.results[before:]


def test_futures_include_the_learned_bounds() -> None:
    with serve() as served:
        # Each frame is one level brighter than the last: after h steps the error is 6 h.
        results = run(served, list(range(200)))
        start = served.model.manifest.error_bounds
    first, last = results[0], results[-1]
    assert first.calibration is not None and last.calibration is not None
    assert first.calibration.bounds.tolist() == pytest.approx(start)
    assert last.futures is not None
    np.testing.assert_allclose(last.futures.error_bounds, last.calibration.bounds.astype(np.float32))
    assert (last.calibration.bounds > np.array(start)).all()
    *_, (now, evaluated) = (
        (at, result.error_sample) for at, result in enumerate(results) if result.error_sample
    )
    np.testing.assert_allclose(evaluated.errors, PER_STEP * SIZE * np.arange(1, HORIZON + 1))
    # The prediction of one step ago is compared with its bounds; those further back are a horizon ago.
    predictions = [now - age * PER_STEP for age in (1, *[HORIZON] * (HORIZON - 1))]
    stated = [results[at].calibration.bounds[row] for row, at in enumerate(predictions)]  # type: ignore[union-attr]
    assert evaluated.stated.tolist() == stated


def test_errors_are_recorded_once_per_step_after_a_full_horizon() -> None:
    with serve() as served:
        results = run(served, [7] * 61)
    evaluated = [result.sequence for result in results if result.error_sample is not None]
    assert evaluated == list(range(HORIZON * PER_STEP, 61, PER_STEP))
    share = results[-1].calibration.overall  # type: ignore[union-attr]
    assert [each.errors for each in share] == [len(evaluated) - 1] * HORIZON, (
        "the last error arrived after its futures"
    )


@pytest.mark.parametrize(
    ("tolerance_s", "early_ns", "evaluated"),
    [(None, 24_000_000, True), (None, 26_000_000, False), (0.01, 9_000_000, True), (0.01, 11_000_000, False)],
)
def test_errors_are_recorded_up_to_the_tolerance_before_the_end_of_a_step(
    tolerance_s: float | None, early_ns: int, evaluated: bool
) -> None:
    step_ns = round(STEP_S * 1e9)
    stamps_ns = [step_ns * step for step in range(1, HORIZON + 3)]
    stamps_ns[-1] -= early_ns
    with serve(tolerance_s=tolerance_s) as served:
        served.pipeline.add_action(stamps_ns[0], np.zeros(2, np.float32))
        served.feed(*(replace(frame(0), stamp_ns=stamp_ns) for stamp_ns in stamps_ns))
    assert [result.error_sample is not None for result in served.results[HORIZON:]] == [True, evaluated]


def test_results_do_not_wait_for_their_errors() -> None:
    order: list[str] = []

    class Model(FakeModel):
        def predict(self, actions: NDArray[np.float32], **kwargs: Any) -> Futures:
            order.append("futures")
            return super().predict(actions, **kwargs)

        def predict_each(self, requests: Any) -> Any:
            order.append("looked back")
            return super().predict_each(requests)

    with serve(
        Model(), on_result=lambda _: order.append("result"), on_calibration=lambda _: order.append("judged")
    ) as served:
        run(served, [5] * (HORIZON * PER_STEP + 1))
    assert order[-4:] == ["futures", "result", "looked back", "judged"]
    assert order.count("looked back") == 1


def test_newest_latent_is_compared_with_its_predictions_at_several_horizons() -> None:
    with serve() as served:
        results = run(served, [5] * 60 + [200] * 6)
    evaluated = results[60].error_sample
    assert evaluated is not None and evaluated.score is not None
    ages, off = sorted({1, HORIZON // 2, HORIZON}), 195 * SIZE
    expected = [off if age in ages else 0.0 for age in range(1, HORIZON + 1)]
    np.testing.assert_allclose(evaluated.errors, expected)
    scales = [served.model.manifest.error_bounds[age - 1] for age in ages]
    assert evaluated.score.value == pytest.approx(np.mean([off / scale for scale in scales]))


def test_bounds_have_the_requested_coverage() -> None:
    values, model = np.random.default_rng(0).integers(0, 100, 1500), FakeModel()
    model.manifest.error_bounds = (100.0,) * HORIZON
    with serve(model, error_probability=0.6) as served:
        last = run(served, values.tolist())[-1].calibration
    assert last is not None and last.probability == 0.6
    for share in last.recent:
        assert share.value == pytest.approx(0.6, abs=0.08)


def test_errors_without_known_actions_are_not_recorded() -> None:
    with serve() as served:
        served.feed(*(frame(index) for index in range(60)))
    assert all(result.error_sample is None and result.surprise is None for result in served.results)


def test_jump_raises_an_alarm_that_ends() -> None:
    with serve(normal(FakeModel()), false_alarm_every_s=60.0) as served:
        assert served.pipeline.alarms_disabled_reason == ""
        results = run(served, [5] * 60 + [200] * 100)
    messages = [(result.sequence, alarm) for result in results for alarm in result.alarms]
    (begun_at, begun), (ended_at, ended) = messages
    assert 60 <= begun_at < 60 + PER_STEP and begun.end_ns is None and begun.kind == "surprise"
    assert begun.event.start_ns == frame(begun_at).stamp_ns
    assert ended.end_ns == frame(ended_at).stamp_ns and ended_at > begun_at + HORIZON * PER_STEP


def test_gap_ends_an_alarm_and_no_error_spans_it() -> None:
    with serve(normal(FakeModel()), false_alarm_every_s=60.0) as served:
        run(served, [5] * 60 + [200] * 7)
        after = run(served, [100] * 40, first=200)
    assert after[0].reset is Reset.GAP
    (ended,) = after[0].alarms
    assert ended.end_ns == served.results[66].stamp_ns or ended.end_ns == served.results[60].stamp_ns
    assert not any(result.alarms for result in after[1:])


def test_alarms_without_normal_data_are_disabled_with_the_reason() -> None:
    with serve() as served:
        assert "has no normal data" in served.pipeline.alarms_disabled_reason
        results = run(served, [5] * 60 + [200] * 60)
    assert not any(result.alarms for result in results)
    with serve(normal(FakeModel()), false_alarm_every_s=1e6) as served:
        assert "too few" in served.pipeline.alarms_disabled_reason


def test_swapped_model_of_the_same_latent_space_keeps_the_bounds() -> None:
    other = FakeModel()
    with serve() as served:
        learned = run(served, list(range(200)))[-1].calibration
        assert served.pipeline.swap(lambda: other) is True
        served.model = other
        after = run(served, [200], first=200)[-1].calibration
    assert learned is not None and after is not None
    assert (after.bounds > 0.9 * learned.bounds).all()
    assert [share.errors for share in after.overall] == [0] * HORIZON


def test_swapped_model_with_a_longer_horizon_is_evaluated_over_its_own() -> None:
    other = FakeModel()
    other.manifest.horizon, other.manifest.error_bounds = HORIZON + 2, (1.0,) * (HORIZON + 2)
    with serve() as served:
        run(served, [5] * 60)
        assert served.pipeline.swap(lambda: other) is True
        served.model = other
        after = run(served, [5] * 60, first=60)
    *_, evaluated = (result.error_sample for result in after if result.error_sample)
    assert evaluated.errors.tolist() == [0.0] * (HORIZON + 2)


def test_swapped_model_of_another_latent_space_starts_with_its_own_bounds() -> None:
    other = FakeModel()
    other.latent_space = "another"
    with serve() as served:
        run(served, list(range(200)))
        assert served.pipeline.swap(lambda: other) is False
        after = run(served, [200], first=200)[-1].calibration
    assert after is not None
    assert after.bounds.tolist() == pytest.approx(other.manifest.error_bounds)


@pytest.mark.parametrize("inputs", [{"error_probability": 1.0}, {"false_alarm_every_s": 0.0}])
def test_unsatisfiable_coverage_is_rejected(inputs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(inputs))):
        Pipeline(FakeModel, on_result=lambda result: None, **inputs)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["latents", "futures", "surprises", "energies", "present energies"])
def test_model_with_non_finite_outputs_fails_instead_of_reporting_no_surprise(
    what: str, number: float
) -> None:
    class Broken(FakeModel):
        def spoil(self, numbers: NDArray[np.float32], *, seen: float, of: str) -> NDArray[np.float32]:
            if (what, seen) == (of, 9):
                numbers.flat[-1] = number
            return numbers

        def encode(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
            return self.spoil(super().encode(frame), seen=frame.mean(), of="latents")

        def predict(self, *args: Any, latents: NDArray[np.float32], **kwargs: Any) -> Futures:
            futures = super().predict(*args, latents=latents, **kwargs)
            self.spoil(futures.latents, seen=latents.mean(), of="futures")
            if futures.energies is not None:
                for of in ("futures", "energies"):
                    self.spoil(futures.energies, seen=latents.mean(), of=of)
            return futures

        def energy(self, latents: NDArray[np.float32], goal: NDArray[np.float32]) -> NDArray[np.float32]:
            result = np.array(super().energy(latents, goal))
            return self.spoil(result, seen=0 if result.ndim else latents.mean(), of="present energies")

        def surprise(self, *known: Any, **states: Any) -> float:
            result = np.array(super().surprise(*known, **states))
            return float(self.spoil(result, seen=known[-1].mean(), of="surprises"))

    with serve(Broken()) as served:
        served.pipeline.set_goal(np.full((16, 16, 3), 5, np.uint8), 0)
        run(served, [1] * 20 + [9] + [1] * 20)
        assert served.pipeline.stats().failed == 1
    ((error, about),) = served.errors
    assert f"the {what.removeprefix('present ')} are not finite" in str(error)
    assert about is not None and about.sequence == 20
    assert len(served.results) == 40
    assert all(np.isfinite(result.surprise or 0) for result in served.results)


def test_energies_of_a_separate_graph_do_not_validate_the_futures() -> None:
    class Broken(FakeModel):
        def predict(self, *args: Any, **kwargs: Any) -> Futures:
            futures = super().predict(*args, **kwargs)
            futures.latents[0, 0] = np.nan
            return futures

    model = Broken()
    model.manifest.graphs.energy = ["graph"]
    with serve(model) as served:
        served.pipeline.set_goal(np.full((16, 16, 3), 5, np.uint8), 0)
        run(served, [1])
    assert "the futures are not finite" in str(served.errors[0][0])


@given(
    st.integers(1, 3000),
    st.sampled_from([0.0, -1.5, 1e-45, 3.4e38, -3.4e38]),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.data(),
)
def test_single_non_finite_value_is_detected_at_any_position(
    count: int, other: float, bad: float, data: st.DataObject
) -> None:
    numbers = np.full((1, count), other, np.float32)
    assert are_finite(numbers)
    numbers[0, data.draw(st.integers(0, count - 1))] = bad
    assert not are_finite(numbers)


def test_non_finite_futures_are_not_returned_by_an_evaluation() -> None:
    class Broken(FakeModel):
        def predict(self, request: NDArray[np.float32], **kwargs: Any) -> Futures:
            futures = super().predict(request, **kwargs)
            futures.latents[request[..., 0] > 5] = np.nan
            return futures

    with serve(Broken()) as served:
        run(served, [1])
        with pytest.raises(BackendError, check=code("backend.output_not_finite")):
            served.pipeline.evaluate(np.full((1, 1, 2), 9.0), timeout_s=5.0)
    assert len(served.results) == 1
