"""Common behavior of all searches: noise, retained elites, shifts, settings."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.mppi import MPPI, MPPIConfig
from jepa_runtime.planning.search import Search, SearchConfig, noise_matrix

HORIZON = 6


def limits(max_change: float | None = None) -> ActionLimits:
    change = None if max_change is None else np.full(2, max_change, np.float32)
    return ActionLimits(low=np.full(2, -1, np.float32), high=np.ones(2, np.float32), max_change=change)


def both(max_change: float | None = None, **settings: float) -> list[Search]:
    """Return a CEM and an MPPI with the same settings."""
    chosen = {"num_samples": 32, "horizon": HORIZON, "topk": 6} | settings
    within = limits(max_change)
    return [CEM(CEMConfig(**chosen), within, seed=3), MPPI(MPPIConfig(**chosen), within, seed=3)]


def costs_of(actions: np.ndarray) -> np.ndarray:
    return np.square(actions - np.float32([0.6, -0.3])).sum(axis=(1, 2))


@pytest.mark.parametrize("beta", [0.5, 2.0, 4.0])
def test_colored_noise_has_variance_1_at_every_step(beta: float) -> None:
    matrix = noise_matrix(HORIZON, beta)
    np.testing.assert_allclose((matrix @ matrix.T).diagonal(), np.ones(HORIZON), rtol=1e-5)


def test_colored_noise_power_falls_with_the_frequency_as_configured() -> None:
    gains = np.abs(np.fft.rfft(noise_matrix(16, 2.0)[:, 0]))
    power = np.square(gains[1:])
    np.testing.assert_allclose(power, power[0] / np.arange(1, 9) ** 2.0, rtol=1e-4)


def test_noise_without_color_or_in_a_single_step_is_white() -> None:
    np.testing.assert_allclose(noise_matrix(HORIZON, 0.0), np.eye(HORIZON), atol=1e-6)
    np.testing.assert_allclose(noise_matrix(1, 2.0), [[1]])


def test_colored_candidates_travel_further_in_one_direction() -> None:
    def reach(beta: float) -> float:
        (cem, _) = both(num_samples=512, constant_fraction=0.0, init_std=0.3, noise_beta=beta)
        return float(cem.ask()[1:].sum(axis=1).std())

    assert reach(3.0) > 1.25 * reach(0.0)


def test_constant_actions_differ_where_the_box_excludes_zero() -> None:
    box = ActionLimits(low=np.float32([0.5, 2]), high=np.float32([1, 3]))
    for search in (CEM(CEMConfig(), box, seed=3), MPPI(MPPIConfig(), box, seed=3)):
        constant = search.ask()[-16:, 0]
        assert (constant > box.low).any(axis=1).sum() >= 8


def test_retained_elites_are_candidates_after_the_plan() -> None:
    for search in both(keep_elites=3):
        request = search.ask()
        costs = costs_of(request)
        search.tell(costs)
        np.testing.assert_array_equal(search.ask()[1:4], request[np.argsort(costs, kind="stable")[:3]])


def test_retained_elites_are_shifted_with_the_plan() -> None:
    for search in both(keep_elites=3):
        request = search.ask()
        costs = costs_of(request)
        search.tell(costs)
        search.shift(2)
        elites = request[np.argsort(costs, kind="stable")[:3]]
        np.testing.assert_array_equal(search.ask()[1:4], elites[:, [2, 3, 4, 5, 5, 5]])


def test_robot_that_deviates_from_the_plan_starts_from_its_state() -> None:
    for search in both(max_change=0.1):
        search.executed = np.float32([0.9, -0.9])
        request = search.ask()
        assert np.abs(request[:, 0] - search.executed).max() <= 0.1 + 1e-6
        assert np.abs(np.diff(request, axis=1)).max() <= 0.1 + 1e-6


def test_shift_uses_the_executed_action() -> None:
    for search in both(max_change=0.1):
        search.tell(costs_of(search.ask()))
        plan = search.mean.copy()
        search.shift(2)
        np.testing.assert_array_equal(search.executed, plan[1])
        # The plan changes no faster than allowed, so that it can be executed unchanged.
        assert np.abs(np.diff(plan, axis=0)).max() <= 0.1 + 1e-6


def test_plan_continues_from_the_action_executed_instead() -> None:
    for search in both(max_change=0.1):
        search.tell(costs_of(search.ask()))
        did = search.mean[0] + np.float32([0.15, -0.15])
        search.shift(1, executed=did)
        np.testing.assert_array_equal(search.executed, did)
        assert np.abs(search.mean[0] - did).max() <= 0.1 + 1e-6
        assert np.abs(np.diff(search.mean, axis=0)).max() <= 0.1 + 1e-6


def test_plan_without_a_warm_start_starts_like_the_first() -> None:
    for search in both(warm_start=False):
        first = search.ask()
        search.tell(costs_of(first))
        search.shift(2)
        np.testing.assert_array_equal(search.mean, np.zeros_like(search.mean))
        assert search.ask()[1:].std() == pytest.approx(first[1:].std(), rel=0.15)


def test_executed_action_is_known_without_a_warm_start() -> None:
    for search in both(max_change=0.1, warm_start=False):
        search.executed = np.float32([0.5, -0.5])
        search.tell(costs_of(search.ask()))
        done = search.mean[1].copy()
        search.shift(2)
        np.testing.assert_array_equal(search.executed, done)
        assert np.abs(search.ask()[:, 0] - done).max() <= 0.1 + 1e-6


@pytest.mark.parametrize("further", [0.25, 8.0])
def test_wider_limits_widen_the_search_proportionally(further: float) -> None:
    """Spreads are fractions of half the range."""

    def candidates(scale: float) -> list[np.ndarray]:
        reach = np.array([1, 0.5], np.float32) * np.float32(scale)
        within, result = ActionLimits(low=-reach, high=reach), []
        settings = {"num_samples": 32, "horizon": HORIZON, "topk": 6, "min_std": 0.3}
        for search in (
            CEM(CEMConfig(**settings), within, seed=3),
            MPPI(MPPIConfig(refit_std=True, **settings), within, seed=3),
        ):
            for _ in range(4):
                result.append(search.ask() / scale)
                search.tell(costs_of(result[-1]))
            search.shift()
            result += [search.ask() / scale, search.directions(1.0) / scale]
        return result

    for usual, more in zip(candidates(1.0), candidates(further), strict=True):
        np.testing.assert_array_equal(more, usual)


def test_equal_seeds_search_equally() -> None:
    for one, other in zip(both(noise_beta=2.0), both(noise_beta=2.0), strict=True):
        for search in (one, other):
            for _ in range(4):
                search.tell(costs_of(search.ask()))
        np.testing.assert_array_equal(one.mean, other.mean)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"init_std": -0.1}, "init_std must be at least 0"),
        ({"min_std": -0.1}, "min_std must be at least 0"),
        ({"noise_beta": -1.0}, "noise_beta must be at least 0"),
        ({"init_std": float("nan")}, "init_std must be at least 0 and finite, got nan"),
        ({"noise_beta": float("inf")}, "noise_beta must be at least 0 and finite, got inf"),
        ({"constant_fraction": 1.5}, "constant_fraction must be between 0 and 1"),
        ({"keep_elites": 9}, r"keep_elites must be between 0 and topk \(8\)"),
        ({"keep_elites": 8, "num_samples": 8}, "below num_samples"),
    ],
)
def test_invalid_settings_are_rejected(wrong: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SearchConfig(**wrong)
