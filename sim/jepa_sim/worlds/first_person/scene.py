"""A scene: a house in which a robot can be simulated, and its camera.

A simulator opens scenes. There are two, which share no code for motion, contact or images: the one of this
package (:class:`RayCastScene`), on which models are trained, and MuJoCo
(:class:`jepa_sim.worlds.first_person_mujoco.scene.MuJoCoScene`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util import Pose
from jepa_sim.worlds.first_person.camera import Camera
from jepa_sim.worlds.first_person.layouts import Layout, PackedLayouts, Solid, pack
from jepa_sim.worlds.first_person.motion import Robot, clearance
from jepa_sim.worlds.first_person.odometry import WheelOdometry
from jepa_sim.worlds.interface import Image


class SimulatedRobot(Protocol):
    """A robot in a scene."""

    @property
    def pose(self) -> Pose:
        """True x, y and heading [3]; the heading is not limited to one turn."""
        ...

    @property
    def contacts(self) -> int:
        """How often it has come to touch something."""
        ...

    @property
    def path_m(self) -> float:
        """Length of its path."""
        ...

    def read_odometry(self) -> Pose:
        """Return x, y and heading by the wheels [3], from the origin at the start; -pi <= heading < pi."""
        ...

    def read_camera(self) -> Image:
        """Return the camera image, uint8 [72, 96, 3] RGB."""
        ...

    def drive(self, command: NDArray[np.floating], ticks: int) -> None:
        """Hold a command, ``linear.x`` in m/s and ``angular.z`` in rad/s, for a number of ticks.

        It is limited to what the robot can do.
        """
        ...


class Scene(Protocol):
    """A house that is simulated."""

    def robot(self, pose: Pose) -> SimulatedRobot:
        """Return a robot at rest at a pose [3]."""
        ...

    def images(self, poses: Pose) -> NDArray[np.uint8]:
        """Return what a camera sees from N poses [N, 3], uint8 [N, 72, 96, 3] RGB."""
        ...

    def close_door(self, number: int) -> bool:
        """Close a door of the layout for all robots and cameras, unless a robot stands in it.

        Returns:
            Whether it is closed.
        """
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


RobotT = TypeVar("RobotT", bound=SimulatedRobot)


class SceneWithDoors(ABC, Generic[RobotT]):
    """A scene whose doors can be closed.

    Args:
        layout: The house.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._robots = list[RobotT]()
        self._closed = dict[int, Solid]()

    def close_door(self, number: int) -> bool:
        """Close a door of the layout, unless a robot stands in it; return whether it is closed."""
        leaf = self._layout.door_leaf(number)
        if number not in self._closed and not any(_is_in_the_way(leaf, robot) for robot in self._robots):
            self._closed[number] = leaf
            self._add_leaf(number)
        return number in self._closed

    @abstractmethod
    def _add_leaf(self, number: int) -> None:
        """Add the leaf of a door that has been closed."""


def _is_in_the_way(leaf: Solid, robot: SimulatedRobot) -> bool:
    x, y, _ = robot.pose
    return clearance(x, y, np.array([leaf.row()], np.float32), 1) <= 0


# Opens the scene of a layout, given as it is and packed, with random numbers of all sensors.
Simulator = Callable[[Layout, PackedLayouts, np.random.Generator], Scene]


class RayCastScene(SceneWithDoors["_Robot"]):
    """A scene of the compiled kinematics and the compiled ray caster.

    Args:
        layout: The house.
        packed: The same as arrays.
        rng: Random numbers of odometry and camera.
    """

    def __init__(self, layout: Layout, packed: PackedLayouts, rng: np.random.Generator) -> None:
        super().__init__(layout)
        self._rng = rng
        self._camera = Camera(packed, rng)

    def robot(self, pose: Pose) -> SimulatedRobot:
        """Return a robot at rest at a pose [3]."""
        robot = _Robot(self._camera.layouts, pose, self._camera, WheelOdometry(self._rng))
        self._robots.append(robot)
        return robot

    def images(self, poses: Pose) -> NDArray[np.uint8]:
        """Return what a camera sees from N poses [N, 3], uint8 [N, 72, 96, 3] RGB."""
        return self._camera.images(poses)

    def close(self) -> None:
        """Release nothing."""

    def _add_leaf(self, _number: int) -> None:
        furniture = (*self._layout.furniture, *self._closed.values())
        packed = pack([replace(self._layout, furniture=furniture)])
        self._camera.layouts = packed
        for robot in self._robots:
            robot.layouts = packed


class _Robot(Robot):
    """A robot with its sensors."""

    def __init__(self, packed: PackedLayouts, pose: Pose, camera: Camera, odometry: WheelOdometry) -> None:
        super().__init__(packed, 0, pose)
        self._camera = camera
        self._odometry = odometry

    def read_odometry(self) -> Pose:
        self._odometry.update(self.wheel_pose)
        return self._odometry.pose

    def read_camera(self) -> Image:
        return self._camera.image(self.pose)
