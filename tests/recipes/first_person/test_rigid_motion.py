"""The rigid motion that fits pairs of points."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch", reason="torch is not installed (extra export)")

import torch

from jepa_recipes.first_person.rigid_motion import fit_rigid_motion


def moved(points: torch.Tensor, angle: float, translation: tuple[float, float]) -> torch.Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ torch.tensor([[cos, sin], [-sin, cos]]) + torch.tensor(translation)


def sample_points(seed: int, count: int = 20) -> torch.Tensor:
    return torch.randn(1, count, 2, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("angle", [0.0, 0.6, -1.5, math.pi - 0.01])
def test_exact_motion_is_found(angle: float) -> None:
    points = sample_points(0)
    fitted = fit_rigid_motion(points, moved(points, angle, (0.7, -1.2)), torch.full((1, 20), 1 / 20))
    assert math.atan2(fitted.rotation[0, 1], fitted.rotation[0, 0]) == pytest.approx(angle, abs=1e-5)
    assert fitted.translation[0].tolist() == pytest.approx([0.7, -1.2], abs=1e-5)
    assert float(fitted.residual) == pytest.approx(0, abs=1e-9)


def test_pairs_without_weight_do_not_count() -> None:
    points = sample_points(1)
    targets = moved(points, 0.4, (0.3, 0.1))
    targets[:, 10:] = 5.0
    weights = torch.cat([torch.full((1, 10), 0.1), torch.zeros(1, 10)], dim=1)
    fitted = fit_rigid_motion(points, targets, weights)
    assert fitted.translation[0].tolist() == pytest.approx([0.3, 0.1], abs=1e-5)


def test_residual_is_the_mean_squared_distance_that_remains() -> None:
    points = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    fitted = fit_rigid_motion(points, 2 * points, torch.full((1, 2), 0.5))
    assert float(fitted.residual) == pytest.approx(1.0)


def test_one_point_leaves_the_rotation_open_and_the_gradient_finite() -> None:
    points = torch.ones(1, 1, 2, requires_grad=True)
    fitted = fit_rigid_motion(points, points.detach() + 1, torch.ones(1, 1))
    assert float(fitted.spread.detach()) == pytest.approx(1e-3)
    (fitted.translation.sum() + fitted.rotation.sum() + fitted.residual.sum()).backward()
    assert torch.isfinite(points.grad).all()
