"""An album of frames that shows a latent, which cannot be decoded, as the most similar frame."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.sources.base import Image
from jepa_runtime.util.opencv import cv2

Floats = NDArray[np.float32]

_HEIGHT = 88


class FrameAlbum:
    """Latents with small images of their frames."""

    def __init__(self) -> None:
        self._images: list[Image] = []
        self._latents: list[Floats] = []

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._images)

    def add(self, image: Image, latent: Floats) -> None:
        """Add a frame (uint8 [h, w, 3] RGB) and its ``latent`` [T, D]."""
        self._images.append(thumbnail(image))
        self._latents.append(latent.reshape(-1))

    def nearest(self, latents: Floats) -> tuple[list[Image], Floats]:
        """Return the frames nearest to ``latents`` [N, T, D], and their distances [N] over T and D."""
        indices, distances = nearest(np.stack(self._latents), latents.reshape(len(latents), -1))
        return [self._images[index] for index in indices], distances


def nearest(points: Floats, queries: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Return the index of and the distance to the nearest of ``points`` [N, F] for each query [M, F]."""
    # Expands |a - b|², so that no array of [M, N, F] is needed.
    indices = (np.square(points).sum(axis=1) - 2 * (queries @ points.T)).argmin(axis=1)
    distances: Floats = np.linalg.norm(queries - points[indices], axis=1)
    return indices, distances


def thumbnail(image: Image) -> Image:
    """Return ``image`` scaled down to a height of 88 pixels."""
    height, width = image.shape[:2]
    if height <= _HEIGHT:
        return np.array(image)
    size = max(1, round(width * _HEIGHT / height)), _HEIGHT
    return cast(Image, cv2.resize(image, size, interpolation=cv2.INTER_AREA))
