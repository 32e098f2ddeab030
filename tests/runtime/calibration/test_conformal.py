"""Bounds: their coverage of known error streams, and their transfer to another model."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.calibration import Bounds, conformal_quantile
from jepa_runtime.calibration.conformal import DECAY, FIRST_RATE, MIN_RATE

STREAMS = 50  # Each stream takes the place of a horizon, so that many run at once.
STEPS = 4000
PROBABILITY = 0.9


def gaussian(rng: np.random.Generator) -> np.ndarray:
    return np.abs(rng.standard_normal((STEPS, STREAMS)))


def heavy_tailed(rng: np.random.Generator) -> np.ndarray:
    return np.abs(rng.standard_t(2, (STEPS, STREAMS)))


def autocorrelated(rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal((STEPS, STREAMS))
    for step in range(1, STEPS):
        noise[step] = 0.95 * noise[step - 1] + math.sqrt(1 - 0.95**2) * noise[step]
    return np.exp(noise / 2)


def drifting(rng: np.random.Generator) -> np.ndarray:
    return gaussian(rng) * np.linspace(1, 3, STEPS)[:, None]


def make(streams: int = STREAMS, delay: int = 6, start: float = 1.6) -> Bounds:
    return Bounds([start] * streams, probability=PROBABILITY, delays=[delay] * streams, latent_space="a")


def rate(count: int, delay: int) -> float:
    """Return the rate of the ``count``-th error."""
    return min(max(FIRST_RATE * count**-DECAY, MIN_RATE), 1 / max(delay, 1))


def covered(bounds: Bounds, errors: np.ndarray, delay: int) -> np.ndarray:
    """Return whether each error [steps, streams] is within the bound stated ``delay`` steps earlier."""
    stated = [bounds.current()] * delay
    within = np.empty(errors.shape, bool)
    for step, arrived in enumerate(errors):
        stated.append(bounds.current())
        within[step] = arrived <= stated[step]
        bounds.update(arrived, stated[step])
    return within


@pytest.mark.parametrize("delay", [0, 6, 48])
@pytest.mark.parametrize("stream", [gaussian, heavy_tailed, autocorrelated, drifting])
def test_bounds_have_the_stated_coverage(
    stream: Callable[[np.random.Generator], np.ndarray], delay: int
) -> None:
    within = covered(make(delay=delay), stream(np.random.default_rng(1)), delay)
    assert abs(within[500:].mean() - PROBABILITY) < 0.02


@pytest.mark.parametrize("delay", [0, 6, 48])
@pytest.mark.parametrize("factor", [3, 1 / 3])
def test_bounds_have_the_stated_coverage_200_steps_after_errors_scale_by_three(
    factor: float, delay: int
) -> None:
    errors = gaussian(np.random.default_rng(2))
    change = STEPS // 2
    errors[change:] *= factor
    within = covered(make(delay=delay), errors, delay)
    # Where errors shrink, a bound can fall only by alpha times the rate a step.
    settled = change + (200 if factor > 1 else 1000)
    assert abs(within[change : change + 100].mean() - PROBABILITY) > 0.05
    assert abs(within[settled : settled + 200].mean() - PROBABILITY) < 0.02
    assert abs(within[settled:].mean() - PROBABILITY) < 0.02


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=300),
    st.floats(0.5, 0.99),
    st.integers(0, 20),
    st.floats(1e-2, 1e2),
)
def test_miss_rate_is_bounded_for_any_errors(
    errors: list[float], probability: float, delay: int, start: float
) -> None:
    bounds = Bounds([start], probability=probability, delays=[delay], latent_space="a")
    within = covered(bounds, np.array(errors)[:, None], delay)
    width = math.log(1e3 / 1e-3) + rate(1, delay) * (1 + delay)
    # The bound falls no further than a thousandth of its start, after which there are fewer misses.
    excess = (1 - within).mean() - (1 - probability)
    assert excess <= width / (rate(len(errors), delay) * len(errors)) + 1e-9


def test_bounds_four_misses_from_the_start_widen_3_times() -> None:
    bounds = make(1, delay=1, start=1.0)
    for _ in range(4):
        bounds.update(np.array([9.0]), bounds.current())
    assert 3.0 < bounds.current()[0] < 3.5


def test_bounds_rate_stops_decaying_at_its_floor() -> None:
    bounds = make(1, delay=1, start=1.0)
    covered(bounds, gaussian(np.random.default_rng(4))[:1000, :1], 1)
    before = bounds.current()
    bounds.update(np.array([9.0]), before)
    assert np.log(bounds.current() / before) == pytest.approx(MIN_RATE * PROBABILITY)


def test_bounds_rate_starts_again_with_another_model() -> None:
    first, second = make(1, start=1.0), make(1, start=1.0)
    covered(first, gaussian(np.random.default_rng(4))[:1000, :1], 1)
    second.adopt_state(first)
    before = second.current()
    second.update(np.array([1e3]), before)
    assert np.log(second.current() / before) == pytest.approx(rate(1, 6) * PROBABILITY)


@pytest.mark.parametrize("delay", [0, 8])
def test_bounds_that_start_a_third_too_small_hold_within_100_errors(delay: int) -> None:
    errors = gaussian(np.random.default_rng(5))
    within = covered(make(delay=delay, start=1.645 / 3), errors, delay)
    # A fixed rate of 0.05 covers 0.71 of the first 100 and 0.88 of the next.
    assert within[:100].mean() > 0.78
    assert within[100:200].mean() == pytest.approx(PROBABILITY, abs=0.015)


@given(st.lists(st.floats(0, 1e6), max_size=200))
def test_bounds_stay_positive_and_finite(errors: list[float]) -> None:
    bounds = make(streams=1, start=0.5)
    for error in errors:
        bounds.update(np.array([error]), bounds.current())
    assert 0 < bounds.current()[0] < math.inf


def test_bounds_after_a_night_at_rest_recover_as_fast_as_from_a_thousandth() -> None:
    bounds = make(streams=1, start=0.5)
    for _ in range(20_000):
        bounds.update(np.zeros(1), bounds.current())
    assert bounds.current()[0] == pytest.approx(0.5e-3)


def test_bound_without_an_initial_value_is_infinite_until_the_first_error() -> None:
    bounds = Bounds([0.0, 0.5], probability=0.9, delays=[0, 0], latent_space="a")
    stated = bounds.current()
    assert stated.tolist() == [math.inf, pytest.approx(0.5)]
    bounds.update(np.array([0.2, math.nan]), stated)
    assert bounds.current() == pytest.approx([0.2, 0.5])


def test_error_of_zero_sets_no_bound() -> None:
    bounds = Bounds([0.0], probability=0.9, delays=[0], latent_space="a")
    bounds.update(np.zeros(1), bounds.current())
    assert bounds.current().tolist() == [math.inf]


@pytest.mark.parametrize("delay", [1, 20, 100, 1000])
def test_bound_waiting_for_its_first_error_grows_by_a_factor_of_at_most_e(delay: int) -> None:
    bounds = make(1, delay, start=1.0)
    stated = bounds.current()
    for _ in range(delay):
        bounds.update(np.array([9.0]), stated)
    assert 1.0 < bounds.current()[0] <= math.e


def test_error_equal_to_its_bound_is_covered() -> None:
    bounds = make(1, start=1.0)
    bounds.update(np.array([1.0]), np.array([1.0]))
    assert bounds.current()[0] < 1.0


def test_missing_error_changes_nothing() -> None:
    bounds = make(streams=2)
    bounds.update(np.array([math.nan, 9.0]), bounds.current())
    stated = bounds.current()
    assert stated[0] == pytest.approx(1.6)
    assert stated[1] > 1.6


def test_learned_bounds_are_transferred_between_equal_latent_spaces() -> None:
    first, second = make(streams=3), make(streams=3)
    covered(first, gaussian(np.random.default_rng(3))[:200, :3] * 2, 0)
    second.adopt_state(first)
    assert second.current() == pytest.approx(first.current())
    second.adopt_state(Bounds([0.5, 1e-9, 0], probability=0.9, delays=[0] * 3, latent_space="a"))
    assert second.current() == pytest.approx([0.5, 1.6e-3, math.inf]), "none below a thousandth of its start"


@pytest.mark.parametrize(("space", "probability", "horizons"), [("b", 0.9, 2), ("a", 0.8, 2), ("a", 0.9, 3)])
def test_learned_bounds_of_another_latent_space_are_not_transferred(
    space: str, probability: float, horizons: int
) -> None:
    bounds = make(streams=2)
    other = Bounds([1.0] * horizons, probability=probability, delays=[0] * horizons, latent_space=space)
    bounds.adopt_state(other)
    assert bounds.current() == pytest.approx([1.6, 1.6])


@pytest.mark.parametrize(
    ("start", "probability", "delays", "message"),
    [
        ([], 0.9, [], "start"),
        ([-1.0], 0.9, [0], "start"),
        ([1.0, math.nan], 0.9, [0, 0], "start"),
        ([[1.0]], 0.9, [[0]], "start"),
        ([math.inf], 0.9, [0], "start"),
        ([1.0], 1.0, [0], "probability"),
        ([1.0], 0.0, [0], "probability"),
        ([1.0], 0.9, [0, 1], "delays"),
        ([1.0], 0.9, [-1], "delays"),
        ([1.0, 1.0], 0.9, [0, -1], "delays"),
    ],
)
def test_arguments_out_of_range_are_named(
    start: list[float], probability: float, delays: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Bounds(start, probability=probability, delays=delays, latent_space="a")


@pytest.mark.parametrize("error", [-1.0, math.inf])
def test_error_that_is_not_a_norm_is_rejected(error: float) -> None:
    bounds = make(streams=1)
    with pytest.raises(ValueError, match="finite and not negative"):
        bounds.update(np.array([error]), bounds.current())


@pytest.mark.parametrize(("errors", "stated"), [(1, 2), (2, 1), (3, 3)])
def test_errors_of_other_horizons_are_rejected(errors: int, stated: int) -> None:
    with pytest.raises(ValueError, match=rf"must be \[2\], got \[{errors}\] and \[{stated}\]"):
        make(streams=2).update(np.ones(errors), np.ones(stated))


def test_update_with_a_higher_minimum_rate_does_not_decay_below_it() -> None:
    bounds = Bounds([1.0], probability=0.9, delays=[0], latent_space="a", min_rate=0.5)
    for _ in range(100):
        bounds.update(np.array([1.0]), np.array([0.5]))
    assert float(bounds.current()[0]) == pytest.approx(math.exp(100 * 0.5 * 0.9))


@pytest.mark.parametrize("min_rate", [0.0, 0.6])
def test_minimum_rate_out_of_range_raises(min_rate: float) -> None:
    with pytest.raises(ValueError, match="min_rate"):
        Bounds([1.0], probability=0.9, delays=[0], latent_space="a", min_rate=min_rate)


@pytest.mark.parametrize(
    ("count", "probability", "rank"), [(19, 0.95, 19), (18, 0.95, None), (99, 0.9, 90), (100, 0.9, 91)]
)
def test_conformal_quantile_is_the_stated_order_statistic(
    count: int, probability: float, rank: int | None
) -> None:
    errors = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert conformal_quantile(errors, probability) == (math.inf if rank is None else rank)


def test_conformal_quantile_covers_the_next_error_with_the_probability() -> None:
    errors = np.random.default_rng(0).standard_normal((4000, 40))
    within = [row[-1] <= conformal_quantile(row[:-1], 0.9) for row in errors]
    assert np.mean(within) == pytest.approx(0.9, abs=0.015)


@pytest.mark.parametrize(
    ("errors", "probability"), [(np.zeros((2, 2)), 0.9), (np.array([np.nan]), 0.9), (np.zeros(2), 1.0)]
)
def test_conformal_quantile_of_bad_input_raises(errors: np.ndarray, probability: float) -> None:
    with pytest.raises(ValueError):
        conformal_quantile(errors, probability)
