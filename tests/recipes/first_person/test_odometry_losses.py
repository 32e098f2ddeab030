"""Targets from odometry, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_recipes.first_person.networks import (
    COLUMNS,
    DISTANCE_OFFSET_M,
    LOG_SCALES,
    ROWS,
    TOKENS,
    token_positions,
)
from jepa_recipes.first_person.odometry_losses import (
    match_loss,
    project,
    relative_pose_loss,
    relative_poses,
)
from jepa_runtime.util import compose, relative
from jepa_sim.worlds.first_person.rendering import CAMERA_AHEAD_M, FIELD_OF_VIEW, HEIGHT_PX, WIDTH_PX

# Coordinates of the image at a depth of 1.
HALF_WIDTH = math.tan(FIELD_OF_VIEW / 2)
HALF_HEIGHT = HALF_WIDTH * HEIGHT_PX / WIDTH_PX


def points_at(depth_m: float) -> Tensor:
    """Return points on the rays of the tokens, at a depth, in the frame of the robot [TOKENS, 2]."""
    right = token_positions()[:, 0]
    return torch.stack(
        [torch.full((TOKENS,), depth_m + CAMERA_AHEAD_M), -right * HALF_WIDTH * depth_m], dim=-1
    )


def places_after(pose: list[float], depth_m: float) -> Tensor:
    """Return where things at a depth are seen from another pose [TOKENS, 2], right and down, in the image."""
    down = token_positions()[:, 1]
    points = torch.cat([points_at(depth_m), -down[:, None] * HALF_HEIGHT * depth_m], dim=-1)
    x, y, up = (points - torch.tensor([pose[0], pose[1], 0.0])).T
    cos, sin = math.cos(pose[2]), math.sin(pose[2])
    depth, left = x * cos + y * sin - CAMERA_AHEAD_M, y * cos - x * sin
    places = torch.stack([-left / depth / HALF_WIDTH, -up / depth / HALF_HEIGHT], dim=-1)
    places[depth <= 0] = math.inf
    return places


def targets_after(pose: list[float], depth_m: float = 1e4) -> Tensor:
    return project(points_at(depth_m)[None], torch.tensor([pose])).targets()[0]


def turn(angle: float) -> list[float]:
    return [0.0, 0.0, angle]


def read_exactly(poses: Tensor, log_scales: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Tensor:
    """Return the output of a head that makes no error."""
    distance = poses[:, :2].norm(dim=-1, keepdim=True)
    direction = poses[:, :2] / distance.clamp(min=1e-9)
    heading = [poses[:, 2:].cos(), poses[:, 2:].sin()]
    scales = torch.tensor(log_scales).expand(len(poses), 3)
    return torch.cat([direction, (distance + DISTANCE_OFFSET_M).log(), *heading, scales], dim=-1)


def test_relative_poses_are_those_of_the_world_and_compose() -> None:
    rng = np.random.default_rng(0)
    origins, poses = rng.uniform(-3, 3, (2, 20, 3))
    found = relative_poses(torch.from_numpy(origins), torch.from_numpy(poses)).numpy()
    for origin, pose, change in zip(origins, poses, found, strict=True):
        np.testing.assert_allclose(change[:2], relative(origin, pose)[:2], atol=1e-12)
        back = compose(origin, change)
        np.testing.assert_allclose(back[:2], pose[:2], atol=1e-12)
        assert math.isclose(math.cos(back[2] - pose[2]), 1.0)


def test_relative_pose_of_known_poses() -> None:
    origin, pose = torch.tensor([[1.0, 2.0, math.pi / 2]]), torch.tensor([[0.0, 5.0, math.pi]])
    expected = torch.tensor([[3.0, 1.0, math.pi / 2]])
    torch.testing.assert_close(relative_poses(origin, pose), expected)


def test_relative_pose_loss_of_exact_readings_is_the_sum_of_log_scales() -> None:
    poses = torch.tensor([[1.0, 0.5, 0.3], [-2.0, 1.0, -3.0]])
    # The lengths of vectors are smoothed by 0.001.
    assert relative_pose_loss(read_exactly(poses), poses) == pytest.approx(0.0, abs=0.003)
    scaled = read_exactly(poses, (0.5, -0.25, 1.0))
    assert relative_pose_loss(scaled, poses) == pytest.approx(1.25, abs=0.005)


def test_relative_pose_loss_is_least_where_scales_are_the_errors() -> None:
    poses = torch.tensor([[1.0, 0.5, 0.3]])
    read = read_exactly(poses)
    read[:, 2] += 0.2
    best = read.clone()
    best[:, LOG_SCALES] = torch.tensor([math.log(0.001), math.log(0.2), math.log(0.001)]).clamp(min=-4)
    log_scale = best[:, 3 + 3].clone()
    losses = []
    for change in (-0.3, 0.0, 0.3):
        best[:, 6] = log_scale + change
        losses.append(float(relative_pose_loss(best, poses)))
    assert losses[1] < min(losses[0], losses[2])
    assert losses[0] - losses[1] == pytest.approx(math.exp(0.3) - 0.3 - 1, abs=1e-4)


def test_relative_pose_loss_ignores_the_direction_at_the_same_place() -> None:
    poses = torch.tensor([[0.0, 0.0, 0.4]])
    read, other = read_exactly(poses), read_exactly(poses)
    other[:, :2] = torch.tensor([-0.6, 0.8])
    assert relative_pose_loss(other, poses) == pytest.approx(float(relative_pose_loss(read, poses)), abs=1e-3)


def test_heading_beyond_one_turn_is_the_same_heading() -> None:
    poses = torch.tensor([[1.0, 0.5, 0.3]])
    turned = poses + torch.tensor([0.0, 0.0, 2 * math.pi])
    read = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(relative_pose_loss(read, turned), relative_pose_loss(read, poses))


@pytest.mark.parametrize(
    ("pose", "depth_m"),
    [
        *((turn(angle), 2.0) for angle in (-1.2, -0.5, -0.01, 0.2, 0.7, 1.2)),
        ([0.8, 0.1, 0.0], 2.0),
        ([0.0, 0.9, 0.3], 3.0),
        ([-0.5, -0.4, -0.6], 1.2),
        ([1.5, 0.0, math.pi / 2], 2.0),
    ],
)
def test_match_targets_are_where_points_in_space_are_seen(pose: list[float], depth_m: float) -> None:
    targets, places = targets_after(pose, depth_m), places_after(pose, depth_m)
    torch.testing.assert_close(targets.sum(-1), torch.ones(TOKENS))
    visible = (places.abs() < 1).all(-1)
    assert (targets[:, -1] == (~visible).float()).all() and visible.any()
    margin = 1 - torch.tensor([1 / COLUMNS, 1 / ROWS])
    inner = (places.abs() < margin).all(-1)
    torch.testing.assert_close(
        targets[inner, :TOKENS] @ token_positions(), places[inner], rtol=1e-4, atol=1e-5
    )
    assert (targets[:, :TOKENS] > 0).sum(-1).max() <= 4


def test_match_targets_at_the_same_pose_are_the_same_tokens() -> None:
    targets = targets_after(turn(0.0))
    torch.testing.assert_close(targets[:, :TOKENS], torch.eye(TOKENS), rtol=0, atol=1e-4)
    assert (targets[:, -1] == 0).all()


@pytest.mark.parametrize("angle", [1.8, -1.8, 2.5, math.pi])
def test_turn_by_more_than_the_field_of_view_finds_nothing(angle: float) -> None:
    assert (targets_after(turn(angle))[:, -1] == 1).all()


def test_things_that_the_robot_has_passed_are_found_nowhere() -> None:
    assert (targets_after([3.0, 0.0, 0.0], depth_m=2.0)[:, -1] == 1).all()


def test_turn_to_the_left_by_half_the_field_of_view_leaves_the_left_half() -> None:
    targets = targets_after(turn(FIELD_OF_VIEW / 2)).unflatten(0, (ROWS, COLUMNS))
    assert (targets[:, COLUMNS // 2 :, -1] == 1).all()
    middle = targets[ROWS // 2 - 1 : ROWS // 2 + 1, : COLUMNS // 2]
    assert (middle[..., -1] == 0).all()
    found = middle[..., :TOKENS].unflatten(-1, (ROWS, COLUMNS)).sum(-2)
    assert (found[..., : COLUMNS // 2].sum(-1) < 0.5).all(), "what was on the left is on the right"


def test_match_loss_is_least_for_the_targets() -> None:
    poses, points = torch.tensor([turn(0.3), turn(-0.8)]), points_at(2.0).expand(2, -1, -1)
    targets = project(points, poses).targets()
    entropy = -(targets * targets.clamp(min=1e-9).log()).sum(-1).mean()
    exact = targets.clamp(min=1e-9).log()[:, None].expand(-1, 4, -1, -1)
    assert match_loss(exact, points, poses) == pytest.approx(float(entropy), abs=0.05)
    assert match_loss(exact, points, -poses) > match_loss(exact, points, poses) + 1
    even = torch.zeros(2, 4, TOKENS, TOKENS + 1)
    assert match_loss(even, points, poses) > math.log(TOKENS + 1)


def test_match_loss_teaches_how_far_away_things_are() -> None:
    """Matches of things 2 m away, seen from the side, draw a wrong depth toward 2 m."""
    pose = torch.tensor([[0.0, 0.3, 0.0]])
    matches = project(points_at(2.0)[None], pose).targets().clamp(min=1e-4).log()[:, None]
    camera = torch.tensor([CAMERA_AHEAD_M, 0.0])
    log_depth = torch.tensor(math.log(1.6), requires_grad=True)
    for _ in range(100):
        depth = log_depth.exp()
        points = (points_at(1.0) - camera) * depth + camera
        (gradient,) = torch.autograd.grad(match_loss(matches, points[None], pose), log_depth)
        with torch.no_grad():
            log_depth -= 0.01 * gradient.sign()
    assert float(log_depth.detach().exp()) == pytest.approx(2.0, abs=0.1)
