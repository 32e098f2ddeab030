"""Energies and reductions, compared with their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_runtime.planning.energies import ENERGIES, cosine, l1, l2, mean_squared, plan_costs

ENERGIES_OF_THREE = np.array([[4, 3, 2, 5], [1, 1, 1, 1], [9, 0, 9, 9]], np.float32)


@pytest.fixture
def latents() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((5, 3, 4, 6), dtype=np.float32)


@pytest.fixture
def goal() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((4, 6), dtype=np.float32)


@pytest.mark.parametrize("name", ENERGIES)
def test_energies_have_one_value_per_step_in_single_precision(
    name: str, latents: np.ndarray, goal: np.ndarray
) -> None:
    energies = ENERGIES[name](latents, goal)
    assert energies.shape == (5, 3) and energies.dtype == np.float32
    assert ENERGIES[name](latents[0, 0], goal) == pytest.approx(energies[0, 0], rel=1e-6)


@pytest.mark.parametrize("name", ENERGIES)
def test_energy_at_the_goal_is_zero_and_inputs_are_unchanged(name: str, goal: np.ndarray) -> None:
    futures = np.tile(goal, (2, 3, 1, 1))
    assert ENERGIES[name](futures, goal) == pytest.approx(np.zeros((2, 3)), abs=1e-6)
    np.testing.assert_array_equal(futures, np.tile(goal, (2, 3, 1, 1)))


def test_energies_equal_the_published_formulas(latents: np.ndarray, goal: np.ndarray) -> None:
    difference = latents.astype(float) - goal
    np.testing.assert_allclose(l1(latents, goal), np.abs(difference).mean(axis=(2, 3)), rtol=1e-5)
    np.testing.assert_allclose(l2(latents, goal), np.sqrt((difference**2).sum(axis=(2, 3))), rtol=1e-5)
    np.testing.assert_allclose(mean_squared(latents, goal), (difference**2).mean(axis=(2, 3)), rtol=1e-5)


def test_cosine_depends_on_token_directions_and_not_lengths() -> None:
    goal = np.array([[1, 0], [0, 2]], np.float32)
    assert cosine(goal * 7, goal) == pytest.approx(0)
    assert cosine(-goal, goal) == pytest.approx(2)
    assert cosine(np.array([[3, 0], [5, 0]], np.float32), goal) == pytest.approx(0.5)


def test_token_of_length_zero_counts_as_orthogonal() -> None:
    goal = np.array([[1, 0], [0, 2]], np.float32)
    assert cosine(np.zeros((2, 2), np.float32), goal) == 1
    assert cosine(goal, np.zeros((2, 2), np.float32)) == 1


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("last_step", [5, 1, 9]),
        ("sum", [14, 4, 27]),
        ("min", [2, 1, 0]),
        ("discounted", [6.625, 1.875, 12.375]),
    ],
)
def test_costs_reduce_the_energies_over_the_steps(reduction: str, expected: list[float]) -> None:
    costs = plan_costs(ENERGIES_OF_THREE, reduction, discount=0.5)
    np.testing.assert_allclose(costs, expected)
    assert costs.dtype == np.float32


def test_costs_default_to_the_sum() -> None:
    np.testing.assert_array_equal(plan_costs(ENERGIES_OF_THREE), [14, 4, 27])


def test_discounted_sum_without_a_discount_is_the_sum() -> None:
    np.testing.assert_allclose(plan_costs(ENERGIES_OF_THREE, "discounted", discount=1.0), [14, 4, 27])


def test_unknown_reduction_error_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="last_step, sum, discounted or min, got 'mean'"):
        plan_costs(ENERGIES_OF_THREE, "mean")
