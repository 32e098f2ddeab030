"""MPPI: weights by the formula, and decreasing costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.mppi import MPPI, MPPIConfig, path_weights

HORIZON, SAMPLES = 4, 128
LIMITS = ActionLimits(low=np.full(2, -1, np.float32), high=np.ones(2, np.float32))


def search(seed: int = 0, **settings_: float) -> MPPI:
    chosen = {"num_samples": SAMPLES, "horizon": HORIZON, "topk": SAMPLES} | settings_
    return MPPI(MPPIConfig(**chosen), LIMITS, seed=seed)


def distance_to(target: np.ndarray, actions: np.ndarray) -> np.ndarray:
    return np.square(actions - target).sum(axis=(1, 2))


def test_weights_equal_the_formula() -> None:
    weights = path_weights(np.array([1.0, 2.0, 4.0]), temperature=2.0)
    unnormalised = np.exp([-0.5, -1.0, -2.0])
    np.testing.assert_allclose(weights, unnormalised / unnormalised.sum(), rtol=1e-6)


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=30), st.floats(1e-6, 1e6), st.floats(-100, 100))
def test_weights_sum_to_1_and_the_cheapest_has_the_largest(
    costs: list[float], temperature: float, offset: float
) -> None:
    weights = path_weights(np.array(costs) + offset, temperature)
    assert weights.sum() == pytest.approx(1, rel=1e-5)
    assert weights[int(np.argmin(np.array(costs) + offset))] == weights.max()


def test_extreme_cost_has_zero_weight() -> None:
    np.testing.assert_allclose(path_weights(np.array([3.0, 3.0, np.inf]), 1.0), [0.5, 0.5, 0])


def test_plan_is_the_weighted_mean_of_the_candidates() -> None:
    mppi = search(temperature=0.5)
    actions = mppi.ask()
    costs = distance_to(np.float32([0.5, -0.5]), actions)
    mppi.tell(costs)
    expected = np.einsum("k,kha->ha", path_weights(costs, 0.5), actions)
    np.testing.assert_allclose(mppi.mean, expected, atol=1e-5)


def test_only_elites_have_weight() -> None:
    mppi = search(topk=3, temperature=1e6)
    actions = mppi.ask()
    costs = distance_to(np.float32([0.5, -0.5]), actions)
    mppi.tell(costs)
    np.testing.assert_allclose(mppi.mean, actions[np.argsort(costs)[:3]].mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("refit_std", [False, True])
def test_mppi_finds_the_optimum_of_a_quadratic(seed: int, refit_std: bool) -> None:
    target = np.random.default_rng(seed).uniform(-0.7, 0.7, (HORIZON, 2)).astype(np.float32)
    mppi = search(
        seed, num_samples=512, topk=64, temperature=0.02, init_std=0.3, min_std=0.02, refit_std=refit_std
    )
    for _ in range(40):
        mppi.tell(distance_to(target, mppi.ask()))
    np.testing.assert_allclose(mppi.mean, target, atol=0.12)


def test_spread_is_constant_unless_refitted() -> None:
    def spread(refit_std: bool) -> float:
        mppi = search(constant_fraction=0.0, temperature=0.1, min_std=0.0, init_std=0.3, refit_std=refit_std)
        for _ in range(10):
            mppi.tell(distance_to(np.zeros(2, np.float32), mppi.ask()))
        return float((mppi.ask()[1:] - mppi.mean).std())

    assert spread(False) == pytest.approx(0.3, rel=0.1)
    assert spread(True) < 0.15


def test_refitted_spread_is_the_weighted_spread_of_the_elites() -> None:
    mppi = search(
        num_samples=4000, topk=4000, constant_fraction=0.0, temperature=0.3, min_std=0.0, init_std=0.2,
        refit_std=True,
    )  # fmt: skip
    actions = mppi.ask()
    costs = distance_to(np.float32([0.2, -0.1]), actions)
    mppi.tell(costs)
    squares = np.square(actions - mppi.mean)
    expected = np.sqrt(np.einsum("k,kha->ha", path_weights(costs, 0.3), squares))
    np.testing.assert_allclose((mppi.ask()[1:] - mppi.mean).std(axis=0), expected, rtol=0.06)


@settings(max_examples=40)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=12, max_size=12))
def test_plan_respects_the_limits_for_any_costs(costs: list[float]) -> None:
    mppi = search(num_samples=12, topk=6, refit_std=True)
    for _ in range(3):
        mppi.ask()
        with np.errstate(over="ignore"):
            mppi.tell(np.array(costs))
        assert np.isfinite(mppi.ask()).all()
        assert np.abs(mppi.mean).max() <= 1 + 1e-6


def test_plan_is_unchanged_when_no_cost_is_finite() -> None:
    mppi = search()
    mppi.tell(distance_to(np.float32([0.5, -0.5]), mppi.ask()))
    plan = mppi.mean.copy()
    mppi.ask()
    mppi.tell(np.full(SAMPLES, np.nan))
    np.testing.assert_array_equal(mppi.mean, plan)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_not_above_0_is_rejected(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be above 0"):
        MPPIConfig(temperature=temperature)
