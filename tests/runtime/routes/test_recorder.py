"""Which images become key frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from jepa_runtime.errors import RouteError
from jepa_runtime.routes.recorder import RecorderConfig, RouteRecorder
from tests.errors import code
from tests.runtime.routes.drives import MODEL, PERIOD_NS, image_at, latent_at, line, pose_at, record, score


def test_recorder_key_frames_are_spaced_by_energy_and_end_with_the_last_image() -> None:
    positions = line(3.0)
    route = record(positions)
    steps = np.diff(route.latents[:, 0, 0])
    assert (steps[:-1] >= 2 * MODEL.goal_threshold - 1e-6).all() and (steps < 0.2).all()
    assert route.latents[-1, 0, 0] == pytest.approx(3.0)
    assert route.times_s[0] == 0 and route.duration_s == pytest.approx((len(positions) - 1) * PERIOD_NS / 1e9)
    assert route.near_energy == pytest.approx(0.12, abs=0.03) and route.far_energy > 0.5


def test_recorder_commands_of_key_frames_integrate_to_the_drive() -> None:
    route = record(line(3.0))
    gaps = np.diff(route.times_s)
    commands = np.array([frame.command for frame in route.key_frames[:-1]])
    assert (commands * gaps[:, None]).sum(axis=0) == pytest.approx([3.0, 0.0], abs=1e-6)
    assert route.key_frames[-1].command is None


def test_recorder_standing_robot_adds_no_key_frames() -> None:
    positions = line(1.0)
    stands = np.concatenate([positions, np.repeat(positions[-1:], 300, axis=0)])
    assert len(record(stands)) <= len(record(positions)) + 1


def test_recorder_slow_robot_adds_a_key_frame_after_the_longest_gap() -> None:
    recorder = RouteRecorder(MODEL, score, RecorderConfig(spacing=100.0, max_gap_s=1.0))
    added = [
        recorder.add(stamp_ns=index * PERIOD_NS, latent=latent_at(at), image=image_at(at))
        for index, at in enumerate(line(1.0, speed=0.1))
    ]
    assert [index for index, each in enumerate(added) if each][:3] == [0, 10, 20]


def test_recorder_with_odometry_adds_a_key_frame_after_travel_and_turns() -> None:
    """The energies say nothing here: the model hardly sees the motion."""
    recorder, poses = RouteRecorder(MODEL, score), [(0.05 * step, 0.0, 0.0) for step in range(11)]
    poses += [(0.5, 0.0, 0.1 * step) for step in range(1, 11)]
    added = [
        recorder.add(
            stamp_ns=index * PERIOD_NS, latent=latent_at(0.001 * np.array([index, 0])),
            image=image_at(np.zeros(2)), pose=pose,
        )
        for index, pose in enumerate(poses)
    ]  # fmt: skip
    assert np.flatnonzero(added).tolist() == [0, 5, 10, 15, 20]


def test_recorder_repeated_and_earlier_stamps_are_skipped() -> None:
    recorder = RouteRecorder(MODEL, score)
    for stamp_ns in (5, 5, 3):
        recorder.add(stamp_ns=stamp_ns, latent=latent_at(np.zeros(2)), image=image_at(np.zeros(2)))
    assert (len(recorder), recorder.skipped) == (1, 2)


@pytest.mark.parametrize("has_odometry", [True, False])
def test_recorder_rejects_a_drive_part_of_which_has_no_images(has_odometry: bool) -> None:
    """The camera stalls, and the robot drives on around a corner."""
    positions = np.concatenate([line(2.0), line(2.0)[:, ::-1] + np.array([2.0, 0.0])])
    seen = [index for index in range(len(positions)) if not 20 <= index < 60]
    recorder = RouteRecorder(MODEL, score)
    with pytest.raises(RouteError, check=code("route.hole")) as raised:
        for index in seen:
            at = positions[index]
            recorder.add(
                stamp_ns=index * PERIOD_NS, latent=latent_at(at), image=image_at(at),
                pose=pose_at(at) if has_odometry else None,
            )  # fmt: skip
    assert "no image arrived for 4.1 s, 6.0 s after the start" in str(raised.value)


def test_recorder_accepts_a_pause_without_images_in_which_the_robot_stands() -> None:
    positions = np.concatenate([line(1.0), line(1.0) + np.array([1.0, 0.0])])
    recorder = RouteRecorder(MODEL, score)
    for index, at in enumerate(positions):
        paused_ns = 60_000_000_000 if index >= len(positions) // 2 else 0
        recorder.add(stamp_ns=index * PERIOD_NS + paused_ns, latent=latent_at(at), image=image_at(at))
    assert recorder.finish("test").duration_s > 60


def test_recorder_rejects_stamps_of_a_clock_that_was_set_back() -> None:
    recorder = RouteRecorder(MODEL, score)
    view = {"latent": latent_at(np.zeros(2)), "image": image_at(np.zeros(2))}
    recorder.add(stamp_ns=20_000_000_000, **view)
    with pytest.raises(RouteError, check=code("route.time_backward")):
        recorder.add(stamp_ns=10_000_000_000, **view)


@pytest.mark.parametrize("count", [1, 50])
def test_recorder_robot_that_does_not_move_is_rejected(count: int) -> None:
    with pytest.raises(RouteError, check=code("route.too_short")):
        record(np.zeros((count, 2)))


def test_recorder_energies_that_are_not_finite_are_rejected() -> None:
    recorder = RouteRecorder(MODEL, score)
    recorder.add(stamp_ns=0, latent=latent_at(np.zeros(2)), image=image_at(np.zeros(2)))
    with pytest.raises(RouteError, check=code("route.energy_not_finite")):
        recorder.add(stamp_ns=1, latent=latent_at(np.full(2, np.nan)), image=image_at(np.zeros(2)))


def test_recorder_records_no_poses_that_do_not_continue_the_first_ones() -> None:
    positions = line(3.0)
    recorder = RouteRecorder(MODEL, score)
    for index, at in enumerate(positions):
        recorder.add(
            stamp_ns=index * PERIOD_NS, latent=latent_at(at), image=image_at(at), pose=pose_at(at),
            part=4 + (index >= 20),
        )  # fmt: skip
    assert recorder.odometry_ended_s == pytest.approx(2.0)
    route = recorder.finish("plane")
    known = [frame.time_s < 2.0 for frame in route.key_frames]
    assert [frame.pose is not None for frame in route.key_frames] == known and any(known)
    assert route.poses is None


@pytest.mark.parametrize(("missing", "expected"), [((), None), ((0,), 0.0), ((7, 9), 0.7), (range(99), None)])
def test_recorder_states_when_a_pose_was_missing(missing: Sequence[int], expected: float | None) -> None:
    recorder = RouteRecorder(MODEL, score)
    for index, at in enumerate(line(2.0)):
        pose = None if index in missing else pose_at(at)
        recorder.add(stamp_ns=index * PERIOD_NS, latent=latent_at(at), image=image_at(at), pose=pose)
    assert recorder.odometry_ended_s == (None if expected is None else pytest.approx(expected))
