"""Reacher-v5 of Gymnasium (MuJoCo): a two-joint arm seen from above, with a pose as the goal image.

The arm takes torques and has momentum. Here its joints take speeds, as those of real arms do; a controller
converts them to torques at every tick of the simulation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_sim.worlds.gymnasium_adapter import frame_of, make_environment
from jepa_sim.worlds.interface import Actions, Image, Task

MAX_JOINT_RADPS = 2.0
# The second joint is limited to 3.
ELBOW_RAD = 2.4
LINKS_M = (0.1, 0.11)
# As in the easy reacher task of the DeepMind control suite.
TOLERANCE_M = 0.05
MAX_STEPS = 50
# Torque, as a proportion of the maximum, for each rad/s of speed error.
_GAIN = 0.15
_MIN_DISTANCE_M = 0.1
_STRAIGHT_S = 0.2
# From above, with the whole reach of the arm in view.
_CAMERA = {"distance": 0.62, "azimuth": 90.0, "elevation": -90.0, "lookat": np.zeros(3)}

Floats = NDArray[np.float64]


class Reacher:
    """The reacher as a :class:`jepa_sim.worlds.interface.World`.

    The goal is an image of the arm at other angles. The red ball lies where the fingertip is then, and the
    goal is reached when the fingertip is at the ball.

    Raises:
        WorldError: Gymnasium or MuJoCo is not installed.
    """

    def __init__(self) -> None:
        self._environment = make_environment("Reacher-v5", default_camera_config=_CAMERA)
        # Without a GPU, shadows and antialiasing took 13 times as long to render as everything else.
        quality = self._environment.model.vis.quality
        quality.shadowsize = quality.offsamples = 0
        self._tick_s: float = self._environment.dt
        self.reset(0)

    @property
    def task(self) -> Task:
        """Move the fingertip to where the goal image shows it."""
        return Task(
            name="Reacher-v5 of Gymnasium, joint speeds",
            action_names=("joint0.velocity", "joint1.velocity"),
            action_units=("rad/s", "rad/s"),
            low=(-MAX_JOINT_RADPS, -MAX_JOINT_RADPS),
            high=(MAX_JOINT_RADPS, MAX_JOINT_RADPS),
            tolerance=TOLERANCE_M,
            unit="m",
            max_steps=MAX_STEPS,
            tick_s=self._tick_s,
        )

    def reset(self, seed: int) -> None:
        """Begin an episode with the arm at rest and the ball at least 0.1 m from its fingertip."""
        rng = np.random.default_rng(seed)
        start = goal = sample_angles(rng)
        while np.linalg.norm(fingertip(goal) - fingertip(start)) < _MIN_DISTANCE_M:
            goal = sample_angles(rng)
        self._goal = goal
        self.stand(start, fingertip(goal))

    @property
    def angles(self) -> Floats:
        """Joint angles [2] in rad."""
        angles: Floats = self._environment.data.qpos[:2].copy()
        return angles

    def stand(self, angles: Floats, ball: Floats) -> None:
        """Put the arm at rest at ``angles`` [2], and the ball at [x, y] meters."""
        self._ball = ball
        self._environment.set_state(np.concatenate([angles, ball]), np.zeros(4))

    def render(self) -> Image:
        """Return the camera image, uint8 [128, 128, 3] RGB."""
        return frame_of(self._environment)

    def render_goal(self) -> Image:
        """Return the image of the arm at the goal, uint8 [128, 128, 3] RGB."""
        data = self._environment.data
        position, velocity = data.qpos.copy(), data.qvel.copy()
        self.stand(self._goal, self._ball)
        frame = self.render()
        self._environment.set_state(position, velocity)
        return frame

    def step(self, action: Actions, dt_s: float) -> None:
        """Turn the joints at ``action`` [2] rad/s for ``dt_s`` seconds.

        Each speed is limited to :data:`MAX_JOINT_RADPS`.
        """
        speeds = np.clip(action, -MAX_JOINT_RADPS, MAX_JOINT_RADPS)
        for _ in range(round(dt_s / self._tick_s)):
            torque = np.clip(_GAIN * (speeds - self._environment.data.qvel[:2]), -1, 1)
            self._environment.do_simulation(torque, self._environment.frame_skip)

    def distance(self) -> float:
        """Return the distance from the fingertip to the ball in meters."""
        return float(np.linalg.norm(fingertip(self.angles) - self._ball))

    def straight_line(self) -> Floats:
        """Return joint speeds straight to the goal's angles, with the first joint turning the shorter way."""
        turn = self._goal - self.angles
        turn[0] = np.arctan2(np.sin(turn[0]), np.cos(turn[0]))
        speeds: Floats = turn / _STRAIGHT_S
        return speeds

    def close(self) -> None:
        """Close the renderer."""
        self._environment.close()


def sample_angles(rng: np.random.Generator) -> Floats:
    """Return random joint angles [2] away from the limits of the second joint."""
    return np.array([rng.uniform(-np.pi, np.pi), rng.uniform(-ELBOW_RAD, ELBOW_RAD)])


def fingertip(angles: Floats) -> Floats:
    """Return the fingertip position [x, y] in meters at joint ``angles`` [2]."""
    along = np.cumsum(angles)
    position: Floats = np.stack([np.cos(along), np.sin(along)]) @ np.array(LINKS_M)
    return position
