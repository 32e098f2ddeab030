"""Frames that were seen, to show a latent by: it cannot be decoded, but the most similar frame is found."""

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
        """How many frames it has."""
        return len(self._images)

    def add(self, image: Image, latent: Floats) -> None:
        """Remember a frame (uint8 [h, w, 3] RGB) and its ``latent`` [T, D]."""
        self._images.append(thumbnail(image))
        self._latents.append(latent.reshape(-1))

    def nearest(self, latents: Floats) -> tuple[list[Image], Floats]:
        """The frames whose latents are nearest to ``latents`` [N, T, D], and how far they are [N]: norms over
        tokens and dimensions.
        """
        best, distances = nearest(np.stack(self._latents), latents.reshape(len(latents), -1))
        return [self._images[index] for index in best], distances


def nearest(known: Floats, asked: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Which of ``known`` [N, F] is nearest to each of ``asked`` [M, F]: indices [M] and distances [M]."""
    # |a - b|² without a difference of each pair, which would be the product of both sizes.
    best = (np.square(known).sum(axis=1) - 2 * (asked @ known.T)).argmin(axis=1)
    distances: Floats = np.linalg.norm(asked - known[best], axis=1)
    return best, distances


def thumbnail(image: Image) -> Image:
    """``image`` at a height of 88 pixels, or itself where it is smaller."""
    height, width = image.shape[:2]
    if height <= _HEIGHT:
        return np.array(image)
    size = max(1, round(width * _HEIGHT / height)), _HEIGHT
    return cast(Image, cv2.resize(image, size, interpolation=cv2.INTER_AREA))
