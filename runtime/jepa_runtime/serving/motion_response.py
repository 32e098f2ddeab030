"""How much of the executed motion an image shows, by the relative pose that the model reads.

A read pose measures a motion in meters and radians, however well the model predicts latents.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.planning.differential_drive import DifferentialDrive
from jepa_runtime.serving.history import History
from jepa_runtime.util.poses import TURN_M, compose

# Most model steps over which a motion is read: a slow one of one step is hardly longer than the errors of
# readings.
_MOST_STEPS = 3
# A motion is read if it is this many standard deviations long: readings of equal images are not exactly 0.
_VISIBLE_STDS = 2.5


class MotionResponse:
    """Compares the motion between two images with the executed action.

    Args:
        model: A model that reads poses.
        drive: Components of its actions.
    """

    def __init__(self, model: WorldModel, drive: DifferentialDrive) -> None:
        self._model, self._drive = model, drive

    @classmethod
    def of(cls, model: WorldModel) -> MotionResponse | None:
        """Return the comparison for a model; None: it reads no poses, or does not drive such a robot."""
        if not model.reads_poses:
            return None
        try:
            return cls(model, DifferentialDrive.of(model.manifest.io.action.names))
        except JepaRuntimeError:
            return None

    def newest(self, history: History, latent: NDArray[np.float32]) -> float:
        """Return the proportion that the newest image shows of the executed motion.

        The motion is read over as few model steps as possible, so that an image that no longer changes is
        noticed soon.

        Args:
            history: Recent latents and actions.
            latent: Latent [T, D] of the newest image.

        Returns:
            The proportion; NaN: the motion of all steps is too small to be read.
        """
        response = math.nan
        for steps in range(1, _MOST_STEPS + 1):
            past = history.past_context(steps)
            if past is None:
                break
            response = self.measure(past.context.latents[-1], past.actions, latent)
            if not math.isnan(response):
                break
        return response

    def measure(
        self, previous: NDArray[np.float32], actions: NDArray[np.floating], newest: NDArray[np.float32]
    ) -> float:
        """Return the proportion of the executed motion that the newest image shows.

        Args:
            previous: Latent [T, D] n steps before.
            actions: Actions [n, A] that were executed since then.
            newest: Latent [T, D] of the newest image.

        Returns:
            The proportion; NaN: the motion is too small to be read.
        """
        weights, motion = np.array([1.0, 1.0, TURN_M]), np.zeros(3)
        for action in actions:
            motion = compose(motion, self._drive.motion(action, self._model.manifest.io.step_s))
        executed = weights * motion
        if not executed.any():
            return math.nan
        read = self._model.relative_poses(previous, newest).astype(np.float64)
        length_m, std_m = float(np.linalg.norm(executed)), math.hypot(read[3], TURN_M * read[4])
        if length_m <= _VISIBLE_STDS * std_m:
            return math.nan
        return float(weights * read[:3] @ executed) / length_m**2
