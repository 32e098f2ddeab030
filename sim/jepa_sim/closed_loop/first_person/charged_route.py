"""Drivers that repeat routes in a world that goes on: for :mod:`jepa_sim.closed_loop.charged_time`.

The robot localizes itself on the route with each image: it compares the image with key frames, and reads its
pose in the frames of the three nearest. That is part of each decision; :func:`localization_s` measures it.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.model import WorldModel
from jepa_runtime.routes import Route, RouteLocalizer
from jepa_sim.closed_loop import episodes
from jepa_sim.closed_loop.charged_time import Reflex
from jepa_sim.closed_loop.first_person.protocol import PERIOD_S, Assignment, Driver, Observation, Policy
from jepa_sim.closed_loop.first_person.robot_driver import as_tuple, record
from jepa_sim.closed_loop.repeat import RepeatConfig, RouteRobot, locate
from jepa_sim.worlds.first_person.world import FirstPersonRooms
from jepa_sim.worlds.interface import Image, World

# What is measured before the caches are warm does not count.
_WARM_UP = 5


def shown_route(model: WorldModel, world: FirstPersonRooms, seed: int) -> Route:
    """Return the route of the present episode, recorded from what the robot was shown.

    Args:
        model: The open model.
        world: The world, which was just reset.
        seed: Seed of the noise of the shown images.

    Raises:
        RouteError: The model does not tell its places apart.
    """
    mission = world.mission
    with closing(mission.open_scene(np.random.default_rng((seed, 3)))) as scene:
        shown = Assignment(world.level, mission, scene).demonstration(PERIOD_S)
    return record(model, shown, world.level.name)


def localization_s(model: WorldModel, route: Route) -> float:
    """Return the median time to localize the robot on a route [s], measured along its key frames."""
    localizer = RouteLocalizer(route, start=0, reads_poses=model.reads_poses)
    poses, took_s = route.poses, list[float]()
    for index, (latent, time_s) in enumerate(zip(route.latents, route.times_s, strict=True)):
        began = time.perf_counter()
        locate(
            model,
            route,
            localizer,
            latent,
            stamp_ns=round(time_s * 1e9),
            command=None,
            pose=None if poses is None else as_tuple(poses[index]),
        )
        took_s.append(time.perf_counter() - began)
    return float(np.median(took_s[_WARM_UP:] or took_s))


def route_driver(
    model: WorldModel, route: Route, config: RepeatConfig, world: FirstPersonRooms
) -> episodes.Driver:
    """Return the robot that repeats a route, for episodes of the seed of that route.

    Args:
        model: The open model.
        route: The route.
        config: Settings; see :func:`~jepa_sim.closed_loop.episodes.adapted`.
        world: The world.
    """
    controller = episodes.adapted(config.controller, model.manifest, world.task)
    period_s = model.manifest.io.step_s / controller.images_per_step

    def begin(_world: World, seed: int) -> episodes.Policy:
        chosen = replace(config, controller=replace(controller, seed=seed), start=0)
        return _RoutePolicy(RouteRobot(model, route, chosen, period_s=period_s), world)

    return episodes.Driver(begin, controller.images_per_step)


def reflex_driver(driver: Driver, images_per_step: int) -> episodes.Driver:
    """Return a driver of the levels, which decides at the moment of each image.

    Args:
        driver: The driver.
        images_per_step: Images per model step.
    """

    def begin(world: World, seed: int) -> episodes.Policy:
        assert isinstance(world, FirstPersonRooms)
        with closing(world.mission.open_scene(np.random.default_rng((seed, 3)))) as scene:
            assignment = Assignment(world.level, world.mission, scene)
            return _LevelPolicy(driver.begin(assignment, np.random.default_rng((seed, 1))), world)

    return episodes.Driver(begin, images_per_step)


class _LevelPolicy(Reflex):
    """A policy of the levels, which decides when an image is taken."""

    def __init__(self, decide: Policy, world: FirstPersonRooms) -> None:
        super().__init__(self)
        self._decide, self._world = decide, world
        self._now_s = 0.0

    def __call__(self, image: Image) -> NDArray[np.float64] | None:
        return self._decide(Observation(self._now_s, self._world.read_odometry(), lambda: image))

    def see(self, image: Image, stamp_ns: int) -> None:
        self._now_s = stamp_ns / 1e9
        super().see(image, stamp_ns)


class _RoutePolicy:
    """The robot as a :class:`~jepa_sim.closed_loop.charged_time.TimedPolicy`, with the world's odometry."""

    def __init__(self, robot: RouteRobot, world: FirstPersonRooms) -> None:
        self._robot, self._world = robot, world

    def __call__(self, image: Image) -> NDArray[np.float64] | None:
        command = self._robot.step(image, pose=as_tuple(self._world.read_odometry()))
        return command if self._robot.result is None else None

    def see(self, image: Image, stamp_ns: int) -> None:
        self._robot.see(stamp_ns, as_tuple(self._world.read_odometry()))

    def observe(self, image: Image, *, stamp_ns: int) -> None:
        self._robot.observe(image, stamp_ns=stamp_ns)

    def answer(self, now_ns: int) -> NDArray[np.float64] | None:
        return self._robot.answer(now_ns)

    def watch(self, now_ns: int) -> bool:
        return self._robot.watch(now_ns)

    def swap_model(self, now_ns: int) -> None:
        self._robot.swap_model(now_ns)

    def finish_image(self) -> None:
        self._robot.finish_image()
