"""Recordings of Gymnasium's Reacher, rendered on the fly: a wandering arm, seen from above.

A layout is the position of the ball, which is visible but does not affect the arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jepa_export.data.two_rooms_recordings import STEP_S, Recordings, wander
from jepa_sim.worlds.gymnasium_adapter import FRAME_PX
from jepa_sim.worlds.reacher import MAX_JOINT_RADPS, Reacher, fingertip, sample_angles


@dataclass(frozen=True)
class ReacherTrainingWorld:
    """Reacher as a :class:`~.interface.TrainingWorld`, in constant light."""

    kind = "reacher"
    model_id = "reacher"
    description = "Reacher-v5 of Gymnasium: an arm with two velocity-controlled joints, seen from above"
    varies = True
    top_speed = MAX_JOINT_RADPS
    step_s = STEP_S
    joints = 2
    action_names = ("joint0.velocity", "joint1.velocity")
    action_units = ("rad/s", "rad/s")

    def record(
        self,
        seed: Sequence[int],
        *,
        layouts: int,
        trajectories: int,
        frames: int,
        steady_light: float = 1.0,
        standing: bool = False,
        pressing: float = 0.0,
    ) -> Recordings:
        """Record wandering arms; positions are those of the fingertip, and there are no walls."""
        del pressing
        rng, arm = np.random.default_rng(seed), _arm()
        runs = layouts * trajectories
        actions = (wander(rng, runs, frames - 1, self.top_speed) * (not standing)).astype(np.float32)
        balls = np.repeat([fingertip(sample_angles(rng)) for _ in range(layouts)], trajectories, axis=0)
        images = np.empty((runs, frames, FRAME_PX, FRAME_PX, 3), np.uint8)
        positions = np.empty((runs, frames, 2), np.float32)
        joints = np.empty_like(positions)
        for run in range(runs):
            arm.stand(sample_angles(rng), balls[run])
            for index in range(frames):
                images[run, index], joints[run, index] = arm.render(), arm.angles
                positions[run, index] = fingertip(arm.angles)
                if index < frames - 1:
                    arm.step(actions[run, index], STEP_S)
        shape = (layouts, trajectories)
        return Recordings(
            images.reshape(*shape, *images.shape[1:]),
            actions.reshape(*shape, *actions.shape[1:]),
            positions.reshape(*shape, *positions.shape[1:]),
            joints=joints.reshape(*shape, *joints.shape[1:]),
        )

    def held_out(self) -> ReacherTrainingWorld:
        return self

    def world(self) -> Reacher:
        return Reacher()


@lru_cache(maxsize=1)
def _arm() -> Reacher:
    """Return the arm of this process: creating one takes longer than an episode."""
    return Reacher()
