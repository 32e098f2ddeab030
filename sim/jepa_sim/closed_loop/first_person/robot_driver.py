"""The code that drives the robot as a driver of the levels: world model, controller, and safety monitor.

For a goal image it drives as the planner node does. A route is recorded from the demonstration, and repeated
with the localizer and the follower of the route node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from jepa_runtime.control import ControllerConfig, State, preset
from jepa_runtime.errors import RouteError, WorldError
from jepa_runtime.model import WorldModel
from jepa_runtime.routes import PlaceGraph, Route, RouteOutcome, RouteRecorder, model_of
from jepa_runtime.util import Pose
from jepa_sim.closed_loop.episodes import adapted
from jepa_sim.closed_loop.far_goal import FarGoalConfig, FarGoalRobot
from jepa_sim.closed_loop.first_person.protocol import (
    PERIOD_S,
    Assignment,
    Demonstration,
    Driver,
    Observation,
    Policy,
)
from jepa_sim.closed_loop.repeat import RepeatConfig, RouteRobot
from jepa_sim.closed_loop.robot import SimulatedRobot
from jepa_sim.worlds.first_person.levels import LEVELS
from jepa_sim.worlds.first_person.paths import Command
from jepa_sim.worlds.first_person.world import task_of

# Images of a tour: enough for its key frames.
_TOUR_PERIOD_S = 2 * PERIOD_S
# Called with the reason why the driver has stopped: ``reached``, or how a route ended.
Report = Callable[[str], None]


def robot_driver(
    model: WorldModel, config: RepeatConfig | None = None, *, report: Report = lambda _: None
) -> Driver:
    """Return the robot with this model as a driver.

    Args:
        model: The open model.
        config: Settings; the seed of each episode replaces that of the controller, and a route begins at its
            start. None: the defaults, with steering if the model reads poses.
        report: Called once when the driver stops by itself.
    """
    if config is None:
        controller = preset("steering") if model.reads_poses else ControllerConfig()
        config = RepeatConfig(controller=controller)
    chosen = replace(config, start=0)

    def begin(assignment: Assignment, rng: np.random.Generator) -> Policy:
        controller = _adapted(chosen.controller, model, assignment, int(rng.integers(1 << 31)))
        if assignment.is_tour:
            return _driving_far(model, assignment, replace(chosen, controller=controller), report)
        if assignment.has_recording:
            route = record(model, assignment.demonstration(PERIOD_S), assignment.level)
            return _repeating(
                model,
                route.reversed() if assignment.is_return else route,
                replace(chosen, controller=controller),
                report,
            )
        return _driving_to_goal(model, assignment, controller, report)

    return Driver(begin)


def record(model: WorldModel, demonstration: Demonstration, source: str) -> Route:
    """Return the route of a demonstration, with poses by odometry and without commands.

    Raises:
        RouteError: The model does not tell its places apart.
    """
    recorder = RouteRecorder(model_of(model), model.energy)
    for time_s, image, pose in zip(
        demonstration.times_s, demonstration.images, demonstration.odometry, strict=True
    ):
        recorder.add(
            stamp_ns=round(time_s * 1e9), latent=model.encode(image), image=image, pose=as_tuple(pose)
        )
    return recorder.finish(source)


def _driving_to_goal(
    model: WorldModel, assignment: Assignment, config: ControllerConfig, report: Report
) -> Policy:
    robot = SimulatedRobot(model, config, period_s=PERIOD_S)
    robot.set_goal(assignment.goal_image())

    def decide(observation: Observation) -> Command | None:
        command = robot.step(observation.image, odometry=observation.odometry)
        if robot.state is not State.REACHED:
            return command
        report(str(RouteOutcome.REACHED))
        return None

    return decide


def _repeating(model: WorldModel, route: Route, config: RepeatConfig, report: Report) -> Policy:
    robot = RouteRobot(model, route, config, period_s=PERIOD_S)

    def decide(observation: Observation) -> Command | None:
        command = robot.step(observation.image, pose=as_tuple(observation.odometry))
        if robot.result is None:
            return command
        report(str(robot.result.outcome))
        return None

    return decide


def _driving_far(model: WorldModel, assignment: Assignment, config: RepeatConfig, report: Report) -> Policy:
    tour = record(model, assignment.demonstration(_TOUR_PERIOD_S), assignment.level)
    graph = PlaceGraph.build(tour, model)
    try:
        robot = FarGoalRobot(
            model, graph, assignment.goal_image(), FarGoalConfig(repeat=config), period_s=PERIOD_S
        )
    except RouteError:
        report(str(RouteOutcome.LOST))
        return lambda _observation: None

    def decide(observation: Observation) -> Command | None:
        command = robot.step(observation.image, pose=as_tuple(observation.odometry))
        if robot.result is None:
            return command
        report(str(robot.result.outcome))
        return None

    return decide


def _adapted(
    config: ControllerConfig, model: WorldModel, assignment: Assignment, seed: int
) -> ControllerConfig:
    """Return the settings for a model and a mission.

    Raises:
        WorldError: The model cannot act in these rooms, or its step is no multiple of the image period.
    """
    manifest = model.manifest
    task = task_of("first-person rooms", LEVELS[assignment.level], assignment.time_limit_s)
    images_per_step = round(manifest.io.step_s / PERIOD_S)
    mismatch = task.mismatch(manifest)
    if mismatch is None and abs(images_per_step * PERIOD_S - manifest.io.step_s) > 1e-9:
        mismatch = f"the model's step of {manifest.io.step_s:g} s is not a multiple of {PERIOD_S:g} s"
    if mismatch is not None:
        raise WorldError(
            f"{model.bundle.path} cannot drive in {task.name}: {mismatch}: use a model that was trained for "
            "these rooms",
            code="sim.model_mismatch",
        )
    return adapted(replace(config, images_per_step=images_per_step, seed=seed), manifest, task)


def as_tuple(pose: Pose) -> tuple[float, float, float]:
    """Return a pose [3] as routes take it."""
    x, y, heading = pose.tolist()
    return x, y, heading
