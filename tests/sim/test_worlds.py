"""Two Rooms: solid walls, open doors, and reproducibility from the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_sim.worlds import TwoRooms
from jepa_sim.worlds.two_rooms_geometry import (
    ARENA_M,
    BORDER_M,
    DOOR_M,
    MAX_SPEED_MPS,
    ROBOT_RADIUS_M,
    WALL_M,
    Floats,
    Layouts,
    drive,
    sample_layouts,
    sample_positions,
)

EDGE_M = BORDER_M + ROBOT_RADIUS_M
# The residual after three iterations of resolving overlaps where two surfaces meet.
SLACK_M = 1e-3


def layout(*, axis: int = 0, wall: float = 2.0, door: float = 2.8) -> Layouts:
    return Layouts(np.array([axis]), np.array([wall]), np.array([door]))


def clearance(layouts: Layouts, position: Floats) -> float:
    """Return the distance from the robots' edges to the nearest wall; negative inside it."""
    low, high = layouts.segments()
    gaps = np.linalg.norm(position[:, None] - np.clip(position[:, None], low, high), axis=2)
    return float(gaps.min() - ROBOT_RADIUS_M)


def at(x: float, y: float) -> Floats:
    return np.array([[x, y]])


speeds = st.floats(-5.0, 5.0)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    velocities=st.lists(st.tuples(speeds, speeds), min_size=1, max_size=6),
    dt_s=st.floats(0.01, 0.5),
)
def test_robot_never_enters_a_wall_or_leaves_the_arena(
    seed: int, velocities: list[tuple[float, float]], dt_s: float
) -> None:
    rng = np.random.default_rng(seed)
    layouts = sample_layouts(rng, 16, "random")
    position = sample_positions(rng, layouts)
    for velocity in velocities:
        position = drive(layouts, position, np.broadcast_to(velocity, position.shape), dt_s)
        assert clearance(layouts, position) > -SLACK_M
        assert position.min() >= EDGE_M - 1e-9 and position.max() <= ARENA_M - EDGE_M + 1e-9


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), velocity=st.tuples(speeds, speeds), dt_s=st.floats(0.01, 0.5))
def test_robot_never_exceeds_its_top_speed_or_crosses_the_wall(
    seed: int, velocity: tuple[float, float], dt_s: float
) -> None:
    rng = np.random.default_rng(seed)
    layouts = sample_layouts(rng, 16, "random")
    before = sample_positions(rng, layouts)
    after = drive(layouts, before, np.broadcast_to(velocity, before.shape), dt_s)
    # Sliding around a corner may add a little distance.
    assert np.linalg.norm(after - before, axis=1).max() <= MAX_SPEED_MPS * dt_s + 0.02
    crossed = layouts.side(before) != layouts.side(after)
    along = after[np.arange(len(after)), 1 - layouts.axis]
    assert (np.abs(along - layouts.door)[crossed] < DOOR_M / 2 + MAX_SPEED_MPS * dt_s).all()


def test_robot_slides_along_a_wall_at_an_angle() -> None:
    position = drive(layout(), at(1.7, 1.0), at(1.0, 0.5), 1.0)
    assert position[0, 0] == pytest.approx(2.0 - WALL_M / 2 - ROBOT_RADIUS_M, abs=SLACK_M)
    assert position[0, 1] == pytest.approx(1.5, abs=SLACK_M)


def test_robot_stops_at_a_wall_ahead() -> None:
    position = drive(layout(), at(1.5, 1.0), at(1.25, 0.0), 2.0)
    np.testing.assert_allclose(position, at(2.0 - WALL_M / 2 - ROBOT_RADIUS_M, 1.0), atol=SLACK_M)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("offset", [-0.2, 0.0, 0.2])
def test_robot_passes_the_door(axis: int, offset: float) -> None:
    start, velocity = np.empty((1, 2)), np.zeros((1, 2))
    start[0, axis], start[0, 1 - axis] = 1.4, 2.8 + offset
    velocity[0, axis] = 1.0
    arrived = drive(layout(axis=axis), start, velocity, 1.2)
    assert arrived[0, axis] == pytest.approx(2.6, abs=SLACK_M)


