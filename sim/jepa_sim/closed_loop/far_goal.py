"""Driving to the place of a goal image, far away, through the graph of the places of a tour."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import WorldError
from jepa_runtime.model import RelativePose, WorldModel
from jepa_runtime.planning import SteeringConfig
from jepa_runtime.routes import (
    FollowerState,
    GraphLocalizer,
    KeyFrame,
    Location,
    PlaceGraph,
    Route,
    RouteOutcome,
    RouteResult,
    Trace,
    TracePoint,
)
from jepa_runtime.util import compose, relative
from jepa_sim.closed_loop.episodes import adapted
from jepa_sim.closed_loop.repeat import RepeatConfig, RouteRobot, odometry_of, time_limit_s
from jepa_sim.closed_loop.robot import SimulatedRobot
from jepa_sim.worlds.interface import Image, World

# Ends of a route after which there may be another way.
_RETRIED = frozenset({RouteOutcome.BLOCKED, RouteOutcome.CHANGED, RouteOutcome.LOST, RouteOutcome.ABORTED})
# How far the robot drives to look around at another position, and for how long at most. It drives to a goal
# with this pose relative to the place where it looked around.
_NEXT_POSITION = RelativePose(0.8, 0.0, 0.0, position_std_m=0.02, yaw_std_rad=0.02)
_TO_NEXT_POSITION_S, _ARRIVED_M = 3.5, 0.15
# With this pose of the goal, steering turns on the spot: it is unknown where the goal is.
_UNKNOWN = RelativePose(1.0, 0.0, 0.0, position_std_m=1e3, yaw_std_rad=math.pi)
# The robot faces its way: it backs up to a goal that is behind it only this near.
_BACK_UP_WITHIN_M = 0.3
# A robot that turns to the goal, or looks around for it, does not advance along the route. It tries other
# ways instead of the same one again.
_BLOCKED_AFTER_S, _WAIT_S = 6.0, 0.5
# How far ahead the goal on the way is: further than on a route that was driven as it is.
_LOOKAHEAD_M = 0.7
# Time for which a robot that was blocked looks around: its wheels may have slipped. Then it goes on from
# where it believes to be, with at least this standard deviation.
_FIND_AGAIN_S, _SLIPPED_STD_M = 5.0, 0.3
# Where the robot backs up to in front of an obstacle, and for how long.
_BEHIND = RelativePose(-0.25, 0.0, 0.0, position_std_m=0.02, yaw_std_rad=0.02)
_BACK_UP_S = 1.5
# An obstacle is this far ahead of the robot.
_AHEAD = np.array([0.25, 0.0, 0.0])


@dataclass(frozen=True, kw_only=True)
class FarGoalConfig:
    """Settings of driving to a far goal.

    Attributes:
        repeat: Settings of following the route; its start does not count.
        min_confidence: Confidence in the place of the robot above which it may stop looking around.
        max_position_std_m: Standard deviation of that place below which it may.
        every: It takes one of this many images to find its place.
        look_around_s: Time for which it looks around at a position: one view may look like another place.
        positions: At how many positions it looks around, at most. At the last one, it goes on from the most
            likely place, if there is one.
        least_confidence: Confidence in the place of the robot and of the goal below which that is unknown.
        attempts: Further attempts after the robot was stopped on its way, each by another way if there is
            one.
    """

    repeat: RepeatConfig = field(default_factory=RepeatConfig)
    min_confidence: float = 0.7
    max_position_std_m: float = 0.3
    every: int = 3
    look_around_s: float = 8.0
    positions: int = 3
    least_confidence: float = 0.2
    attempts: int = 4


def drive_to_image(
    model: WorldModel,
    world: World,
    graph: PlaceGraph,
    goal: Image,
    config: FarGoalConfig | None = None,
    *,
    name: str = "the goal image",
) -> FarGoalRobot:
    """Drive a world's robot to the place of an image, from where it stands.

    Args:
        model: The open model.
        world: The world.
        graph: The graph of a tour through it.
        goal: Image at the goal.
        config: Settings.
        name: The goal image, for messages.

    Returns:
        The robot at the end of its drive.

    Raises:
        RouteError: The goal image shows no known place, or the graph does not connect it with the robot.
        WorldError: The robot of this world has no odometry.
    """
    chosen = FarGoalConfig() if config is None else config
    controller = adapted(chosen.repeat.controller, model.manifest, world.task)
    robot = FarGoalRobot(
        model,
        graph,
        goal,
        replace(chosen, repeat=replace(chosen.repeat, controller=controller)),
        period_s=model.manifest.io.step_s / controller.images_per_step,
        name=name,
    )
    while robot.result is None and robot.time_s < time_limit_s(graph.tour):
        pose = odometry_of(world)
        if pose is None:
            raise WorldError(
                f"{world.task.name}: the robot has no odometry, which driving through a graph of places "
                "needs: use another world, such as first_person_tour",
                code="sim.no_odometry",
            )
        world.step(robot.step(world.render(), pose=pose), robot.period_s)
    robot.end(RouteOutcome.ABORTED, f"not finished within {robot.time_s:.0f} s")
    return robot


class FarGoalRobot:
    """A simulated robot that finds its place in a graph, and drives to a goal image through it.

    Args:
        model: The open model.
        graph: The graph.
        goal: Image at the goal.
        config: Settings.
        period_s: Time between two images.
        name: The goal image, for the message.

    Attributes:
        period_s: Time between two images.
        time_s: Time since the first image.
        goal_at: Where the goal is in the frame of the graph.
        route: The newest route to the goal; None: the robot has not found its place yet.
        trace: All images so far, with their places on the route of that time, and how the drive ended.

    Raises:
        RouteError: The goal image shows no known place.
    """

    def __init__(
        self,
        model: WorldModel,
        graph: PlaceGraph,
        goal: Image,
        config: FarGoalConfig,
        *,
        period_s: float,
        name: str = "the goal image",
    ) -> None:
        search = config.repeat.controller.search
        if isinstance(search, SteeringConfig):
            search = replace(search, back_up_within_m=_BACK_UP_WITHIN_M)
        controller = replace(config.repeat.controller, search=search)
        follower = replace(
            config.repeat.follower,
            attempts=0,
            wait_s=_WAIT_S,
            blocked_after_s=_BLOCKED_AFTER_S,
            lookahead_m=_LOOKAHEAD_M,
        )
        repeat = replace(config.repeat, controller=controller, follower=follower)
        self._config = replace(config, repeat=repeat)
        self._model, self._graph, self.period_s = model, graph, period_s
        self._goal = KeyFrame.of(goal, model.encode(goal))
        self.goal_at = graph.locate(
            self._goal.latent, model, min_confidence=config.least_confidence, name=name
        )
        self._obstacles: list[NDArray[np.float64]] = []
        self._attempts = 0
        self.time_s = 0.0
        self.route: Route | None = None
        self.trace = Trace()
        self._look_around()

    @property
    def result(self) -> RouteResult | None:
        """How the drive ended; None: it is in progress."""
        return self.trace.result

    def end(self, outcome: RouteOutcome, reason: str) -> None:
        """End the drive, unless it has ended."""
        if self.trace.result is None:
            self.trace.result = RouteResult(outcome, reason)

    def step(self, image: Image, *, pose: tuple[float, float, float]) -> NDArray[np.float64]:
        """Return the command for the image of the next period.

        Args:
            image: The image.
            pose: Odometry pose at the image.
        """
        on_route = self._on_route
        if on_route is None:
            command = self._find_place(image, np.array(pose))
            point = TracePoint(
                time_s=self.time_s,
                progress=0.0,
                key_frame=0,
                confidence=self._confidence,
                energy=math.nan,
                goal=None,
                state=FollowerState.LOCALIZING,
            )
        else:
            command = on_route.step(image, pose=pose)
            point = replace(on_route.trace.points[-1], time_s=self.time_s)
            if on_route.result is not None:
                self._end_of_route(on_route, on_route.result, pose)
        self.trace.points.append(point)
        self.time_s += self.period_s
        return command

    def _look_around(self, back_up_s: float = 0.0) -> None:
        """Find the place again, after backing up."""
        self._on_route: RouteRobot | None = None
        self._localizer: GraphLocalizer | None = None
        self._relocalizer = self._graph.relocalizer(self._model)
        self._images = -round(back_up_s / self.period_s)
        self._positions = 1
        # By odometry, where the robot has looked around and drives on from; None: it looks around.
        self._leaves_from: NDArray[np.float64] | None = None
        # Confidence in the place that it has found so far.
        self._confidence = 0.0
        # Where the robot was blocked, in the graph and by odometry; None: it does not know where it is.
        self._blocked_at: tuple[Location, NDArray[np.float64]] | None = None
        # Turning on the spot is no progress to the goal, and no reason for a recovery motion.
        patient = replace(self._config.repeat.controller, stuck_after_s=2 * self._config.look_around_s)
        self._robot = SimulatedRobot(self._model, patient, period_s=self.period_s)
        self._robot.request_goal(self._goal.latent, is_via=True, threshold=-math.inf)

    def _find_place(self, image: Image, pose: NDArray[np.float64]) -> NDArray[np.float64]:
        self._images += 1
        if self._images <= 0:
            return self._robot.step(image, goal_pose=_BEHIND)
        if self._leaves_from is not None:
            return self._drive_on(image, pose)
        command = self._robot.step(image, goal_pose=_UNKNOWN)
        if self._blocked_at is not None and self._images * self.period_s > _FIND_AGAIN_S:
            location, there = self._blocked_at
            self._begin(image, location.moved(relative(there, pose)))
            return np.zeros_like(command)
        is_over = self._images * self.period_s > self._config.look_around_s
        if not is_over and self._images % self._config.every:
            return command
        self._relocalizer.add(self._robot.latent, pose)
        # The place takes long to compute.
        origin = self._relocalizer.origin if is_over or self._attempts else None
        self._confidence = 0.0 if origin is None else origin.confidence
        if origin is not None and self._is_certain(origin):
            self._begin(image, origin.moved(pose))
            return np.zeros_like(command)
        if is_over and self._is_last_position:
            self.end(RouteOutcome.LOST, "no place of the graph is likely: start on the tour")
        elif is_over:
            self._leaves_from = pose
            self._images = 0
        return command

    def _drive_on(self, image: Image, pose: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the command on the way to the next position to look around at."""
        assert self._leaves_from is not None
        there = compose(self._leaves_from, np.array([_NEXT_POSITION.x_m, _NEXT_POSITION.y_m, 0.0]))
        x, y, yaw = relative(pose, there).tolist()
        command = self._robot.step(image, goal_pose=replace(_NEXT_POSITION, x_m=x, y_m=y, yaw_rad=yaw))
        if self._images % self._config.every == 0:
            self._relocalizer.add(self._robot.latent, pose)
        if math.hypot(x, y) < _ARRIVED_M or self._images * self.period_s > _TO_NEXT_POSITION_S:
            self._leaves_from = None
            self._images = 0
            self._positions += 1
        return command

    @property
    def _is_last_position(self) -> bool:
        return self._positions >= self._config.positions

    def _is_certain(self, location: Location) -> bool:
        config = self._config
        if self._is_last_position and self._images * self.period_s > config.look_around_s:
            return location.confidence >= config.least_confidence
        return (
            location.confidence >= config.min_confidence
            and location.position_std_m <= config.max_position_std_m
        )

    def _begin(self, image: Image, here: Location) -> None:
        """Begin to follow the route from here to the goal."""
        start = KeyFrame.of(image, self._robot.latent)
        route = self._graph.route(start, here, self._goal, self.goal_at, obstacles=self._obstacles)
        repeat = self._config.repeat
        self._localizer = GraphLocalizer(self._graph, route, here, self.goal_at, repeat.localizer)
        self._on_route = RouteRobot(
            self._model, route, repeat, period_s=self.period_s, localizer=self._localizer
        )
        self.route = route

    def _end_of_route(
        self, on_route: RouteRobot, result: RouteResult, pose: tuple[float, float, float]
    ) -> None:
        """End the drive, or try again by another way."""
        self._attempts += 1
        self.trace.stops += on_route.trace.stops
        if result.outcome not in _RETRIED or self._attempts > self._config.attempts:
            self.trace.result = result
        elif result.outcome is RouteOutcome.LOST or self._localizer is None:
            self._look_around()
        else:
            location = self._localizer.location
            self._obstacles.append(compose(location.pose, _AHEAD)[:2])
            self._look_around(_BACK_UP_S)
            slipped = replace(location, position_std_m=max(location.position_std_m, _SLIPPED_STD_M))
            self._blocked_at = slipped, np.array(pose)
