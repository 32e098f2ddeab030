"""Gymnasium's Reacher-v5 (MuJoCo): an arm of two joints, seen from above, that is to stand as an image shows
it.

The arm takes torques and has momentum. Here its joints are told speeds, as those of real arms are, and a
controller at every tick of the simulation makes torques of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_sim.worlds.gymnasium_adapter import frame_of, make_environment
from jepa_sim.worlds.interface import Actions, Image, Task

MAX_JOINT_RADPS = 2.0
# The second joint's stops are at 3.
ELBOW_RAD = 2.4
LINKS_M = (0.1, 0.11)
# As the easy task of the reacher in the DeepMind control suite.
TOLERANCE_M = 0.05
MAX_STEPS = 50
# Torque, as a share of the greatest, for each rad/s that a joint is too slow.
_GAIN = 0.15
_LEAST_WAY_M = 0.1
_STRAIGHT_S = 0.2
# Straight from above, the arm's whole reach in view.
_CAMERA = {"distance": 0.62, "azimuth": 90.0, "elevation": -90.0, "lookat": np.zeros(3)}

Floats = NDArray[np.float64]


class Reacher:
    """A :class:`jepa_sim.worlds.interface.World`. The goal is an image of the arm at other angles; the red
    ball lies where its fingertip then is, and the goal is reached where the fingertip is at the ball.

    Raises:
        WorldError: Gymnasium or MuJoCo is not installed.
    """

    def __init__(self) -> None:
        self._environment = make_environment("Reacher-v5", default_camera_config=_CAMERA)
        # Without a GPU, shadows and smoothing took 13 times as long to draw as all the rest.
        quality = self._environment.model.vis.quality
        quality.shadowsize = quality.offsamples = 0
        self._tick_s: float = self._environment.dt
        self.reset(0)

    @property
    def task(self) -> Task:
        """To bring the fingertip where the image shows it."""
        return Task(
            name="Reacher-v5 of Gymnasium, told joint speeds",
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
        """Begin an episode: the arm at rest somewhere, the ball at least 0.1 m from its fingertip."""
        rng = np.random.default_rng(seed)
        start = goal = sample_angles(rng)
        while np.linalg.norm(fingertip(goal) - fingertip(start)) < _LEAST_WAY_M:
            goal = sample_angles(rng)
        self._goal = goal
        self.stand(start, fingertip(goal))

    @property
    def angles(self) -> Floats:
        """Of the joints [2] in rad."""
        angles: Floats = self._environment.data.qpos[:2].copy()
        return angles

    def stand(self, angles: Floats, ball: Floats) -> None:
        """Put the arm at rest at ``angles`` [2], and the ball at [x, y] metres."""
        self._ball = ball
        self._environment.set_state(np.concatenate([angles, ball]), np.zeros(4))

    def render(self) -> Image:
        """What the camera sees now, uint8 [128, 128, 3] RGB."""
        return frame_of(self._environment)

    def render_goal(self) -> Image:
        """What the camera would see with the arm at the goal, uint8 [128, 128, 3] RGB."""
        data = self._environment.data
        position, velocity = data.qpos.copy(), data.qvel.copy()
        self.stand(self._goal, self._ball)
        frame = self.render()
        self._environment.set_state(position, velocity)
        return frame

    def step(self, action: Actions, dt_s: float) -> None:
        """Turn the joints at ``action`` [2] rad/s for ``dt_s`` seconds, limited to
        :data:`MAX_JOINT_RADPS` each."""
        asked = np.clip(action, -MAX_JOINT_RADPS, MAX_JOINT_RADPS)
        for _ in range(round(dt_s / self._tick_s)):
            torque = np.clip(_GAIN * (asked - self._environment.data.qvel[:2]), -1, 1)
            self._environment.do_simulation(torque, self._environment.frame_skip)

    def distance(self) -> float:
        """From the fingertip to the ball in metres."""
        return float(np.linalg.norm(fingertip(self.angles) - self._ball))

    def straight_line(self) -> Floats:
        """Joint speeds that lead straight to the goal's angles, the first joint the shorter way round."""
        turn = self._goal - self.angles
        turn[0] = np.arctan2(np.sin(turn[0]), np.cos(turn[0]))
        speeds: Floats = turn / _STRAIGHT_S
        return speeds

    def close(self) -> None:
        """Give the renderer back."""
        self._environment.close()


def sample_angles(rng: np.random.Generator) -> Floats:
    """Angles [2] of an arm that may stand anywhere, away from the stops of its second joint."""
    return np.array([rng.uniform(-np.pi, np.pi), rng.uniform(-ELBOW_RAD, ELBOW_RAD)])


def fingertip(angles: Floats) -> Floats:
    """Where the fingertip [x, y] in metres is with the joints at ``angles`` [2]."""
    along = np.cumsum(angles)
    place: Floats = np.stack([np.cos(along), np.sin(along)]) @ np.array(LINKS_M)
    return place
