"""Refinement along a gradient that is estimated from costs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.refined_cem import RefinedCEM, RefinedCEMConfig

LIMITS = ActionLimits(low=np.full(2, -1, np.float32), high=np.ones(2, np.float32))
TARGET = np.linspace(-0.8, 0.7, 12, dtype=np.float32).reshape(6, 2)
SETTINGS = {"num_samples": 32, "horizon": 6, "topk": 6}


def search(**settings: float) -> RefinedCEM:
    return RefinedCEM(RefinedCEMConfig(**(SETTINGS | settings)), LIMITS, seed=3)


def costs_of(actions: np.ndarray) -> np.ndarray:
    return np.square(actions - TARGET).sum(axis=(1, 2))


def iterate(each: CEM, count: int) -> list[float]:
    result = []
    for _ in range(count):
        each.tell(costs_of(each.ask()))
        result.append(float(costs_of(each.mean[None])[0]))
    return result


def test_first_iterations_are_those_of_cem() -> None:
    cem = CEM(CEMConfig(**SETTINGS), LIMITS, seed=3)
    assert iterate(search(refine_after=3), 3) == iterate(cem, 3)


def test_refinement_never_raises_the_cost_and_ends_below_cem() -> None:
    costs = iterate(search(refine_after=3), 12)
    assert all(later <= earlier for earlier, later in pairwise(costs[3:]))
    assert costs[-1] < 0.5 * iterate(CEM(CEMConfig(**SETTINGS), LIMITS, seed=3), 12)[-1]


def test_estimate_points_along_the_gradient() -> None:
    ours = search(refine_after=1, num_samples=256)
    iterate(ours, 1)
    gradient = 2 * (ours.mean - TARGET)
    iterate(ours, 1)
    assert ours._gradient is not None
    cosine = (ours._gradient * gradient).sum() / np.linalg.norm(ours._gradient) / np.linalg.norm(gradient)
    assert cosine > 0.9


def test_shift_begins_with_cem_again() -> None:
    ours = search(refine_after=1)
    iterate(ours, 3)
    ours.shift()
    assert np.abs(ours.ask()[1:] - ours.mean).max() > 0.5


def test_costs_that_are_not_finite_do_not_move_the_plan() -> None:
    ours = search(refine_after=1)
    iterate(ours, 2)
    plan = ours.mean.copy()
    ours.ask()
    ours.tell(np.full(32, np.inf))
    np.testing.assert_array_equal(ours.mean, plan)
    assert np.isfinite(ours.ask()).all()


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_few_candidates_are_enough(samples: int) -> None:
    ours = search(refine_after=1, num_samples=samples, topk=1)
    for _ in range(4):
        candidates = ours.ask()
        assert candidates.shape == (samples, 6, 2)
        ours.tell(costs_of(candidates))


@pytest.mark.parametrize("wrong", [{"refine_after": 0}, {"perturbation": 0.0}, {"largest_step": 2.0}])
def test_invalid_settings_are_rejected(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RefinedCEMConfig(**wrong)
