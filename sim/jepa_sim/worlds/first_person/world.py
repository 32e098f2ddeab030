"""First-person rooms as a :class:`jepa_sim.worlds.interface.World`: one goal image at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util import Pose
from jepa_sim.worlds.first_person.compilation import announce_compilation
from jepa_sim.worlds.first_person.levels import (
    LEVELS,
    TOLERANCE_M,
    TOLERANCE_RAD,
    Level,
    Mission,
    goal_error,
)
from jepa_sim.worlds.first_person.motion import (
    MAX_SPEED_MPS,
    MAX_TURN_RADPS,
    MIN_SPEED_MPS,
    TICK_S,
)
from jepa_sim.worlds.first_person.paths import drive_straight
from jepa_sim.worlds.first_person.scene import RayCastScene, Scene, Simulator
from jepa_sim.worlds.interface import Actions, Image, Task

# The level that shows a tour before the episode.
TOUR_LEVEL = "L3"
# With it, max_steps of the task matches the time limits of the levels.
MODEL_STEP_S = 0.3


def task_of(world: str, level: Level, time_limit_s: float) -> Task:
    """Return the task of a mission at a level."""
    return Task(
        name=f"{world}, {level.name}: {level.goal}",
        action_names=("linear.x", "angular.z"),
        action_units=("m/s", "rad/s"),
        low=(MIN_SPEED_MPS, -MAX_TURN_RADPS),
        high=(MAX_SPEED_MPS, MAX_TURN_RADPS),
        tolerance=TOLERANCE_M,
        unit="m",
        max_steps=math.ceil(time_limit_s / MODEL_STEP_S),
        tick_s=TICK_S,
        has_sensor_noise=True,
    )


class FirstPersonRooms:
    """A wheeled robot with a forward camera, in rooms that it has never seen.

    Args:
        level: Name of a level. What the robot is shown at a level with a recording is in :attr:`mission`.
            With a tour, the robot starts where that begins.
        held_out: Whether to use the textures that training never shows.
        simulator: What moves the robot and draws what it sees.
        name: Name of the world for people.

    Attributes:
        mission: The present episode before the robot moves.
    """

    def __init__(
        self,
        level: str,
        *,
        held_out: bool = True,
        simulator: Simulator = RayCastScene,
        name: str = "first-person rooms",
    ) -> None:
        self._level = LEVELS[level]
        self._held_out = held_out
        self._simulator = simulator
        self._name = name
        self._scene: Scene | None = None
        self.mission: Mission
        with announce_compilation():
            self.reset(0)
            self.step(np.zeros(2), TICK_S)
            self.render()

    @property
    def level(self) -> Level:
        """The level."""
        return self._level

    @property
    def task(self) -> Task:
        """Drive to the pose that the goal image shows."""
        return task_of(self._name, self._level, self.mission.time_limit_s)

    def reset(self, seed: int) -> None:
        """Begin an episode in a new layout."""
        rng = np.random.default_rng(seed)
        self.mission = self._level.sample(rng, self._held_out, self._simulator)
        self.close()
        self._scene = self.mission.open_scene(rng)
        tour = self.mission.recording if self.mission.is_tour else None
        self._robot = self._scene.robot(self.mission.start if tour is None else tour.poses[0])

    @property
    def pose(self) -> Pose:
        """True x, y and heading [3]."""
        return self._robot.pose

    @property
    def goal(self) -> Pose:
        """The goal's x, y and heading [3]."""
        goal: Pose = self.mission.goal.copy()
        return goal

    @property
    def contacts(self) -> int:
        """How often the robot has come to touch something in this episode."""
        return self._robot.contacts

    def render(self) -> Image:
        """Return the camera image, uint8 [72, 96, 3] RGB."""
        return self._robot.read_camera()

    def render_goal(self) -> Image:
        """Return the image at the goal pose, uint8 [72, 96, 3] RGB."""
        assert self._scene is not None
        image: Image = self._scene.images(self.mission.goal[None])[0]
        return image

    def read_odometry(self) -> Pose:
        """Return x, y and heading by the wheels [3], from the origin at the start."""
        return self._robot.read_odometry()

    def step(self, action: Actions, dt_s: float) -> None:
        """Hold ``linear.x`` in m/s and ``angular.z`` in rad/s for ``dt_s`` seconds."""
        self._robot.drive(action, round(dt_s / TICK_S))

    def distance(self) -> float:
        """Return the distance to the goal, or if that is more, its angle, where 20 degrees count as 0.3 m."""
        distance, turn = goal_error(self.mission.goal, self._robot.pose)
        return max(distance, turn / TOLERANCE_RAD * TOLERANCE_M)

    def straight_line(self) -> NDArray[np.float64]:
        """Return the command straight to the goal pose, whatever lies between."""
        command = drive_straight(self._robot.pose, self.mission.goal)
        return np.zeros(2) if command is None else command

    def close(self) -> None:
        """Release what draws the images; the next episode creates it again."""
        if self._scene is not None:
            self._scene.close()
            self._scene = None


def level_0() -> FirstPersonRooms:
    """Create the world ``first_person_l0``."""
    return FirstPersonRooms("L0")


def level_1() -> FirstPersonRooms:
    """Create the world ``first_person_l1``."""
    return FirstPersonRooms("L1")


def level_2() -> FirstPersonRooms:
    """Create the world ``first_person_l2``."""
    return FirstPersonRooms("L2")


def tour() -> FirstPersonRooms:
    """Create the world ``first_person_tour``: far goals, from the start of the tour of the house."""
    return FirstPersonRooms(TOUR_LEVEL)


def level_tr() -> FirstPersonRooms:
    """Create the world of routes, which are shown once and repeated."""
    return FirstPersonRooms("TR")
