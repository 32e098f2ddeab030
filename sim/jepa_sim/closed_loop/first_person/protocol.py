"""The protocol of the levels: what a driver sees, when an episode ends, and what counts.

A driver sees images, its own odometry, the goal image and, at some levels, a recording (images and odometry).
An episode ends when the driver stops by itself or the time is out. It has succeeded if the robot is then
within 0.3 m and 20 degrees of the goal pose. Contacts are counted, and are no failures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util import Pose
from jepa_sim.worlds.first_person.levels import Level, Mission, goal_error, is_reached
from jepa_sim.worlds.first_person.motion import TICK_S
from jepa_sim.worlds.first_person.paths import Command
from jepa_sim.worlds.first_person.recordings import Recording
from jepa_sim.worlds.first_person.scene import RayCastScene, Scene, Simulator
from jepa_sim.worlds.interface import Image

# Training draws its layouts from other seeds.
HELD_OUT_SEED = 1_000_000_000
# A decision, with a new image, is due this often.
PERIOD_S = 0.1


class Observation:
    """What a driver sees at a moment.

    The image is drawn when it is first read, where the robot is then: read it before the policy returns.

    Args:
        time_s: Time since the start.
        odometry: The robot's own odometry, from the origin at the start [3]; the heading is between -pi and
            pi.
        render: Returns the image.
    """

    def __init__(self, time_s: float, odometry: Pose, render: Callable[[], Image]) -> None:
        self.time_s = time_s
        self.odometry = odometry
        self._render = render

    @cached_property
    def image(self) -> Image:
        """The camera image, uint8 [72, 96, 3] RGB."""
        return self._render()


@dataclass(frozen=True)
class Demonstration:
    """What a driver was shown before the episode, at N moments.

    Attributes:
        times_s: Times since its start [N].
        images: Camera images, uint8 [N, 72, 96, 3] RGB.
        odometry: Odometry from the origin at its start [N, 3]; the heading is not limited to one turn.
        commands: Command of the driver from then on [N, 2].
    """

    times_s: NDArray[np.float64]
    images: NDArray[np.uint8]
    odometry: Pose
    commands: NDArray[np.float64]


class Assignment:
    """What a driver knows of a mission.

    Args:
        level: The level.
        mission: The mission.
        scene: The scene.

    Attributes:
        level: Name of the level.
        time_limit_s: Time that the robot has.
        is_return: Whether the robot starts at the end of the recording, to return to its start.
        is_tour: Whether the recording is a tour, through which the robot has to find its own way.
    """

    def __init__(self, level: Level, mission: Mission, scene: Scene) -> None:
        self.level = level.name
        self.time_limit_s = mission.time_limit_s
        self.is_return = mission.is_return
        self.is_tour = mission.is_tour
        self._mission = mission
        self._scene = scene

    def goal_image(self) -> Image:
        """Return the image at the goal pose, uint8 [72, 96, 3] RGB."""
        image: Image = self._scene.images(self._mission.goal[None])[0]
        return image

    @property
    def has_recording(self) -> bool:
        """Whether the level has a recording."""
        return self._mission.recording is not None

    def recorded_odometry(self, period_s: float) -> Pose:
        """Return the odometry of the recording at this period [N, 3]."""
        return self._recorded(period_s)[1].odometry

    def demonstration(self, period_s: float = 1 / 30) -> Demonstration:
        """Return the recording with images at this period, of which there may be thousands."""
        times_s, shown = self._recorded(period_s)
        return Demonstration(times_s, self._scene.images(shown.poses), shown.odometry, shown.commands)

    def _recorded(self, period_s: float) -> tuple[NDArray[np.float64], Recording]:
        recording = self._mission.recording
        if recording is None:
            raise ValueError(f"level {self.level} has no recording")
        times_s = np.append(np.arange(0.0, recording.duration_s, period_s), recording.duration_s)
        return times_s, recording.at(times_s)


# From an observation to the next command, or None if the driver stops.
Policy = Callable[[Observation], "Command | None"]


@dataclass(frozen=True)
class Driver:
    """A driver that sees what a robot sees.

    Attributes:
        begin: Returns the policy of an episode. Arguments: the assignment, and random numbers.
    """

    begin: Callable[[Assignment, np.random.Generator], Policy]


@dataclass(frozen=True)
class TruePoseDriver:
    """A driver that knows the house, the goal pose, and its own true pose; its name must state that.

    Attributes:
        begin: Returns the policy of an episode, from true poses to commands. Arguments: the mission, and
            random numbers.
    """

    begin: Callable[[Mission, np.random.Generator], Callable[[Pose], Command | None]]


@dataclass(frozen=True)
class Drive:
    """How an episode went.

    Attributes:
        seed: Seed of the mission, the noise and the driver.
        reached: Whether the robot ended at the goal.
        stopped: Whether the driver stopped by itself.
        time_s: Duration.
        distance_m: Final distance to the goal.
        turn_deg: Final angle to the goal's heading.
        contacts: How often the robot came to touch something.
        path_m: Length of its path.
    """

    seed: int
    reached: bool
    stopped: bool
    time_s: float
    distance_m: float
    turn_deg: float
    contacts: int
    path_m: float


def mission_of(level: Level, seed: int, simulator: Simulator = RayCastScene) -> Mission:
    """Return the mission of a level with this seed, in a held-out layout."""
    return level.sample(np.random.default_rng((HELD_OUT_SEED, seed)), True, simulator)


def drive(
    level: Level, mission: Mission, driver: Driver | TruePoseDriver, *, seed: int, period_s: float = PERIOD_S
) -> Drive:
    """Run an episode.

    Args:
        level: The level.
        mission: The mission.
        driver: The driver.
        seed: Seed of the noise and of the driver's random numbers.
        period_s: Time between two decisions, a multiple of 25 ms.
    """
    noise, random = np.random.default_rng((seed, 1)), np.random.default_rng((seed, 2))
    with closing(mission.open_scene(noise)) as scene:
        robot = scene.robot(mission.start)
        if isinstance(driver, TruePoseDriver):
            act = driver.begin(mission, random)

            def decide(time_s: float) -> Command | None:
                return act(robot.pose)
        else:
            policy = driver.begin(Assignment(level, mission, scene), random)

            def decide(time_s: float) -> Command | None:
                return policy(Observation(time_s, robot.read_odometry(), robot.read_camera))

        ticks = round(period_s / TICK_S)
        door_closing = mission.door_closing
        stopped, decisions = False, 0
        while decisions * period_s < mission.time_limit_s:
            if door_closing is not None and door_closing.after_s <= decisions * period_s:
                door_closing = None if scene.close_door(door_closing.door) else door_closing
            command = decide(decisions * period_s)
            if command is None:
                stopped = True
                break
            robot.drive(command, ticks)
            decisions += 1
    distance_m, turn = goal_error(mission.goal, robot.pose)
    return Drive(
        seed=seed,
        reached=is_reached(mission.goal, robot.pose),
        stopped=stopped,
        time_s=decisions * period_s,
        distance_m=distance_m,
        turn_deg=math.degrees(turn),
        contacts=robot.contacts,
        path_m=robot.path_m,
    )
