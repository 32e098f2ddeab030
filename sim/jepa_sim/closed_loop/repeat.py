"""Repeating a taught route in a simulated world, with the controller and the safety checks of the robot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.control import ControllerConfig, GoalTracker, Outcome, State
from jepa_runtime.errors import WorldError
from jepa_runtime.model import RelativePose, WorldModel
from jepa_runtime.routes import (
    FollowerConfig,
    GraphLocalizer,
    LocalizerConfig,
    Place,
    RobotStatus,
    Route,
    RouteFollower,
    RouteLocalizer,
    RouteOutcome,
    RouteResult,
    SubGoal,
    Trace,
    model_of,
)
from jepa_sim.closed_loop.episodes import adapted
from jepa_sim.closed_loop.robot import SimulatedRobot
from jepa_sim.worlds.interface import HasOdometry, Image, World

# Longest drive, as a multiple of the taught one, and in addition to it.
_MAX_TIMES, _MAX_EXTRA_S = 4.0, 30.0


@dataclass(frozen=True, kw_only=True)
class RepeatConfig:
    """Settings of repeating a route.

    Attributes:
        controller: Settings of the controller.
        localizer: Settings of the localizer.
        follower: Settings of the follower.
        start: Key frame at which the robot starts; None: it is found.
    """

    controller: ControllerConfig = field(default_factory=ControllerConfig)
    localizer: LocalizerConfig = field(default_factory=LocalizerConfig)
    follower: FollowerConfig = field(default_factory=FollowerConfig)
    start: int | None = None


def repeat_route(
    model: WorldModel,
    world: World,
    route: Route,
    config: RepeatConfig | None = None,
    *,
    watch: Callable[[Image, float], None] = lambda _image, _time_s: None,
) -> Trace:
    """Drive a world's robot along a route, from where it stands, with its odometry if it has some.

    Args:
        model: The open model.
        world: The world, with the robot at its start.
        route: The route.
        config: Settings.
        watch: Called with each image and its time, before it is processed. It may change the world.

    Raises:
        RouteError: The route was taught with another encoder or energy.
    """
    chosen = RepeatConfig() if config is None else config
    controller = adapted(chosen.controller, model.manifest, world.task)
    period_s = model.manifest.io.step_s / controller.images_per_step
    robot = RouteRobot(model, route, replace(chosen, controller=controller), period_s=period_s)
    while robot.result is None and robot.time_s < time_limit_s(route):
        image = world.render()
        watch(image, robot.time_s)
        world.step(robot.step(image, pose=odometry_of(world)), period_s)
    robot.end(RouteOutcome.ABORTED, f"not finished within {robot.time_s:.0f} s")
    return robot.trace


def time_limit_s(route: Route) -> float:
    """Return the longest time that a robot may drive on a route."""
    return _MAX_TIMES * route.duration_s + _MAX_EXTRA_S


def odometry_of(world: World) -> tuple[float, float, float] | None:
    """Return x, y and heading by the odometry of a world's robot; None: it has none."""
    if not isinstance(world, HasOdometry):
        return None
    x, y, heading = world.read_odometry().tolist()
    return x, y, heading


def place_robot(world: World, route: Route, index: int) -> None:
    """Drive the robot with the taught commands from the start of the route to a key frame.

    Args:
        world: The world, with the robot at the start of the route.
        route: The route.
        index: The key frame.

    Raises:
        WorldError: The route has no commands.
    """
    for before, after in zip(route.key_frames[:index], route.key_frames[1 : index + 1], strict=True):
        if before.command is None:
            raise WorldError(
                "the route has no commands, so the simulated robot cannot be placed on it: teach it "
                "from a source "
                "with commands",
                code="sim.no_commands",
            )
        _hold(world, np.array(before.command), after.time_s - before.time_s)


def displace_robot(world: World, duration_s: float, *, seed: int) -> None:
    """Drive the robot in a random direction at half its speed for ``duration_s``."""
    if duration_s > 0:
        direction = np.random.default_rng((seed, 2)).standard_normal(len(world.task.low))
        speed = (np.array(world.task.high) - np.array(world.task.low)) / 4
        _hold(world, direction / np.linalg.norm(direction) * speed, duration_s)


