"""A graph of remembered places, built from one tour, and routes through it from one place to another.

The nodes are the key frames of the tour. Edges join consecutive ones, which the robot has driven between, and
loop closures. A route through the graph has the poses in which the robot passes the places: it drives
forward, also where the tour was driven in the other direction.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from jepa_runtime.errors import RouteError
from jepa_runtime.routes.loop_closures import (
    LoopClosureConfig,
    LoopClosureFinder,
    PoseReader,
    ReadingConfig,
    unrelated_readings,
)
from jepa_runtime.routes.odometry_scale import TURN_S, turn_scale, with_turn_scale
from jepa_runtime.routes.pose_graph import Measurement, relax
from jepa_runtime.routes.relocalization import Location, Relocalizer
from jepa_runtime.routes.route import Floats, KeyFrame, Route
from jepa_runtime.util.poses import Pose, relative

MAX_KEY_FRAMES = 2000
"""The most key frames of a tour: all pairs are compared, and all poses are relaxed at once."""

# Rounds of finding loop closures with the poses of the round before.
_ROUNDS = 3
# Standard deviations of odometry between key frames: position in proportion to the length and at least, yaw
# in proportion to the turn, after 1 m and at least. They are those of scales, which are known that well once
# full turns have calibrated the turns, and whose errors add up.
_LENGTH_STD, _LEAST_STD_M = 0.03, 0.01
_TURN_STD, _YAW_STD_PER_SQRT_M, _LEAST_STD_RAD = 0.02, 0.015, 0.004
# Places of a route are at least this far apart.
_APART_M = 0.1
# Cost of a straight line that the robot has not driven before, as a multiple of its length, and the part that
# grows with the square of its length [1/m].
_CLOSURE_COST, _NEW_COST, _NEW_COST_PER_M = 1.5, 1.0, 1.0
# Distance within which a line passes an obstacle, and what that costs [m].
_OBSTACLE_M, _OBSTACLE_COST = 0.3, 3.0
# How far a line that is new bends around an obstacle.
_BEND_M = 0.6
# Speed for which the times of a route are computed.
_SPEED_MPS = 0.4


@dataclass(frozen=True, kw_only=True, eq=False)
class PlaceGraph:
    """Remembered places in one frame.

    Attributes:
        tour: The tour: a route with odometry.
        poses: Poses of its key frames in the frame of the graph [N, 3].
        closures: Loop closures.
        reading: When a reading of the model is certain.
    """

    tour: Route
    poses: Pose
    closures: tuple[Measurement, ...]
    reading: ReadingConfig = field(default_factory=ReadingConfig)

    @classmethod
    def build(cls, tour: Route, reader: PoseReader, config: LoopClosureConfig | None = None) -> PlaceGraph:
        """Return the graph of a tour.

        Args:
            tour: A route with odometry, taught with the model of ``reader``.
            reader: What reads poses.
            config: Settings of loop closures.

        Raises:
            RouteError: The tour has no odometry, or too many key frames.
        """
        odometry = tour.poses
        if odometry is None:
            raise RouteError(
                f"{tour.source}: the route has no odometry, so that its places have no poses: teach it from "
                "a source with odometry",
                code="route.no_odometry",
            )
        if len(tour) > MAX_KEY_FRAMES:
            raise RouteError(
                f"{tour.source}: {len(tour)} key frames are too many for a graph of places, at most "
                f"{MAX_KEY_FRAMES}: divide the tour",
                code="route.too_long",
            )
        chosen = LoopClosureConfig() if config is None else config
        unrelated = unrelated_readings(tour.latents, odometry, reader)
        chosen = replace(chosen, reading=chosen.reading.limited_by(unrelated))
        finder = LoopClosureFinder(tour.latents, tour.times_s, odometry, reader, chosen)
        scale = turn_scale(odometry, finder.find(odometry, within_s=TURN_S))
        odometry = with_turn_scale(odometry, scale)
        driven = [_by_odometry(index, *pair) for index, pair in enumerate(pairwise(odometry))]
        poses, closures = odometry, list[Measurement]()
        for _ in range(_ROUNDS):
            found = finder.find(poses)
            poses = relax(odometry, [*driven, *found])
            is_settled = {(each.first, each.second) for each in found} == {
                (each.first, each.second) for each in closures
            }
            closures = found
            if is_settled:
                break
        return cls(tour=tour, poses=poses, closures=tuple(closures), reading=chosen.reading)

    def relocalizer(self, reader: PoseReader) -> Relocalizer:
        """Return what finds a place in the graph."""
        return Relocalizer(self.tour.latents, self.poses, reader, self.reading)

    def locate(
        self, latent: Floats, reader: PoseReader, *, min_confidence: float = 0.5, name: str = "the image"
    ) -> Location:
        """Return where an image was taken.

        Args:
            latent: Its latent [T, D].
            reader: What reads poses.
            min_confidence: Confidence below which the place is unknown.
            name: The image, for the message.

        Raises:
            RouteError: It shows no place of the graph, or may show several.
        """
        relocalizer = self.relocalizer(reader)
        relocalizer.add(latent)
        found = relocalizer.origin
        if found is None or found.confidence < min_confidence:
            confidence = 0.0 if found is None else found.confidence
            raise RouteError(
                f"{name} shows no known place of {self.tour.source}: the poses that the model reads from it "
                f"do not agree on one (confidence {confidence:.2f}, required {min_confidence:.2f}): take the "
                "image nearer to the tour, or extend the tour",
                code="route.place_unknown",
            )
        return found

    def route(
        self,
        start: KeyFrame,
        start_at: Location,
        goal: KeyFrame,
        goal_at: Location,
        *,
        obstacles: Sequence[Pose] = (),
    ) -> Route:
        """Return the shortest route through the graph.

        Its key frames are the start, places of the graph, and the goal. Their poses are those in which the
        robot passes: turned in the direction of the drive, except at the start and at the goal.

        Args:
            start: Image and latent at the start.
            start_at: Where it is.
            goal: Image and latent at the goal.
            goal_at: Where it is.
            obstacles: Positions [2] that the route avoids if there is another way. New lines bend around
                them.

        Raises:
            RouteError: The graph does not connect them.
        """
        path = self._shortest_path(start_at, goal_at, obstacles)
        places = [(start, start_at.pose)]
        for index in path:
            if math.dist(places[-1][1][:2], self.poses[index, :2]) >= _APART_M:
                places.append((self.tour.key_frames[index], self.poses[index]))
        while len(places) > 1 and math.dist(places[-1][1][:2], goal_at.pose[:2]) < _APART_M:
            places.pop()
        places.append((goal, goal_at.pose))
        for number in (len(places) - 1, 1) if obstacles else ():
            bend = _bend(obstacles, places[number - 1][1][:2], places[number][1][:2])
            if bend is not None:
                places.insert(number, (places[number][0], bend))
        positions = np.array([pose[:2] for _, pose in places])
        ahead = np.diff(positions, axis=0)
        headings = [start_at.pose[2], *np.arctan2(ahead[1:, 1], ahead[1:, 0]), goal_at.pose[2]]
        times_s = np.cumsum([0.0, *np.maximum(np.hypot(*ahead.T), _APART_M) / _SPEED_MPS])
        return replace(
            self.tour,
            source=f"{self.tour.source}, by the graph of its places",
            key_frames=tuple(
                replace(frame, time_s=float(time_s), command=None, pose=(float(x), float(y), float(heading)))
                for (frame, _), (x, y), heading, time_s in zip(
                    places, positions, headings, times_s, strict=True
                )
            ),
        )

    def _shortest_path(self, start: Location, goal: Location, obstacles: Sequence[Pose]) -> list[int]:
        """Return the key frames between the start and the goal."""
        edges = defaultdict[int, list[tuple[int, float]]](list)
        count = len(self.poses)
        positions = np.concatenate([self.poses, start.pose[None], goal.pose[None]])[:, :2]

        def join(first: int, second: int, cost: float = 1.0, cost_per_m: float = 0.0) -> None:
            length_m = math.dist(positions[first], positions[second])
            cost = length_m * (cost + cost_per_m * length_m)
            for obstacle in obstacles:
                if _distance(obstacle, positions[first], positions[second]) < _OBSTACLE_M:
                    cost += _OBSTACLE_COST
            edges[first].append((second, cost))
            edges[second].append((first, cost))

        for index in range(count - 1):
            join(index, index + 1)
        for closure in self.closures:
            join(closure.first, closure.second, _CLOSURE_COST)
        for number, place in ((count, start), (count + 1, goal)):
            for index in place.key_frames:
                join(number, index, _NEW_COST, _NEW_COST_PER_M)
        before = _shortest(edges, count, count + 1)
        if before is None:
            raise RouteError(
                f"{self.tour.source}: the graph of places does not connect the start and the goal: start or "
                "take the goal image nearer to the tour",
                code="route.not_connected",
            )
        path = [before[count + 1]]
        while path[-1] != count:
            path.append(before[path[-1]])
        return path[-2::-1]


def _shortest(edges: dict[int, list[tuple[int, float]]], start: int, goal: int) -> dict[int, int] | None:
    """Return from each node the one before it on the shortest path from the start; None: there is no path."""
    before: dict[int, int] = {}
    costs, queue, done = {start: 0.0}, [(0.0, start)], set[int]()
    while queue:
        cost, node = heapq.heappop(queue)
        if node == goal:
            return before
        if node in done:
            continue
        done.add(node)
        for other, length in edges[node]:
            if cost + length < costs.get(other, math.inf):
                costs[other], before[other] = cost + length, node
                heapq.heappush(queue, (cost + length, other))
    return None


def _distance(point: Pose, start: Pose, end: Pose) -> float:
    """Return the distance of a point [2] from the line between two others."""
    step = end - start
    part = float((point - start) @ step) / max(float(step @ step), 1e-9)
    return math.dist(point, start + min(max(part, 0.0), 1.0) * step)


def _bend(obstacles: Sequence[Pose], start: Pose, end: Pose) -> Pose | None:
    """Return a position [2] at the side of the last obstacle on a line; None: there is none.

    The side is the left one and the right one in turn.
    """
    on_line = [each for each in obstacles if _distance(each, start, end) < _OBSTACLE_M]
    length_m = math.dist(start, end)
    if not on_line or length_m < _APART_M:
        return None
    side = _BEND_M if len(on_line) % 2 else -_BEND_M
    ahead = (end - start) / length_m
    bend: Pose = on_line[-1] + side * np.array([-ahead[1], ahead[0]])
    return bend


def _by_odometry(index: int, before: Pose, after: Pose) -> Measurement:
    motion = relative(before, after)
    length, turn = math.hypot(motion[0], motion[1]), abs(float(motion[2]))
    yaw = (_TURN_STD * turn) ** 2 + _YAW_STD_PER_SQRT_M**2 * length + _LEAST_STD_RAD**2
    return Measurement(index, index + 1, motion, _LENGTH_STD * length + _LEAST_STD_M, math.sqrt(yaw))
