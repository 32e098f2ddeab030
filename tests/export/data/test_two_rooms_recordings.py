"""Recordings follow from their seed, and are consistent with the simulation."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from jepa_export.data.two_rooms_recordings import STEP_S, record, wander
from jepa_sim.worlds import TwoRooms
from jepa_sim.worlds.two_rooms_geometry import MAX_SPEED_MPS, LayoutKind, drive

LAYOUTS, TRAJECTORIES, FRAMES = 3, 2, 6


def recordings(*seed: int, kind: LayoutKind = "random", **more: float):  # type: ignore[no-untyped-def]
    return record(
        seed or (0, 1), layouts=LAYOUTS, trajectories=TRAJECTORIES, frames=FRAMES, kind=kind, **more
    )


def test_recordings_have_the_documented_shapes_and_types() -> None:
    data = recordings()
    assert data.frames.shape == (LAYOUTS, TRAJECTORIES, FRAMES, 128, 128, 3)
    assert data.actions.shape == (LAYOUTS, TRAJECTORIES, FRAMES - 1, 2)
    assert data.positions.shape == (LAYOUTS, TRAJECTORIES, FRAMES, 2)
    assert len(data.layouts) == LAYOUTS
    assert (data.frames.dtype, data.actions.dtype, data.positions.dtype) == (np.uint8, np.float32, np.float32)


def test_recordings_depend_only_on_the_seed() -> None:
    one, same, other = recordings(3, 1, 7), recordings(3, 1, 7), recordings(3, 1, 8)
    for name in ("frames", "actions", "positions"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("pressing", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["fixed", "random"])
def test_actions_lead_from_each_position_to_the_next(kind: LayoutKind, pressing: float) -> None:
    data = recordings(kind=kind, pressing=pressing)
    rooms = data.layouts.repeat(TRAJECTORIES)
    positions = data.positions.reshape(-1, FRAMES, 2).astype(float)
    actions = data.actions.reshape(-1, FRAMES - 1, 2).astype(float)
    for step in range(FRAMES - 1):
        arrived = drive(rooms, positions[:, step], actions[:, step], STEP_S)
        np.testing.assert_allclose(arrived, positions[:, step + 1], atol=1e-4)


def test_frames_show_the_robot_at_its_position() -> None:
    data = recordings()
    for frame, position in zip(
        data.frames.reshape(-1, 128, 128, 3), data.positions.reshape(-1, 2), strict=True
    ):
        rows, columns = np.nonzero(frame[..., 0].astype(int) - frame[..., 1] > 70)
        seen = (np.array([columns.mean(), rows.mean()]) + 0.5) * 4.0 / 128
        np.testing.assert_allclose(seen, position, atol=0.08)


def test_trajectories_of_one_layout_share_its_walls() -> None:
    frames = recordings(steady_light=1.0).frames.astype(int)
    # Robots cover little of a frame, and light changes it smoothly; other walls would change much.
    dark = frames.max(axis=-1) < frames.max(axis=-1).mean(axis=(-1, -2), keepdims=True) * 0.82
    within = (dark[:, 0, 0] != dark[:, 1, 0]).mean()
    across = (dark[0, 0, 0] != dark[1, 0, 0]).mean()
    assert within < across / 2


def test_light_is_constant_or_changes_per_frame_as_requested() -> None:
    def flicker(steady_light: float) -> float:
        frames = recordings(steady_light=steady_light).frames
        return float(frames.mean(axis=(-1, -2, -3)).std(axis=-1).mean())

    assert flicker(1.0) < 0.5
    assert flicker(0.0) > 5


def test_wandering_stays_below_top_speed_and_keeps_its_heading_for_a_while() -> None:
    velocities = wander(np.random.default_rng(0), 200, 30)
    speed = np.linalg.norm(velocities, axis=-1)
    assert velocities.shape == (200, 30, 2)
    assert speed.max() <= MAX_SPEED_MPS + 1e-9 and speed.max() > 0.95 * MAX_SPEED_MPS
    unit = velocities / speed[..., None]
    assert (unit[:, 1:] * unit[:, :-1]).sum(-1).mean() > 0.6


def test_pressing_robots_pass_the_door_or_are_stopped_by_the_wall() -> None:
    def driven(pressing: float) -> tuple[float, float]:
        data = record((0, 1), layouts=20, trajectories=4, frames=17, kind="random", pressing=pressing)
        moved = np.diff(data.positions, axis=2)
        displacements = data.actions * STEP_S
        stopped = np.linalg.norm(moved - displacements, axis=-1) > 0.5 * np.linalg.norm(
            displacements, axis=-1
        )
        positions = data.positions.reshape(-1, 17, 2).astype(float)
        rooms = data.layouts.repeat(4)
        rows = np.arange(len(rooms))
        apart = np.abs(positions[rows, 1:, rooms.axis] - rooms.wall[:, None])
        stopped &= (apart < 0.3).reshape(stopped.shape)
        sides = np.stack([rooms.side(positions[:, step]) for step in range(17)])
        return float(stopped.mean()), float((sides != sides[0]).any(axis=0).mean())

    (stopped, through), (seldom, rarely) = driven(1.0), driven(0.0)
    assert stopped > 1.5 * seldom
    assert through > 2 * rarely


def test_pressing_robots_leave_the_wandering_ones_unchanged() -> None:
    alone, pressed = recordings(), recordings(pressing=0.5)
    same = (alone.actions == pressed.actions).all(axis=(2, 3))
    assert 0 < same.sum() < same.size
    np.testing.assert_array_equal(alone.frames[same], pressed.frames[same])


def test_evaluation_uses_other_layouts_than_training() -> None:
    trained = {tuple(map(float, astuple(recordings(0, 1, step).layouts)[1])) for step in range(5)}
    doors = {value for walls in trained for value in walls}
    assert doors.isdisjoint(float(TwoRooms(seed=seed).layouts.wall[0]) for seed in range(20))
