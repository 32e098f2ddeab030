"""A check of large arrays for NaN and infinity."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util.opencv import cv2


def are_finite(numbers: NDArray[np.float32]) -> bool:
    """Return whether all ``numbers`` (any shape) are finite, in one pass and without allocation."""
    # The sum of magnitudes in double precision, which finite float32 cannot overflow.
    return math.isfinite(cv2.norm(numbers.reshape(1, -1), cv2.NORM_L1))
