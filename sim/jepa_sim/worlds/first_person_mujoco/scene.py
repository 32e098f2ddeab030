"""A first-person house in MuJoCo: its robots, and what their cameras see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import WorldError
from jepa_runtime.util import Pose
from jepa_sim.worlds.first_person.camera import with_noise
from jepa_sim.worlds.first_person.layouts import Layout, PackedLayouts
from jepa_sim.worlds.first_person.rendering import HEIGHT_PX, WIDTH_PX
from jepa_sim.worlds.first_person.scene import SceneWithDoors, SimulatedRobot
from jepa_sim.worlds.first_person_mujoco.house import CEILING, close_door, compile_house
from jepa_sim.worlds.first_person_mujoco.mujoco_import import mujoco
from jepa_sim.worlds.first_person_mujoco.robot import MuJoCoRobot, place
from jepa_sim.worlds.first_person_mujoco.robot_model import CAMERA
from jepa_sim.worlds.interface import Image
from jepa_sim.worlds.mujoco_gl import INSTALL

_MAX_GEOMS = 1000


class HouseRenderer:
    """Draws what the robot's camera sees, without noise.

    Args:
        model: The house.
        size: Height and width in pixels.

    Raises:
        WorldError: Nothing can draw here.
    """

    def __init__(self, model: mujoco.MjModel, size: tuple[int, int] = (HEIGHT_PX, WIDTH_PX)) -> None:
        self._model = model
        self._placed = mujoco.MjData(model)
        try:
            self._renderer = mujoco.Renderer(model, *size, max_geom=_MAX_GEOMS)
        except (AttributeError, ImportError, RuntimeError, mujoco.FatalError) as error:
            raise WorldError(
                f"first_person_mujoco: no renderer: {error}: Mesa draws without a GPU: {INSTALL}, and "
                "MUJOCO_GL=egl in the environment",
                code="sim.no_renderer",
            ) from error

    def draw(self, data: mujoco.MjData) -> Image:
        """Return the image of the robot's camera, uint8 [height, width, 3] RGB."""
        self._renderer.update_scene(data, CAMERA)
        image: Image = self._renderer.render()
        return image

    def draw_from(self, pose: Pose) -> Image:
        """Return what a robot sees that stands upright at a pose [3], uint8 [height, width, 3] RGB."""
        return self.draw(self._stand(pose))

    def draw_from_above(self, pose: Pose, center: tuple[float, float], distance_m: float) -> Image:
        """Return a view of the house without its ceilings, uint8 [height, width, 3] RGB.

        Args:
            pose: Where the robot stands [3].
            center: Point on the floor that the view is centered on.
            distance_m: Distance from there.
        """
        camera, option = mujoco.MjvCamera(), mujoco.MjvOption()
        camera.lookat[:] = *center, 0.0
        camera.distance, camera.azimuth, camera.elevation = distance_m, 90.0, -62.0
        option.geomgroup[CEILING] = False
        self._renderer.update_scene(self._stand(pose), camera, option)
        image: Image = self._renderer.render()
        return image

    def close_door(self, number: int) -> None:
        """Close a door of the house in the views from poses."""
        close_door(self._model, self._placed, number)

    def _stand(self, pose: Pose) -> mujoco.MjData:
        place(self._placed, pose)
        mujoco.mj_kinematics(self._model, self._placed)
        mujoco.mj_camlight(self._model, self._placed)
        return self._placed

    def close(self) -> None:
        """Release the renderer."""
        self._renderer.close()


class MuJoCoScene(SceneWithDoors[MuJoCoRobot]):
    """A scene of MuJoCo's physics and MuJoCo's renderer.

    Args:
        layout: The house.
        _packed: Not used: MuJoCo has its own representation.
        rng: Random numbers of odometry and camera.
    """

    def __init__(self, layout: Layout, _packed: PackedLayouts, rng: np.random.Generator) -> None:
        super().__init__(layout)
        self._model = compile_house(layout)
        self._rng = rng
        self._opened: HouseRenderer | None = None

    def robot(self, pose: Pose) -> SimulatedRobot:
        """Return a robot at rest at a pose [3]."""
        robot = MuJoCoRobot(
            self._model, pose, self._rng, lambda data: with_noise(self._renderer.draw(data), self._rng)
        )
        for number in self._closed:
            robot.close_door(number)
        self._robots.append(robot)
        return robot

    def images(self, poses: Pose) -> NDArray[np.uint8]:
        """Return what a camera sees from N poses [N, 3], uint8 [N, 72, 96, 3] RGB."""
        return with_noise(np.stack([self._renderer.draw_from(pose) for pose in poses]), self._rng)

    def close(self) -> None:
        """Release the renderer."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _add_leaf(self, number: int) -> None:
        for robot in self._robots:
            robot.close_door(number)
        if self._opened is not None:
            self._opened.close_door(number)

    @property
    def _renderer(self) -> HouseRenderer:
        if self._opened is None:
            self._opened = HouseRenderer(self._model)
            for number in self._closed:
                self._opened.close_door(number)
        return self._opened