def _hold(world: World, command: NDArray[np.float64], duration_s: float) -> None:
    tick_s = world.task.tick_s
    if tick_s is None:
        world.step(command, duration_s)
        return
    for _ in range(round(duration_s / tick_s)):
        world.step(command, tick_s)


def locate(
    model: WorldModel,
    route: Route,
    localizer: GraphLocalizer | RouteLocalizer,
    latent: NDArray[np.float32],
    *,
    stamp_ns: int,
    command: NDArray[np.floating] | None,
    pose: tuple[float, float, float] | None,
) -> Place:
    """Return the place of an image by its energies to key frames, and its pose in the frames of the nearest.

    Args:
        model: The open model.
        route: The route.
        localizer: Estimates the place.
        latent: Latent [T, D] of the image.
        stamp_ns: Stamp of the image.
        command: Command [A] in force since the previous image; None: unknown.
        pose: Odometry pose at the image; None: unknown.
    """
    window, readings = localizer.window, None
    if len(localizer.readable):
        readings = model.relative_poses(localizer.landmarks[localizer.readable], latent)
    return localizer.update(
        window,
        model.energy(route.latents[window], latent),
        stamp_ns=stamp_ns,
        command=command,
        pose=pose,
        readings=readings,
    )


class RouteRobot:
    """A simulated robot that repeats a route, one image after the other.

    Args:
        model: The open model.
        route: The route, in the direction of the drive.
        config: Settings.
        period_s: Time between two images.
        localizer: Estimates the place; None: from the key frames of the route.

    Attributes:
        time_s: Time since the first image.
        trace: All images so far, and how the drive ended.

    Raises:
        RouteError: The route was taught with another encoder or energy.
    """

    def __init__(
        self,
        model: WorldModel,
        route: Route,
        config: RepeatConfig,
        *,
        period_s: float,
        localizer: GraphLocalizer | None = None,
    ) -> None:
        route.check_model(model_of(model), "the route")
        self.time_s = 0.0
        self.trace = Trace()
        self._model, self._route, self._period_s = model, route, period_s
        self._robot = SimulatedRobot(model, config.controller, period_s=period_s)
        self._localizer = localizer or RouteLocalizer(
            route, config.localizer, start=config.start, reads_poses=model.reads_poses
        )
        self._follower = RouteFollower(route, config.follower)
        self._tracker: GoalTracker | None = None
        self._goal: SubGoal | None = None
        self._command: NDArray[np.float64] | None = None
        self._place: Place = self._localizer.place
        # Time of the start, odometry poses of images that have not arrived, and the pose of the goal at the
        # newest one.
        self._start_ns = self._robot.now_ns
        self._seen: dict[int, tuple[float, float, float]] = {}
        self._goal_pose: RelativePose | None = None
        # Any goal, so that there are energies, which is not driven to.
        self._robot.request_goal(route.latents[-1], is_via=True)
        self._robot.end_goal("the place is unknown")

    @property
    def result(self) -> RouteResult | None:
        """How the drive ended; None: it is in progress."""
        return self._follower.result

    def end(self, outcome: RouteOutcome, reason: str) -> None:
        """End the drive, unless it has ended."""
        self._follower.end(outcome, reason)
        self.trace.result = self._follower.result

    def step(self, image: Image, *, pose: tuple[float, float, float] | None = None) -> NDArray[np.float64]:
        """Return the command for the image of the next period.

        Args:
            image: The image.
            pose: Odometry pose at the image; None: unknown.
        """
        goal_pose = self._begin(pose)
        command = self._robot.step(image, goal_pose=goal_pose)
        self._locate(self._robot.now_ns, pose)
        self._end(command, goal_pose)
        self.time_s += self._period_s
        return command

    def see(self, stamp_ns: int, pose: tuple[float, float, float]) -> None:
        """Note the odometry pose at which an image is taken, which may arrive later, or never.

        For callers in whose world time goes on while the robot thinks, instead of :meth:`step`. They call
        :meth:`observe`, :meth:`answer` and :meth:`finish_image` for each image that arrives. Their stamps and
        times are those since the start.
        """
        self._seen[stamp_ns] = pose

    def observe(self, image: Image, *, stamp_ns: int) -> None:
        """Predict the futures of an image, and estimate the place."""
        pose = self._seen.get(stamp_ns)
        self._seen = {stamp: seen for stamp, seen in self._seen.items() if stamp > stamp_ns}
        self._goal_pose = self._begin(pose)
        self._robot.observe(image, stamp_ns=self._start_ns + stamp_ns, goal_pose=self._goal_pose)
        self._locate(self._start_ns + stamp_ns, pose)

    def answer(self, now_ns: int) -> NDArray[np.float64] | None:
        """Return the command for the image of :meth:`observe`, or None if the drive has ended."""
        self.time_s = now_ns / 1e9
        command = self._robot.answer(self._start_ns + now_ns)
        self._end(command, self._goal_pose)
        return command if self.result is None else None

    def finish_image(self) -> None:
        """See :meth:`SimulatedRobot.finish_image`."""
        self._robot.finish_image()

    def watch(self, now_ns: int) -> bool:
        """See :meth:`SimulatedRobot.watch`."""
        return self._robot.watch(self._start_ns + now_ns)

    def swap_model(self, now_ns: int) -> None:
        """Stop, and continue with another model; see :meth:`SimulatedRobot.swap_model`."""
        self._robot.swap_model()
        self._robot.stop(self._start_ns + now_ns)

    def _begin(self, pose: tuple[float, float, float] | None) -> RelativePose | None:
        """Pursue the goal of the follower; return its pose, or None if it is unknown."""
        goal_pose = None
        if self._follower.goal is not None and pose is not None:
            goal_pose = self._localizer.goal_pose(self._follower.goal.index, pose)
        self._pursue(knows_pose=goal_pose is not None)
        return goal_pose

    def _locate(self, stamp_ns: int, pose: tuple[float, float, float] | None) -> None:
        """Estimate the place of the newest image."""
        self._place = locate(
            self._model,
            self._route,
            self._localizer,
            self._robot.latent,
            stamp_ns=stamp_ns,
            command=self._command,
            pose=pose,
        )

    def _end(self, command: NDArray[np.float64], goal_pose: RelativePose | None) -> None:
        """Continue on the route from the place, after a command was decided."""
        self._command = command
        is_at_goal = goal_pose is not None and self._localizer.is_at(goal_pose)
        self._follower.update(self._place, self._status(command, is_at_goal=is_at_goal), now_s=self.time_s)
        self._check_goal()
        self.trace.add(self._place, self._follower, time_s=self.time_s)

    def _pursue(self, *, knows_pose: bool) -> None:
        """Give the robot the goal of the follower.

        Args:
            knows_pose: The pose of the goal is known, and decides whether the robot is there; not the energy.
        """
        goal, self._goal = self._goal, self._follower.goal
        if self._goal is None:
            self._robot.end_goal(self._follower.reason)
            self._tracker = None
        elif self._tracker is None or self._tracker.result is not None:
            self._tracker = self._robot.request_goal(
                self._goal.latent,
                is_via=not self._goal.is_last,
                threshold=-math.inf if knows_pose else None,
            )
        elif self._goal is not goal:
            self._robot.move_goal(self._goal.latent, is_via=not self._goal.is_last)

    def _status(self, command: NDArray[np.float64], *, is_at_goal: bool) -> RobotStatus:
        monitor = self._robot.controller.safety_monitor
        return RobotStatus(
            is_driving=bool(np.any(command)),
            reached=is_at_goal or self._robot.state is State.REACHED,
            cause=monitor.cause,
            reason=monitor.reason,
        )

    def _check_goal(self) -> None:
        """End the drive if the controller has aborted its goal."""
        result = None if self._tracker is None else self._tracker.result
        if result is not None and result.outcome is Outcome.ABORTED:
            self._follower.end(RouteOutcome.ABORTED, result.reason)
