"""Temporal distances lead around a wall that the predictor does not cross."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa_recipes.two_token.imagined_distances import latent_step, load_or_compute_distances, steps_between
from jepa_recipes.two_token.latent_library import LatentLibrary
from jepa_recipes.two_token.networks import Predictor
from jepa_sim.worlds.two_rooms_geometry import MAX_SPEED_MPS

UNIT = 0.7
WALL_HALF, DOOR_FROM = 0.9, 2.0


def in_wall(x: Tensor, y: Tensor) -> Tensor:
    return (x.abs() < WALL_HALF) & (y < DOOR_FROM)


class Plane(Predictor):
    """Represent latents as points in the plane. A wall is at x = 0, open above y = :data:`DOOR_FROM`."""

    def __init__(self, *, wall: bool = True) -> None:
        super().__init__(dim=2)
        self._wall = wall

    def rollout(self, scene: Tensor, robot: Tensor, actions: Tensor) -> Tensor:
        robot, steps = robot / UNIT, []
        for step in range(actions.shape[1]):
            for _ in range(10):
                moved = robot + actions[:, step] / MAX_SPEED_MPS / 10
                blocked = in_wall(moved[:, 0], moved[:, 1]) & self._wall
                robot = torch.where(blocked[:, None], robot, moved)
            steps.append(robot * UNIT)
        return torch.stack(steps, dim=1)


GRID = [(x / 2, y / 2) for x in range(-6, 7) for y in range(-2, 8)]
POINTS = [(x, y) for x, y in GRID if abs(x) >= WALL_HALF or y >= DOOR_FROM]


def latents(points: list[tuple[float, float]]) -> Tensor:
    robot = torch.tensor(points, dtype=torch.float32) * UNIT
    return torch.stack([torch.zeros_like(robot), robot], dim=1)


@pytest.fixture(scope="module")
def walled() -> np.ndarray:
    return steps_between(latents(POINTS), Plane(), UNIT, nn.Identity()).numpy()


def between(steps: np.ndarray, start: tuple[float, float], end: tuple[float, float]) -> float:
    return float(steps[POINTS.index(start), POINTS.index(end)])


@pytest.mark.parametrize(
    ("start", "end"),
    [((-1.0, -1.0), (1.0, -1.0)), ((-2.5, 0.0), (2.5, 0.0)), ((1.0, 1.0), (-1.5, 0.5))],
)
def test_path_across_leads_through_the_door(
    walled: np.ndarray, start: tuple[float, float], end: tuple[float, float]
) -> None:
    near, far = ((math.copysign(WALL_HALF, point[0]), DOOR_FROM) for point in (start, end))
    shortest = math.dist(start, near) + math.dist(near, far) + math.dist(far, end)
    assert shortest - 0.6 <= between(walled, start, end) <= 1.3 * shortest


def test_path_within_a_room_is_straight(walled: np.ndarray) -> None:
    free = steps_between(latents(POINTS), Plane(wall=False), UNIT, nn.Identity()).numpy()
    for start, end in [((-1.0, -1.0), (-3.0, 1.0)), ((0.5, 3.0), (2.5, 3.0))]:
        assert between(walled, start, end) == pytest.approx(math.dist(start, end), abs=0.6)
    assert between(free, (-1.0, -1.0), (1.0, -1.0)) == pytest.approx(2.0, abs=0.2)


def test_latent_has_zero_distance_to_itself(walled: np.ndarray) -> None:
    np.testing.assert_allclose(np.diag(walled), 0.0)


def test_distances_satisfy_the_triangle_inequality(walled: np.ndarray) -> None:
    over = (walled[:, :, None] + walled[None]).min(axis=1)
    assert (walled <= over + 1e-3).all()


def test_unreachable_latent_is_infinitely_far() -> None:
    steps = steps_between(latents([(-1.0, 0.0), (-1.5, 0.0), (40.0, 0.0)]), Plane(), UNIT, nn.Identity())
    assert torch.isfinite(steps[:2, :2]).all()
    assert torch.isinf(steps[2, :2]).all() and torch.isinf(steps[:2, 2]).all()


def library(layouts: int = 2) -> LatentLibrary:
    """Return robots that move by their actions, every fifth step against a wall."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, (layouts, 3, 10))
    share = rng.uniform(0.2, 1.0, (layouts, 3, 10, 1))
    moves = np.stack([np.cos(angle), np.sin(angle)], -1) * share
    free = moves.copy()
    free[:, :, ::5] = 0
    robot = np.concatenate([np.zeros((layouts, 3, 1, 2)), np.cumsum(free, axis=2)], axis=2) * UNIT
    tokens = np.stack([np.zeros_like(robot), robot], axis=3)
    return LatentLibrary(
        torch.from_numpy(tokens).float(),
        torch.from_numpy(moves * MAX_SPEED_MPS).float(),
        torch.zeros(layouts, 3, 1),
    )


def test_unit_of_distance_is_a_free_step_at_top_speed() -> None:
    assert latent_step(library(), MAX_SPEED_MPS, nn.Identity()) == pytest.approx(UNIT, rel=0.01)


def test_distances_of_all_layouts_are_cached(tmp_path: Path) -> None:
    recorded, cache = library(), tmp_path / "journeys.npy"
    distances = load_or_compute_distances(recorded, Plane(), nn.Identity(), cache)
    assert distances.shape == (2, 33, 33) and distances.dtype == torch.float16
    unit = latent_step(recorded, MAX_SPEED_MPS, nn.Identity())
    expected = steps_between(recorded.latents[1].flatten(0, 1), Plane(), unit, nn.Identity()).half()
    assert torch.equal(distances[1], expected)
    assert [path.name for path in tmp_path.iterdir()] == ["journeys.npy"]
    unused: Predictor = None  # type: ignore[assignment]
    assert torch.equal(load_or_compute_distances(recorded, unused, nn.Identity(), cache), distances)


class Flat(nn.Module):
    """Coordinates in which the second component of a latent counts tenfold."""

    def forward(self, robot: Tensor) -> Tensor:
        return robot * torch.tensor([1.0, 10.0])


class FlatPlane(Plane):
    """A plane whose latents are flat."""

    def rollout(self, scene: Tensor, robot: Tensor, actions: Tensor) -> Tensor:
        scale = torch.tensor([1.0, 10.0])
        return super().rollout(scene, robot * scale, actions) / scale


def test_arrival_counts_each_coordinate_of_flat_latents() -> None:
    flat = latents([(0.0, 0.0), (0.0, 2.0)]) / torch.tensor([1.0, 10.0])
    predictor = FlatPlane(wall=False)
    assert float(steps_between(flat, predictor, UNIT, Flat())[0, 1]) == pytest.approx(2.0, abs=0.1)
    assert float(steps_between(flat, predictor, UNIT, nn.Identity())[0, 1]) < 0.5
