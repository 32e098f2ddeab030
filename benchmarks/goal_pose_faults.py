"""Faults of a client that publishes the pose of the goal, such as the route node; used by safety.py.

In first-person rooms, the robot steers to these poses with the controller of the planner node. Its camera and
its model are in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from jepa_runtime.control import preset
from jepa_runtime.model import RelativePose, WorldModel
from jepa_runtime.util import Pose, relative
from jepa_sim.closed_loop.episodes import adapted, episode_seeds
from jepa_sim.closed_loop.robot import SimulatedRobot

if TYPE_CHECKING:
    from jepa_sim.worlds.first_person.world import FirstPersonRooms

RATE_HZ = 10.0
# The nearest goals of this level: a route has a goal 0.5 m ahead.
LEVEL, _GOAL_WITHIN_M = "L1", 1.5
# Standard deviations that the client states: position [m], heading [rad].
_STD_M, _STD_RAD = 0.05, 0.05


@dataclass(frozen=True)
class Published:
    """One message of the client.

    Attributes:
        pose: Pose of the goal [3], in the frame of the robot.
        stamp_ns: Stamp of the image in whose frame it is.
    """

    pose: Pose
    stamp_ns: int


class ClientFault(Protocol):
    """Replacement of the messages of a client, period by period."""

    def before(self, live: Published) -> None:
        """Record a live message before the fault begins."""

    def published(self, live: Published) -> list[Published]:
        """Return what is published instead of a live message."""


class Silent:
    """The client has ended."""

    def before(self, live: Published) -> None:
        """Record nothing."""

    def published(self, live: Published) -> list[Published]:
        return []


@dataclass
class Repeating:
    """The client repeats its last messages.

    Args:
        size: Number of messages.
        is_stamped: Whether they have the stamps of new images: only the estimate of the pose hangs.
        noise: Standard deviation of the noise added to each value [m, m, rad].
    """

    size: int = 1
    is_stamped: bool = True
    noise: float = 0.0
    _last: list[Published] = field(default_factory=list)
    _count: int = 0
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def before(self, live: Published) -> None:
        self._last = [*self._last, live][-self.size :]

    def published(self, live: Published) -> list[Published]:
        last = self._last[self._count % len(self._last)]
        self._count += 1
        pose = last.pose + self.noise * self._rng.standard_normal(3)
        return [Published(pose, live.stamp_ns if self.is_stamped else last.stamp_ns)]


@dataclass
class Jumping:
    """The odometry of the client is reset: the goal jumps to where it was when the robot started.

    Args:
        each_s: Time from one reset to the next.
    """

    each_s: float = math.inf
    _first: Pose | None = None
    _reset: Published | None = None

    def before(self, live: Published) -> None:
        if self._first is None:
            self._first = live.pose

    def published(self, live: Published) -> list[Published]:
        if self._reset is None or live.stamp_ns - self._reset.stamp_ns >= self.each_s * 1e9:
            self._reset = live
        assert self._first is not None
        # The frame of the goal shows the motion since the reset.
        start, here = (relative(one.pose, np.zeros(3)) for one in (self._reset, live))
        return [Published(relative(relative(start, here), self._first), live.stamp_ns)]


CLIENT_FAULTS: dict[str, Callable[[], ClientFault]] = {
    "no goal poses": Silent,
    "goal pose repeated, old stamps": lambda: Repeating(is_stamped=False),
    "goal pose repeated, new stamps": Repeating,
    "two goal poses in turn": lambda: Repeating(2),
    "goal pose jumps once": Jumping,
    "goal pose jumps every second": lambda: Jumping(1.0),
    # Designed to defeat the checks.
    "goal pose repeated, noise 0.1": lambda: Repeating(noise=0.1),
}


@dataclass(frozen=True)
class Drive:
    """How an episode went after the fault.

    Attributes:
        path_m: Commanded path, without turns.
        stopped_after_s: Time until the robot was held or the controller ended the goal; None: never.
        stops: Number of holds, and of ends of the goal by the controller.
        reached: Whether the robot ended at the true goal.
    """

    path_m: float
    stopped_after_s: float | None
    stops: int
    reached: bool


def near_goals(world: FirstPersonRooms, seed: int, episodes: int) -> list[int]:
    """Return the seeds of the first held-out episodes of ``seed`` whose goals are near."""
    found, number = list[int](), 0
    while len(found) < episodes:
        number += 1
        candidate = episode_seeds([seed], number)[-1]
        world.reset(candidate)
        if math.hypot(*relative(world.pose, world.goal)[:2]) <= _GOAL_WITHIN_M:
            found.append(candidate)
    return found


def drive_with_client(
    model: WorldModel,
    world: FirstPersonRooms,
    seed: int,
    fault: ClientFault | None,
    *,
    after_s: float,
    lasts_s: float,
) -> Drive:
    """Run an episode until its time is over or the controller ends the goal.

    Args:
        model: The open model.
        world: The world.
        seed: Seed of the episode.
        fault: What the client does wrong; None: nothing.
        after_s: When the fault begins.
        lasts_s: Time from then to the end.
    """
    world.reset(seed)
    images_per_step = round(model.manifest.io.step_s * RATE_HZ)
    config = replace(preset("steering"), images_per_step=images_per_step)
    robot = SimulatedRobot(model, adapted(config, model.manifest, world.task), period_s=1 / RATE_HZ)
    # The client decides when its goal is reached.
    goal = robot.request_goal(
        model.encode(world.render_goal()), is_via=False, threshold=-math.inf, pose_is_given=True
    )
    path_m, stopped_after_s = 0.0, None
    messages: list[Published] = []
    for index in range(round((after_s + lasts_s) * RATE_HZ)):
        passed_s = index / RATE_HZ - after_s
        image, pose = world.render(), relative(world.pose, world.goal)
        # The client has processed the previous image.
        for message in messages:
            robot.controller.set_goal_pose(
                RelativePose(*message.pose.tolist(), _STD_M, _STD_RAD),
                goal_ns=goal.config.goal_ns,
                stamp_ns=message.stamp_ns,
            )
        command = robot.step(image)
        # The stamp of the image, which step has advanced to.
        live, messages = Published(pose, robot.now_ns), []
        if fault is None:
            messages = [live]
        elif passed_s < 0:
            fault.before(live)
            messages = [live]
        else:
            messages = fault.published(live)
        world.step(command, 1 / RATE_HZ)
        if passed_s < 0:
            continue
        path_m += abs(float(command[0])) / RATE_HZ
        if stopped_after_s is None and (goal.result is not None or robot.controller.safety_monitor.holds):
            stopped_after_s = passed_s
        if goal.result is not None:
            break
    is_at_goal = world.distance() <= world.task.tolerance
    return Drive(path_m, stopped_after_s, robot.stops.total() + (goal.result is not None), is_at_goal)