def test_robot_fits_through_every_possible_door() -> None:
    layouts = sample_layouts(np.random.default_rng(0), 500, "random")
    rows = np.arange(len(layouts))
    start, velocity = np.empty((500, 2)), np.zeros((500, 2))
    start[rows, layouts.axis], start[rows, 1 - layouts.axis] = layouts.wall - 0.5, layouts.door
    velocity[rows, layouts.axis] = 1.0
    assert (layouts.side(drive(layouts, start, velocity, 1.0)) & ~layouts.side(start)).all()


def test_start_and_goal_are_free_and_in_different_rooms_in_every_episode() -> None:
    world = TwoRooms(seed=5)
    for _ in range(30):
        start, goal = world.position[None], world.goal[None]
        assert world.layouts.side(start) != world.layouts.side(goal)
        assert clearance(world.layouts, start) >= 0 and clearance(world.layouts, goal) >= 0
        assert not world.reached()
        world.reset()


def test_moved_goal_is_in_the_other_room_and_the_robot_stays() -> None:
    world = TwoRooms(seed=3)
    start, walls, goals = world.position, world.layouts, {tuple(world.goal)}
    for _ in range(20):
        world.move_goal()
        assert world.layouts.side(world.goal[None]) != world.layouts.side(start[None])
        goals.add(tuple(world.goal))
    assert len(goals) == 21 and world.layouts is walls
    np.testing.assert_array_equal(world.position, start)


def test_random_layouts_differ_and_the_fixed_one_stays() -> None:
    doors = {kind: {float(TwoRooms(layout=kind, seed=seed).layouts.door[0]) for seed in range(5)}
             for kind in ("random", "fixed")}  # fmt: skip
    assert len(doors["random"]) == 5
    assert doors["fixed"] == {2.8}


def history(seed: int) -> list[np.ndarray]:
    world, seen = TwoRooms(seed=seed), []
    for step in range(4):
        world.step(np.array([1.0, 0.3 * step]), 0.2)
        seen += [world.render(), world.position]
    world.reset()
    return [*seen, world.render(), world.render_goal(), world.goal]


def test_equal_seeds_give_pixel_identical_worlds_and_others_do_not() -> None:
    for first, second in zip(history(3), history(3), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(history(3)[0], history(4)[0])


def test_frames_are_rgb_images_of_8_bits() -> None:
    world = TwoRooms(seed=1)
    for frame in (world.render(), world.render_goal()):
        assert frame.dtype == np.uint8
        assert frame.shape == (128, 128, 3)
        assert frame.flags.c_contiguous


def center_of_red(frame: np.ndarray) -> np.ndarray:
    """Return the position of the robot in the image, [x, y] in meters: it is the only red object."""
    pixels = frame.astype(int)
    rows, columns = np.nonzero(pixels[..., 0] - pixels[..., 1] > 70)
    return (np.array([columns.mean(), rows.mean()]) + 0.5) * ARENA_M / 128


@pytest.mark.parametrize("seed", range(6))
def test_frame_shows_the_robot_and_the_goal_image_its_target(seed: int) -> None:
    world = TwoRooms(seed=seed)
    np.testing.assert_allclose(center_of_red(world.render()), world.position, atol=0.06)
    np.testing.assert_allclose(center_of_red(world.render_goal()), world.goal, atol=0.06)


def test_light_changes_while_the_robot_stands_still() -> None:
    world = TwoRooms(seed=2)
    brightness = []
    for _ in range(40):
        brightness.append(world.render().mean())
        world.step(np.zeros(2), 0.5)
    assert np.ptp(brightness) > 3


def test_two_frames_of_one_scene_differ_by_sensor_noise_only() -> None:
    world = TwoRooms(seed=2)
    difference = world.render().astype(int) - world.render().astype(int)
    assert difference.any()
    assert np.abs(difference).mean() < 10 and abs(difference.mean()) < 1


def test_reached_means_within_the_tolerance_of_the_goal() -> None:
    world = TwoRooms(layout="fixed", seed=0)
    for _ in range(400):
        door_side = np.array([2.0, 2.8])
        same_room = world.layouts.side(world.position[None]) == world.layouts.side(world.goal[None])
        target = world.goal if same_room else door_side + (world.goal - door_side) * 0.2
        world.step((target - world.position) * 5, 0.1)
        assert world.reached() == (np.linalg.norm(world.position - world.goal) <= world.tolerance_m)
        if world.reached():
            break
    assert world.reached()
    assert world.distance() <= world.tolerance_m
    assert world.time_s > 0
