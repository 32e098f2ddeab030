"""Where the robot is on a route through a graph of places: odometry, corrected by poses that are read.

Any key frame of the graph that was seen near the robot, in about its direction, corrects the pose, whether it
is on the route or not. The pose of the goal is read from the images too, as soon as it is near: the goal is
known better the nearer the robot is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.routes.localizer import LocalizerConfig, Place
from jepa_runtime.routes.loop_closures import inverse_reading
from jepa_runtime.routes.place_graph import PlaceGraph
from jepa_runtime.routes.pose_filter import PoseFilter
from jepa_runtime.routes.relocalization import Location
from jepa_runtime.routes.route import Floats, Route
from jepa_runtime.util.poses import compose, relative, travel_m, wrap

# Key frames whose relative poses are read from each image; how far they are, and how far turned.
_READ, _READ_WITHIN_M, _READ_TURN_RAD = 4, 2.5, 1.0
# Distance and turn within which the goal is read.
_GOAL_WITHIN_M, _GOAL_TURN_RAD = 3.5, 1.2
# The pose of the goal relative to the robot becomes less certain as the robot moves.
_GOAL_LENGTH_STD, _GOAL_TURN_STD = 0.1, 0.1
# Standard deviations of the pose above which it is unknown whether the robot is there.
_ARRIVAL_STD_M, _ARRIVAL_STD_RAD = 0.25, 0.3
# A goal that was not read in this travel: least and greatest standard deviation of its heading. The robot has
# to turn to that heading to read the goal.
_UNREAD_GOAL_M, _UNREAD_GOAL_STD_RAD = 0.5, (0.35, 0.6)
# Distance within which the robot drives to such a goal even if its position is uncertain, and the greatest
# standard deviation of the position, as a proportion of the distance and at least this distance.
_UNREAD_NEAR_M, _UNREAD_NEAR_RATIO, _UNREAD_LEAST_M = 0.6, 0.5, 0.1
# Standard deviation of the place per meter of travel in which nothing was read: wheels may have slipped.
_UNREAD_STD_PER_M = 0.12
# The robot is at its place if it is within this of the estimate.
_SAME_PLACE_M = 1.0
# Readings whose key frames count as seen last.
_SEEN = 16
# How far along the route the place may be from the previous one, in key frames.
_BACK, _AHEAD = 2, 6


class GraphLocalizer:
    """Estimates the place on a route through a graph, with the interface of ``RouteLocalizer``.

    Args:
        graph: The graph.
        route: The route, see :meth:`PlaceGraph.route`.
        start: Where the robot is.
        goal: Where the goal is.
        config: Settings, of which those of the arrival and the window count.

    Attributes:
        place: The newest estimate.
    """

    def __init__(
        self,
        graph: PlaceGraph,
        route: Route,
        start: Location,
        goal: Location,
        config: LocalizerConfig | None = None,
    ) -> None:
        poses = route.poses
        assert poses is not None
        self._config = LocalizerConfig() if config is None else config
        self._places, self._way, self._reading = graph.poses, poses, graph.reading
        self._latents: Floats = np.concatenate([graph.tour.latents, route.latents[-1:]])
        self._filter, self._goal = _filter_at(start), _filter_at(goal)
        self._pose: tuple[float, float, float] | None = None
        self._stamp_ns: int | None = None
        self._index = 0.0
        # Travel since a place, and since the goal, was read.
        self._unread_m, self._unread_goal_m = 0.0, math.inf
        self._seen = list(start.key_frames)
        self.place = self._estimate(math.nan)

    @property
    def location(self) -> Location:
        """Where the robot is in the frame of the graph, and the places that were read last."""
        std = np.sqrt(self._filter.variance)
        return Location(
            pose=self._filter.pose,
            position_std_m=float(std[0]),
            yaw_std_rad=float(std[2]),
            confidence=self.place.confidence,
            key_frames=tuple(sorted(set(self._seen))),
        )

    @property
    def landmarks(self) -> Floats:
        """Latents [n, T, D] of what :attr:`readable` lists: the places of the graph, and the goal."""
        return self._latents

    @property
    def window(self) -> NDArray[np.int64]:
        """Index of the key frame of the route whose energy :meth:`update` needs next."""
        return np.array([self.place.key_frame], np.int64)

    @property
    def readable(self) -> NDArray[np.int64]:
        """Indices of :attr:`landmarks` from which :meth:`update` uses relative poses next."""
        here = self._filter.pose
        apart = np.hypot(*(self._places[:, :2] - here[:2]).T)
        turns = np.abs((self._places[:, 2] - here[2] + np.pi) % (2 * np.pi) - np.pi)
        is_near = (apart <= _READ_WITHIN_M) & (turns <= _READ_TURN_RAD)
        near = np.flatnonzero(is_near)
        found = near[np.argsort((apart + 0.5 * turns)[near])[:_READ]]
        if self._sees_goal():
            found = np.append(found, len(self._places))
        return np.sort(found)

    def goal_pose(self, index: int, pose: tuple[float, float, float]) -> RelativePose | None:
        """Return the pose of a key frame of the route in the frame of the robot.

        Args:
            index: The key frame.
            pose: Odometry pose of the robot.

        Returns:
            The pose; None: unknown.
        """
        if self._pose is None:
            return None
        here = compose(self._filter.pose, relative(np.array(self._pose), np.array(pose)))
        is_last = index == len(self._way) - 1
        std = np.sqrt(self._goal.variance if is_last else self._filter.variance)
        x, y, yaw = relative(here, self._goal.pose if is_last else self._way[index]).tolist()
        if is_last and self._unread_goal_m > _UNREAD_GOAL_M:
            distance = math.hypot(x, y)
            if distance < _UNREAD_NEAR_M:
                std[0] = min(std[0], _UNREAD_NEAR_RATIO * (distance + _UNREAD_LEAST_M))
            std[2] = np.clip(std[2], *_UNREAD_GOAL_STD_RAD)
        return RelativePose(x, y, yaw, float(std[0]), float(std[2]))

    def is_at(self, goal_pose: RelativePose) -> bool:
        """Return whether the robot is at a key frame with this :meth:`goal_pose`."""
        is_certain = goal_pose.position_std_m <= _ARRIVAL_STD_M and goal_pose.yaw_std_rad <= _ARRIVAL_STD_RAD
        return is_certain and goal_pose.ratio(self._config.arrival_m, self._config.arrival_rad) <= 1

    def update(
        self,
        window: NDArray[np.int64],
        energies: Floats,
        *,
        stamp_ns: int,
        command: NDArray[np.floating] | None = None,
        pose: tuple[float, float, float] | None = None,
        readings: NDArray[np.floating] | None = None,
    ) -> Place:
        """Add an image and return the place; see :meth:`RouteLocalizer.update`."""
        elapsed_s = 0.0 if self._stamp_ns is None else max((stamp_ns - self._stamp_ns) / 1e9, 0.0)
        self._stamp_ns = stamp_ns
        readable = self.readable
        if pose is not None and self._pose is not None:
            motion = relative(np.array(self._pose), np.array(pose))
            self._filter.move(motion, elapsed_s)
            length, turn = math.hypot(motion[0], motion[1]), abs(float(motion[2]))
            spread = _GOAL_LENGTH_STD * length, _GOAL_LENGTH_STD * length, _GOAL_TURN_STD * turn
            self._goal.variance = self._goal.variance + np.square(spread)
            traveled_m = travel_m(np.zeros(3), motion)
            self._unread_m, self._unread_goal_m = (
                self._unread_m + traveled_m,
                self._unread_goal_m + traveled_m,
            )
        self._pose = pose
        if readings is not None:
            self._correct(readable, readings, elapsed_s)
        self._index = self._along()
        self.place = self._estimate(float(energies[0]))
        return self.place

    def _correct(self, readable: NDArray[np.int64], readings: NDArray[np.floating], elapsed_s: float) -> None:
        certain = self._reading.is_certain(readings)
        readable, readings = readable[certain], readings[certain]
        is_place = readable < len(self._places)
        if is_place.any():
            self._unread_m = 0.0
            self._seen = [*readable[is_place].tolist(), *self._seen][:_SEEN]
        if not is_place.all():
            self._unread_goal_m = 0.0
        self._filter.correct(self._places[readable[is_place]], readings[is_place], elapsed_s)
        for reading in readings[~is_place]:
            self._goal.correct(self._filter.pose[None], inverse_reading(reading)[None], elapsed_s)

    def _sees_goal(self) -> bool:
        here, goal = self._filter.pose, self._goal.pose
        is_near = math.dist(here[:2], goal[:2]) <= _GOAL_WITHIN_M
        return is_near and abs(wrap(here[2] - goal[2])) <= _GOAL_TURN_RAD

    def _along(self) -> float:
        """Return the place on the route nearest to the estimated pose, near the previous place."""
        position = self._filter.pose[:2]
        first = max(math.floor(self._index) - _BACK, 0)
        end = min(math.floor(self._index) + _AHEAD, len(self._way) - 1)
        starts, steps = self._way[first:end, :2], np.diff(self._way[first : end + 1, :2], axis=0)
        lengths = np.maximum((steps**2).sum(axis=1), 1e-9)
        parts = np.clip(((position - starts) * steps).sum(axis=1) / lengths, 0.0, 1.0)
        apart = np.hypot(*(starts + parts[:, None] * steps - position).T)
        nearest = int(apart.argmin())
        return float(first + nearest + parts[nearest])

    def _estimate(self, energy: float) -> Place:
        last = len(self._way) - 1
        variance = float(self._filter.variance[:2].mean()) + (_UNREAD_STD_PER_M * self._unread_m) ** 2
        confidence = -math.expm1(-(_SAME_PLACE_M**2) / (2 * variance))
        return Place(
            key_frame=min(math.floor(self._index), last),
            index=self._index,
            progress=self._index / last,
            confidence=confidence,
            contrast=confidence,
            entropy=1 - confidence,
            energy=energy,
        )


def _filter_at(location: Location) -> PoseFilter:
    found = PoseFilter(location.pose)
    found.variance = np.square([location.position_std_m, location.position_std_m, location.yaw_std_rad])
    return found
