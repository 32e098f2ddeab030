"""Which goal poses a repetition publishes: the planner compares those of one goal with the motion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_ros.route.parameters import PARAMETERS
from jepa_ros.route.repeating import Repetition

from jepa_runtime.model import RelativePose
from jepa_runtime.routes import RobotStatus, SubGoal
from jepa_runtime.serving import Scores
from jepa_runtime.util import OdometryPose, relative
from tests.runtime.routes.drives import PERIOD_NS, latent_at, line, pose_at, record, score

pytestmark = pytest.mark.ros


class Recorder:
    """Stand in for the planner: note goals and poses; a goal is renewed with every second image."""

    def __init__(self) -> None:
        self.goal: SubGoal | None = None
        self.status, self.end = RobotStatus(is_driving=True), None
        self.stamp, self.published = 0, list[tuple[int, int, RelativePose]]()
        self.image = 0

    def is_due(self, goal: SubGoal) -> bool:
        return self.goal is not None and (goal is not self.goal or self.image % 2 == 0)

    def pursue(self, goal: SubGoal | None, *, by_pose: bool = False) -> None:
        assert goal is None or by_pose
        if goal is not None and (self.goal is None or self.is_due(goal)):
            self.stamp += 1
        self.goal = goal

    def publish_pose(self, pose: RelativePose, stamp_ns: int) -> None:
        self.published.append((self.stamp, stamp_ns, pose))


class Robot:
    """Stand in for the world model and the odometry of a robot on the route."""

    def __init__(self, route: Any) -> None:
        self.route, self.position, self.stamp_ns = route, np.zeros(2), 0

    def score(self, latents: Any, _goal: Any, latent_space: str, pose_indices: Any) -> Scores:
        here = np.array(pose_at(self.position))
        readings = [
            (*relative(np.array((*latents[index].reshape(2), 0.0)), here), 0.05, 0.03)
            for index in pose_indices
        ]
        return Scores(
            energies=score(latents, latent_at(self.position)),
            stamp_ns=self.stamp_ns,
            latent_space=latent_space,
            poses=np.array(readings, np.float32).reshape(-1, 5),
        )

    def at(self, _stamp_ns: int) -> OdometryPose:
        return OdometryPose(pose_at(self.position), part=0)


def test_goal_that_is_replaced_gets_a_last_pose_in_the_frame_of_the_same_image() -> None:
    route = record(line(), odometry=True)
    robot, planner = Robot(route), Recorder()
    repetition = Repetition(
        route, 0, robot, planner, {each.name: each.default for each in PARAMETERS},  # type: ignore[arg-type]
        odometry=robot, reads_poses=True,  # type: ignore[arg-type]
    )  # fmt: skip
    for position in line()[:40]:
        robot.position, robot.stamp_ns = position, robot.stamp_ns + PERIOD_NS
        planner.image += 1
        repetition.step(np.array([0.5, 0.0]))
    by_goal: dict[int, list[tuple[int, RelativePose]]] = {}
    for stamp, stamp_ns, pose in planner.published:
        by_goal.setdefault(stamp, []).append((stamp_ns, pose))
    assert len(by_goal) > 15
    for stamp in list(by_goal)[:-1]:
        assert by_goal[stamp][-1][0] == by_goal[stamp + 1][0][0], "no image between two goals"
        first, last = by_goal[stamp][0], by_goal[stamp][-1]
        driven_m = 0.5 * (last[0] - first[0]) / 1e9
        assert first[1].x_m - last[1].x_m == pytest.approx(driven_m, abs=0.05)
