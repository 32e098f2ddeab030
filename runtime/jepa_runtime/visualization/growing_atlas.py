"""An atlas that grows while a robot drives: it stores frames unlike all earlier ones, in bounded memory."""

from __future__ import annotations

import numpy as np

from jepa_runtime.visualization.atlas import Atlas, thumbnail
from jepa_runtime.visualization.embedding import (
    Embedding,
    Floats,
    Image,
    TokenColors,
    fit_embedding,
    fit_token_colors,
)
from jepa_runtime.visualization.prediction_errors import norms

# The number of latents of the first map, and the minimum capacity for latents of any size.
_MIN_FRAMES = 16
_MAX_FIT = 1024
_MAX_BYTES = 1 << 26


class GrowingAtlas:
    """Stores at most ``max_frames`` frames (and 64 MiB of latents) with a minimum distance between any two.

    The minimum distance grows when the atlas is full. Map and colors are fitted again whenever the number of
    latents has doubled, until it reaches 1024 (or 64 MiB); from then on they are fixed.

    Args:
        lag: The frames in one horizon, see :func:`~jepa_runtime.visualization.embedding.fit_embedding`.
        max_frames: The capacity.
    """

    def __init__(self, lag: int, *, max_frames: int = 400) -> None:
        self._lag, self._max_frames = lag, max_frames
        self._latents: Floats = np.zeros((0, 0, 0), np.float32)
        self._images: list[bytes] = []
        self._recent: list[Floats] = []
        self._radius = 0.0
        self._fit_at = _MIN_FRAMES
        self._fitted: tuple[Embedding, TokenColors] | None = None

    def add(self, latent: Floats, image: Image) -> None:
        """Add the next frame: its latent [T, D] and image, uint8 [h, w, 3] RGB."""
        if not self._images:
            self._max_frames = min(self._max_frames, max(_MIN_FRAMES, _MAX_BYTES // latent.nbytes))
            self._latents = np.zeros((self._max_frames + 1, *latent.shape), np.float32)
        self._fit(np.array(latent, np.float32))
        count = len(self._images)
        if count and norms(self._latents[:count] - latent).min() <= self._radius:
            return
        self._latents[count] = latent
        self._images.append(thumbnail(image))
        if len(self._images) > self._max_frames:
            self._thin()

    def atlas(self) -> Atlas | None:
        """Return the current atlas, or None while there are too few frames for a map."""
        if self._fitted is None:
            return None
        stored = self._latents[: len(self._images)].astype(np.float16)
        return Atlas(stored, tuple(self._images), *self._fitted)

    def _fit(self, latent: Floats) -> None:
        if len(self._recent) < min(_MAX_FIT, max(_MIN_FRAMES, _MAX_BYTES // latent.nbytes)):
            self._recent.append(latent)
        if len(self._recent) >= self._fit_at:
            self._fit_at *= 2
            recent = np.stack(self._recent)
            self._fitted = fit_embedding(recent, self._lag), fit_token_colors(recent)

    def _thin(self) -> None:
        """Increase the minimum distance until at least half of the frames are dropped."""
        while len(self._images) > self._max_frames // 2:
            typical = float(np.median(norms(self._latents[: len(self._images)] - self._latents[0])))
            self._radius = max(1.5 * self._radius, typical / self._max_frames)
            count = 1
            for index in range(1, len(self._images)):
                if norms(self._latents[:count] - self._latents[index]).min() > self._radius:
                    self._latents[count], self._images[count] = self._latents[index], self._images[index]
                    count += 1
            del self._images[count:]
