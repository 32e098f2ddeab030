"""Draw the tokens of one latent as a small image, in the square grid of their patches where there is one."""

from __future__ import annotations

import math

import numpy as np

from jepa_runtime.visualization.embedding import Image


def tile(colors: Image) -> Image:
    """Return ``colors`` [T, 3] as an image [h, w, 3] with one pixel for each token.

    The image is square if T is a square number, else as nearly square as the divisors of T allow, and wide.
    """
    tokens = len(colors)
    rows = next(rows for rows in range(math.isqrt(tokens), 0, -1) if tokens % rows == 0)
    return np.ascontiguousarray(colors.reshape(rows, tokens // rows, 3))
