"""The place on a route through a graph, from odometry and poses that are read."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.planning import SteeringConfig
from jepa_runtime.routes.graph_localizer import GraphLocalizer
from jepa_runtime.routes.localizer import Place
from jepa_runtime.routes.place_graph import PlaceGraph
from jepa_runtime.routes.relocalization import Location
from jepa_runtime.routes.route import KeyFrame
from jepa_runtime.util.poses import Pose, compose, relative
from tests.runtime.routes.pose_readers import PoseReader, drifted, latent_of, square_tour, tour_of

PERIOD_NS = 100_000_000
START, GOAL = np.array([3.0, 0.1, 3.0]), np.array([0.3, 0.4, 1.5])


class Drive:
    """A robot that drives from START to GOAL, against the direction of the tour."""

    def __init__(self, reader: PoseReader, *, goal_error: Pose | None = None) -> None:
        true = square_tour()
        graph = PlaceGraph(tour=tour_of(true), poses=true, closures=())
        start, goal = _found(START, 24, 25), _found(GOAL, 13, 14)
        if goal_error is not None:
            goal = replace(goal, pose=GOAL + goal_error, position_std_m=0.5)
        ends = [KeyFrame(time_s=0.0, latent=latent_of(pose), image=b"") for pose in (START, GOAL)]
        self.route = graph.route(ends[0], start, ends[1], goal)
        self.localizer = GraphLocalizer(graph, self.route, start, goal)
        self._reader, self._stamp_ns = reader, 0

    def see(self, pose: Pose, odometry: Pose) -> Place:
        readable = self.localizer.readable
        readings = self._reader.relative_poses(self.localizer.landmarks[readable], latent_of(pose))
        self._stamp_ns += PERIOD_NS
        return self.localizer.update(
            self.localizer.window,
            np.array([0.5], np.float32),
            stamp_ns=self._stamp_ns,
            pose=_as_tuple(odometry),
            readings=readings,
        )

    def along(self, *, scale: float = 1.0) -> Place:
        """Drive along the route, with odometry whose lengths have this scale."""
        poses = _dense(self.route.poses)
        odometry = drifted(poses, scale=scale, turn_scale=1.0)
        for pose, by_wheels in zip(poses, odometry, strict=True):
            place = self.see(pose, relative(odometry[0], by_wheels))
        self.pose, self.odometry = pose, relative(odometry[0], by_wheels)
        return place


def _found(pose: Pose, *key_frames: int) -> Location:
    return Location(pose=pose, position_std_m=0.1, yaw_std_rad=0.05, confidence=1.0, key_frames=key_frames)


def _as_tuple(pose: Pose) -> tuple[float, float, float]:
    x, y, yaw = pose.tolist()
    return x, y, yaw


def _dense(poses: Pose | None) -> Pose:
    assert poses is not None
    unwrapped = np.stack([poses[:, 0], poses[:, 1], np.unwrap(poses[:, 2])], axis=1)
    indices = np.arange(0, len(poses) - 1 + 1e-9, 0.2)
    return np.stack([np.interp(indices, np.arange(len(poses)), column) for column in unwrapped.T], axis=1)


def test_graph_localizer_place_and_pose_follow_a_robot_whose_odometry_is_wrong() -> None:
    drive = Drive(PoseReader(0.05))
    place = drive.along(scale=1.1)
    assert place.progress > 0.97 and place.confidence > 0.9
    assert math.dist(drive.localizer.location.pose[:2], GOAL[:2]) < 0.12
    blind = Drive(_Blind())
    blind.along(scale=1.1)
    assert math.dist(blind.localizer.location.pose[:2], GOAL[:2]) > 0.2


class _Blind(PoseReader):
    def _read(self, origin: object, pose: object) -> Pose:
        return np.array([0.5, 0.0, 0.0, 5.0, 2.0])


def test_graph_localizer_goal_is_known_better_near_it() -> None:
    drive = Drive(PoseReader(0.03), goal_error=np.array([0.5, -0.3, 0.3]))
    before = drive.localizer.goal_pose(1, (0.0, 0.0, 0.0))
    assert before is None, "no odometry has come"
    drive.along()
    last = len(drive.route) - 1
    found = drive.localizer.goal_pose(last, _as_tuple(drive.odometry))
    assert found is not None
    true = relative(drive.pose, GOAL)
    assert math.dist((found.x_m, found.y_m), true[:2]) < 0.1 and abs(found.yaw_rad - true[2]) < 0.1


def test_graph_localizer_goal_behind_the_robot_is_certain_enough_to_turn_to_it_and_not_to_arrive() -> None:
    """A goal whose view is not in the direction of the drive is read only after a turn."""
    drive = Drive(_Blind(), goal_error=np.array([0.0, 0.0, math.pi]))
    drive.along()
    last = len(drive.route) - 1
    steering = SteeringConfig()
    for before_m in (0.4, 0.2, 0.05):
        here = compose(drive.odometry, np.array([-before_m, 0.0, math.pi]))
        found = drive.localizer.goal_pose(last, _as_tuple(here))
        assert found is not None and not drive.localizer.is_at(found)
        distance = math.hypot(found.x_m, found.y_m)
        assert found.position_std_m < 0.8 * steering.lost_ratio * (distance + steering.arrival_m)
        assert found.yaw_std_rad < steering.lost_yaw_std_rad


def test_graph_localizer_pose_on_the_way_faces_the_direction_of_the_drive() -> None:
    drive = Drive(PoseReader())
    drive.see(START, np.zeros(3))
    found = drive.localizer.goal_pose(2, (0.0, 0.0, 0.0))
    assert found is not None
    pose = compose(START, np.array([found.x_m, found.y_m, found.yaw_rad]))
    assert abs(abs(pose[2]) - math.pi) < 0.3 and pose[0] < START[0]


def test_graph_localizer_reads_places_that_look_in_the_direction_of_the_robot() -> None:
    drive = Drive(PoseReader())
    drive.along()
    true = square_tour()
    here = drive.localizer.location.pose
    readable = drive.localizer.readable
    assert len(readable) > 1 and readable[-1] == len(true), "the last one is the goal"
    assert all(abs(relative(here, true[index])[2]) <= 1.0 for index in readable[:-1])


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"x_m": 0.2}, False),
        ({"yaw_rad": 0.2}, False),
        ({"position_std_m": 0.4}, False),
        ({"yaw_std_rad": 0.4}, False),
    ],
)
def test_graph_localizer_robot_is_at_the_goal_by_a_pose_that_is_certain(
    changed: dict[str, float], expected: bool
) -> None:
    pose = RelativePose(0.05, 0.05, 0.05, position_std_m=0.1, yaw_std_rad=0.05)
    assert Drive(PoseReader()).localizer.is_at(replace(pose, **changed)) is expected


def test_graph_localizer_robot_that_reads_nothing_becomes_uncertain_and_never_arrives() -> None:
    drive = Drive(_Blind())
    place = drive.along()
    last = drive.localizer.goal_pose(len(drive.route) - 1, _as_tuple(drive.odometry))
    assert last is not None and math.hypot(last.x_m, last.y_m) < 0.1 and not drive.localizer.is_at(last)
    assert place.confidence < 0.95
    seen = Drive(PoseReader())
    assert seen.along().confidence > 0.95
    last = seen.localizer.goal_pose(len(seen.route) - 1, _as_tuple(seen.odometry))
    assert last is not None and seen.localizer.is_at(last)
