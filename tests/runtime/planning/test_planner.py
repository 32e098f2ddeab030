"""Plans: analytic optima, time budgets, and warm starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.mppi import MPPI, MPPIConfig
from jepa_runtime.planning.planner import Planner
from jepa_runtime.planning.search import Search

HORIZON, STEP_S = 6, 0.1
LIMITS = ActionLimits(low=np.full(2, -1, np.float32), high=np.ones(2, np.float32))


def cem(seed: int = 0, **settings: float) -> CEM:
    return CEM(CEMConfig(**({"num_samples": 64, "horizon": HORIZON} | settings)), LIMITS, seed=seed)


def mppi(seed: int = 0, **settings: float) -> MPPI:
    return MPPI(MPPIConfig(**({"num_samples": 64, "horizon": HORIZON} | settings)), LIMITS, seed=seed)


def accurate_cem(seed: int) -> Search:
    return cem(seed, num_samples=256, topk=16, min_std=0.005)


def accurate_mppi(seed: int) -> Search:
    return mppi(seed, num_samples=512, topk=32, temperature=0.01, min_std=0.005, refit_std=True)


class PointMass:
    """A unit mass in the plane, pushed by forces [K, H, 2]: positions at the end of steps, and the cost of
    reaching ``target`` with little force. Linear and quadratic, so that the optimum is known."""

    effort = 0.002

    def __init__(self, target: np.ndarray) -> None:
        self.target = target
        # Position after H steps = reach @ forces, by semi-implicit Euler from rest.
        self.reach = STEP_S**2 * np.arange(HORIZON, 0, -1, dtype=np.float32)

    def costs(self, forces: np.ndarray) -> np.ndarray:
        missed = np.einsum("h,kha->ka", self.reach, forces) - self.target
        return np.square(missed).sum(axis=1) + self.effort * np.square(forces).sum(axis=(1, 2))

    def optimum(self) -> np.ndarray:
        normal = np.outer(self.reach, self.reach) + self.effort * np.eye(HORIZON)
        return np.linalg.solve(normal, np.outer(self.reach, self.target))


@pytest.mark.parametrize("search", [accurate_cem, accurate_mppi])
@pytest.mark.parametrize("seed", range(3))
def test_planner_pushes_a_point_mass_like_the_analytic_optimum(
    search: Callable[[int], Search], seed: int
) -> None:
    mass = PointMass(np.float32([0.1, -0.06]))
    plan = Planner(search(seed), iterations=60).plan(mass.costs)
    best = mass.optimum()
    assert np.abs(best).max() < 1  # It is within the limits.
    assert float(mass.costs(plan.mean[None])[0]) < 1.02 * float(mass.costs(best[None])[0])
    np.testing.assert_allclose(plan.mean, best, atol=0.12)


def test_energies_are_reduced_to_costs_as_configured() -> None:
    first_half = np.repeat(np.float32([1, 0]), HORIZON // 2)

    def energies(actions: np.ndarray) -> np.ndarray:
        return np.square(actions - 0.5).sum(axis=2) * first_half

    summed = Planner(cem(), iterations=20).plan(energies).mean
    last = Planner(cem(), iterations=20, reduction="last_step").plan(energies)
    assert np.abs(summed[: HORIZON // 2] - 0.5).max() < 0.2
    assert last.cost == 0


def test_best_is_the_cheapest_of_all_predicted_candidates() -> None:
    seen: list[tuple[float, np.ndarray]] = []

    def costs(actions: np.ndarray) -> np.ndarray:
        result = np.random.default_rng(len(seen)).uniform(0, 1, len(actions))
        seen.extend(zip(result.tolist(), actions.copy(), strict=True))
        return result

    plan = Planner(cem(), iterations=5).plan(costs)
    least, actions = min(seen, key=lambda pair: pair[0])
    assert plan.cost == least and plan.iterations == 5
    np.testing.assert_array_equal(plan.best, actions)


def test_candidates_are_predicted_in_one_call_per_iteration() -> None:
    shapes = []

    def costs(actions: np.ndarray) -> np.ndarray:
        shapes.append(actions.shape)
        return np.zeros(len(actions))

    Planner(cem(), iterations=4).plan(costs)
    assert shapes == [(64, HORIZON, 2)] * 4


@pytest.mark.parametrize("cost", [np.nan, np.inf, -np.inf])
def test_plan_is_that_of_the_search_when_no_cost_is_finite(cost: float) -> None:
    plan = Planner(mppi(), iterations=2).plan(lambda actions: np.full(len(actions), cost))
    assert plan.cost == np.inf
    np.testing.assert_array_equal(plan.best, plan.mean)


def test_equal_seeds_plan_equally_and_others_do_not() -> None:
    def plan(seed: int) -> np.ndarray:
        return Planner(cem(seed), iterations=3).plan(PointMass(np.float32([0.1, 0.1])).costs).mean

    np.testing.assert_array_equal(plan(1), plan(1))
    assert not np.array_equal(plan(1), plan(2))


class Clock:
    """A clock that advances only while candidates are predicted."""

    def __init__(self, *durations_s: float) -> None:
        self.now_s = 100.0
        self._durations_s = iter(durations_s)

    def __call__(self) -> float:
        return self.now_s

    def predict(self, actions: np.ndarray) -> np.ndarray:
        self.now_s += next(self._durations_s)
        return np.square(actions - 0.4).sum(axis=(1, 2))


@pytest.mark.parametrize(
    ("durations_s", "iterations", "took_s"),
    [
        ([0.01] * 9, 4, 0.04),
        ([0.02, 0.005] * 5, 3, 0.045),
        ([0.03, 0.03, 0.5], 1, 0.03),
        ([0.01, 0.5], 2, 0.51),
        ([3.0], 1, 3.0),
    ],
)
def test_iteration_that_would_exceed_the_budget_at_the_longest_duration_is_not_started(
    durations_s: list[float], iterations: int, took_s: float
) -> None:
    clock = Clock(*durations_s)
    plan = Planner(cem(), iterations=9, budget_s=0.0499, clock=clock).plan(clock.predict)
    assert plan.iterations == iterations
    assert clock.now_s - 100 == pytest.approx(took_s)


def test_first_iteration_always_runs() -> None:
    moments = itertools.count(step=9.0)
    planner = Planner(cem(), iterations=9, budget_s=0.05, clock=lambda: next(moments))
    assert planner.plan(Clock(0.01).predict).iterations == 1


def test_more_time_finds_cheaper_plans() -> None:
    def cost(budget_s: float) -> float:
        clock = Clock(*[0.01] * 50)
        planner = Planner(cem(), iterations=50, budget_s=budget_s, clock=clock)
        return planner.plan(clock.predict).cost

    assert cost(0.005) > cost(0.05) > cost(0.2)


def test_all_iterations_run_without_a_budget() -> None:
    clock = Clock(*[1e6] * 7)
    assert Planner(cem(), iterations=7, clock=clock).plan(clock.predict).iterations == 7


def drive(seed: int, *, warm: bool) -> float:
    """Return the tracking error of a point that follows a moving target, with two iterations of a new plan in
    each step."""
    search = cem(seed, num_samples=24, topk=4, constant_fraction=0.0, min_std=0.05)
    planner, position, missed = Planner(search, iterations=2), np.zeros(2), 0.0
    for step in range(25):
        ahead = 0.15 * (step + 1 + np.arange(HORIZON))
        targets = np.stack([np.sin(ahead), 1 - np.cos(ahead)], axis=1)

        def energies(
            actions: np.ndarray, start: np.ndarray = position, targets: np.ndarray = targets
        ) -> np.ndarray:
            return np.square(start + 0.3 * actions.cumsum(axis=1) - targets).sum(axis=2)

        position = position + 0.3 * planner.plan(energies).mean[0]
        missed += float(np.square(position - targets[0]).sum())
        if warm:
            search.shift()
        else:
            search.reset()
    return missed


def test_warm_start_follows_a_moving_target_better_than_a_cold_one() -> None:
    warm, cold = (np.array([drive(seed, warm=each) for seed in range(8)]) for each in (True, False))
    assert warm.mean() < 0.8 * cold.mean()
    assert (warm < cold).sum() >= 7


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [({"iterations": 0}, "iterations must be at least 1"), ({"budget_s": 0.0}, "budget_s must be above 0")],
)
def test_invalid_settings_are_rejected(wrong: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Planner(cem(), **({"iterations": 1} | wrong))


def test_energies_of_another_number_of_candidates_are_rejected() -> None:
    with pytest.raises(ValueError, match="one cost for each of the 64 candidates"):
        Planner(cem(), iterations=1).plan(lambda actions: np.zeros((63, HORIZON), np.float32))
