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
from jepa_runtime.util.poses import TURN_M, compose

# Model steps over which a motion is read: those of one step are hardly longer than the errors of readings.
MOTION_STEPS = 3
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
        read = self._model.relative_poses(previous, newest).astype(np.float64)
        length_m, std_m = float(np.linalg.norm(executed)), math.hypot(read[3], TURN_M * read[4])
        if length_m <= _VISIBLE_STDS * std_m:
            return math.nan
        return float(weights * read[:3] @ executed) / length_m**2
