"""The code that drives the robot in first-person rooms, while the world goes on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_runtime.control import preset
from jepa_runtime.util import OdometryPose
from jepa_sim.closed_loop.charged_time import ChargedTime, run_charged_episode
from jepa_sim.closed_loop.episodes import Episode, episode_seeds, model_driver, straight_line
from jepa_sim.closed_loop.robot import RobotPolicy
from jepa_sim.worlds.first_person.world import FirstPersonRooms
from tests.sim.first_person.pose_model import STEP_S, PoseModel, show_poses

LATE = ChargedTime(decisions_s=(0.006,), transport_s=0.5)
IMAGES = 3


def drive(charged: ChargedTime, *, compensate: bool, episodes: int = 2) -> list[Episode]:
    world = FirstPersonRooms("L0")
    config = replace(preset("steering"), images_per_step=IMAGES, compensate_latency=compensate)
    driver = model_driver(PoseModel(), charged.adapted(config), world.task)
    return [
        run_charged_episode(world, driver, charged, seed=seed, step_s=STEP_S)
        for seed in episode_seeds([0], episodes)
    ]


def test_steering_to_late_images_reaches_its_goals_only_with_compensation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show_poses(monkeypatch)
    on_time = drive(replace(LATE, transport_s=0.0), compensate=True)
    late = drive(LATE, compensate=True)
    assert [each.outcome for each in late] == ["reached"] * 2
    # No motion counts as blocked only because images show it late.
    assert all(one.steps < other.steps + 5 for one, other in zip(late, on_time, strict=True))
    assert [each.outcome for each in drive(LATE, compensate=False)].count("reached") < 2


@pytest.mark.parametrize(
    "disturbance", [{"dropped": 0.3}, {"jitter_s": 0.2}, {"swap_at_s": 1.5}, {"actuation_s": 0.3}], ids=str
)
def test_steering_reaches_its_goals_under_disturbances(
    disturbance: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    show_poses(monkeypatch)
    charged = replace(LATE, transport_s=0.1, **disturbance)
    assert [each.outcome for each in drive(charged, compensate=True)] == ["reached"] * 2


def test_straight_line_of_the_true_pose_drives_past_its_goals_when_images_are_late() -> None:
    world = FirstPersonRooms("L0")
    driver = replace(straight_line(), images_per_step=IMAGES)
    outcomes = {
        latency_s: run_charged_episode(
            world, driver, replace(LATE, transport_s=latency_s), seed=episode_seeds([0], 1)[0], step_s=STEP_S
        ).outcome
        for latency_s in (0.0, 1.0)
    }
    assert outcomes[0.0] == "reached" and outcomes[1.0] != "reached"


def test_robot_combines_each_late_image_with_its_own_odometry(monkeypatch: pytest.MonkeyPatch) -> None:
    show_poses(monkeypatch)
    world = FirstPersonRooms("L0")
    policy = RobotPolicy(PoseModel(), world, replace(preset("steering"), images_per_step=IMAGES))
    given = list[OdometryPose]()
    update = policy._robot.controller.update
    monkeypatch.setattr(
        policy._robot.controller,
        "update",
        lambda futures, *, age_s: (given.append(futures.odometry), update(futures, age_s=age_s))[1],
    )
    images, read = [], []
    for stamp_ns in (0, 100_000_000, 200_000_000):
        images.append(world.render())
        policy.see(images[-1], stamp_ns)
        read.append(world._robot.pose)
        world.step(np.array([0.3, 0.5]), 0.1)
    for index in (0, 2):
        policy.observe(images[index], stamp_ns=index * 100_000_000)
        policy.answer(500_000_000 + index * 100_000_000)
        policy.finish_image()
    # Odometry begins at the start, and errs by little over a few centimeters.
    first, last = given
    moved_m = np.linalg.norm(read[2][:2] - read[0][:2])
    assert (
        np.linalg.norm(np.subtract(last.pose, first.pose)[:2]) == pytest.approx(moved_m, abs=0.02)
        and moved_m > 0.02
    )
