"""Which key frames look like an image, before any pose is read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.routes.route import Floats

# Smallest scale of a feature.
_LEAST_SCALE = 1e-6


class Appearance:
    """How alike images are, from the means and the standard deviations of the tokens of their latents.

    It is known at once for all key frames, where reading a pose takes an inference for each.

    Args:
        latents: Latents of the key frames [N, T, D].
    """

    def __init__(self, latents: Floats) -> None:
        features = _features(latents)
        self._center, self._scale = features.mean(axis=0), features.std(axis=0) + _LEAST_SCALE
        self._features = (features - self._center) / self._scale

    def most_alike(self, latent: Floats, count: int) -> NDArray[np.int64]:
        """Return the indices of the ``count`` key frames that look most like an image [T, D]."""
        features = (_features(latent[None])[0] - self._center) / self._scale
        apart = np.linalg.norm(self._features - features, axis=1)
        return np.sort(np.argsort(apart)[:count])


def _features(latents: Floats) -> NDArray[np.float64]:
    values = latents.astype(np.float64)
    return np.concatenate([values.mean(axis=1), values.std(axis=1)], axis=1)
