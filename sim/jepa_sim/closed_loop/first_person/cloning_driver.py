"""Behavior cloning as a driver of the levels: a learned policy from images to commands.

It decides once per model step, and drives to the goal image until the policy reports that it is near. On a
route, the goals are key frames: recorder, localizer and follower are those of the robot, and their energy is
the distance that the policy reports. So the localizer has odometry, but reads no poses. At the level with a
tour of the house, the policy drives to the goal image at once, without the tour.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jepa_runtime.errors import RouteError
from jepa_runtime.routes import (
    LocalizerConfig,
    RobotStatus,
    Route,
    RouteFollower,
    RouteLocalizer,
    RouteModel,
    RouteRecorder,
)
from jepa_runtime.util import Pose
from jepa_sim.closed_loop.first_person.cloned_policy import DIM, TOKENS, ClonedPolicy
from jepa_sim.closed_loop.first_person.protocol import (
    PERIOD_S,
    Assignment,
    Demonstration,
    Driver,
    Observation,
    Policy,
)
from jepa_sim.worlds.first_person.paths import Command
from jepa_sim.worlds.first_person.rendering import HEIGHT_PX, WIDTH_PX
from jepa_sim.worlds.first_person.world import MODEL_STEP_S
from jepa_sim.worlds.interface import Image

# Distance to a goal at which it is reached, and below which two images show the same place of a route.
_REACHED_M, _SAME_PLACE_M = 0.1, 0.2
# Fewer key frames than the robot scores: each costs as much as a command.
_WINDOW = 6
_IMAGES_PER_STEP = round(MODEL_STEP_S / PERIOD_S)


def cloning_driver(policy: ClonedPolicy) -> Driver:
    """Return the policy as a driver."""

    def begin(assignment: Assignment, _rng: np.random.Generator) -> Policy:
        if not assignment.level.startswith("TR"):
            return _once_per_step(_driving_to_goal(policy, assignment))
        try:
            route = _record(policy, assignment.demonstration(MODEL_STEP_S), assignment.level)
        # A policy that learned little does not tell places apart, and cannot repeat a route.
        except RouteError:
            return lambda _: None
        return _once_per_step(_repeating(policy, route.reversed() if assignment.is_return else route))

    return Driver(begin)


def _once_per_step(decide: Policy) -> Policy:
    """Return a policy that holds each command for a model step, and sees no images meanwhile."""
    left, held = 0, np.zeros(2)

    def act(observation: Observation) -> Command | None:
        nonlocal left, held
        if left:
            left -= 1
            return held
        command = decide(observation)
        if command is not None:
            left, held = _IMAGES_PER_STEP - 1, command
        return command

    return act


def seek(policy: ClonedPolicy, goal: Image) -> Callable[[Image], Command | None]:
    """Return what the policy decides at each image in order to drive to a goal image; None: it is there."""
    goal_latent = policy.encode(goal)

    def decide(image: Image) -> Command | None:
        decision = policy.decide(policy.encode(image), goal_latent)
        return None if decision.distance_m <= _REACHED_M else decision.command

    return decide


def _driving_to_goal(policy: ClonedPolicy, assignment: Assignment) -> Policy:
    decide = seek(policy, assignment.goal_image())
    return lambda observation: decide(observation.image)


def _record(policy: ClonedPolicy, demonstration: Demonstration, source: str) -> Route:
    """Return the route of a demonstration.

    Raises:
        RouteError: The policy does not tell its places apart.
    """
    model = RouteModel(
        model_id="cloned_policy", version="1", latent_space=policy.latent_space, energy_space="",
        tokens=TOKENS, dim=DIM, step_s=MODEL_STEP_S, goal_threshold=_SAME_PLACE_M, frame_width=WIDTH_PX,
        frame_height=HEIGHT_PX, action_names=("linear.x", "angular.z"), action_units=("m/s", "rad/s"),
    )  # fmt: skip
    recorder = RouteRecorder(model, policy.distances)
    for time_s, image, pose in zip(
        demonstration.times_s, demonstration.images, demonstration.odometry, strict=True
    ):
        latent = policy.encode(image)
        recorder.add(stamp_ns=round(time_s * 1e9), latent=latent, image=image, pose=_as_tuple(pose))
    return recorder.finish(source)


def _repeating(policy: ClonedPolicy, route: Route) -> Policy:
    localizer = RouteLocalizer(route, LocalizerConfig(window=_WINDOW), start=0)
    follower = RouteFollower(route)
    command = np.zeros(2)

    def decide(observation: Observation) -> Command | None:
        nonlocal command
        latent = policy.encode(observation.image)
        window, goal = localizer.window, follower.goal
        place = localizer.update(
            window,
            policy.distances(route.latents[window], latent),
            stamp_ns=round(observation.time_s * 1e9),
            command=command,
            pose=_as_tuple(observation.odometry),
        )
        decision = None if goal is None else policy.decide(latent, goal.latent)
        status = RobotStatus(
            is_driving=bool(np.any(command)),
            reached=decision is not None and decision.distance_m <= _REACHED_M,
        )
        following = follower.update(place, status, now_s=observation.time_s)
        if follower.result is not None:
            return None
        if following is None:
            command = np.zeros(2)
        elif decision is None or following is not goal:
            command = policy.decide(latent, following.latent).command
        else:
            command = decision.command
        return command

    return decide


def _as_tuple(pose: Pose) -> tuple[float, float, float]:
    x, y, heading = pose.tolist()
    return x, y, heading
