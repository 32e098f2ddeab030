"""The tokens of one latent as a small image: in the square that they come from, if there is one."""

from __future__ import annotations

import math

import numpy as np

from jepa_runtime.visualization.embedding import Image


def tile(colours: Image) -> Image:
    """``colours`` [T, 3] as an image [h, w, 3], a pixel for each token: square where T is one, else as nearly
    so as T divides, with more columns than rows."""
    tokens = len(colours)
    rows = next(rows for rows in range(math.isqrt(tokens), 0, -1) if tokens % rows == 0)
    return np.ascontiguousarray(colours.reshape(rows, tokens // rows, 3))
