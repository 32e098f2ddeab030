"""An atlas that grows while a robot drives: what is unlike all before is kept, in bounded memory."""

from __future__ import annotations

import numpy as np

from jepa_runtime.visualization.atlas import Atlas, thumbnail
from jepa_runtime.visualization.embedding import Embedding, Floats, Image, Palette, fit_embedding, fit_palette
from jepa_runtime.visualization.prediction_errors import norms

# However large latents are; so many make a first map.
_FEWEST = 16
_MOST_FIT = 1024
_MOST_BYTES = 1 << 26


class GrowingAtlas:
    """Remembers at most ``most`` frames (and 64 MiB of their latents), none nearer to another than a radius
    that grows when it is full.

    Map and colours are fitted to the latents that came, anew whenever they are twice as many as before,
    until 1024 (or 64 MiB of them) have come: from then on pictures keep their meaning.

    Args:
        lag: frames of one horizon, see :func:`~jepa_runtime.visualization.embedding.fit_embedding`.
    """

    def __init__(self, lag: int, *, most: int = 400) -> None:
        self._lag, self._most = lag, most
        self._latents: Floats = np.zeros((0, 0, 0), np.float32)
        self._images: list[bytes] = []
        self._recent: list[Floats] = []
        self._radius = 0.0
        self._fit_at = _FEWEST
        self._fitted: tuple[Embedding, Palette] | None = None

    def add(self, latent: Floats, image: Image) -> None:
        """The next frame: its latent [T, D] and image, uint8 [h, w, 3] RGB."""
        if not self._images:
            self._most = min(self._most, max(_FEWEST, _MOST_BYTES // latent.nbytes))
            self._latents = np.zeros((self._most + 1, *latent.shape), np.float32)
        self._fit(np.array(latent, np.float32))
        count = len(self._images)
        if count and norms(self._latents[:count] - latent).min() <= self._radius:
            return
        self._latents[count] = latent
        self._images.append(thumbnail(image))
        if len(self._images) > self._most:
            self._thin()

    def atlas(self) -> Atlas | None:
        """What is remembered; None while too little has come to draw a map of."""
        if self._fitted is None:
            return None
        known = self._latents[: len(self._images)].astype(np.float16)
        return Atlas(known, tuple(self._images), *self._fitted)

    def _fit(self, latent: Floats) -> None:
        if len(self._recent) < min(_MOST_FIT, max(_FEWEST, _MOST_BYTES // latent.nbytes)):
            self._recent.append(latent)
        if len(self._recent) >= self._fit_at:
            self._fit_at *= 2
            known = np.stack(self._recent)
            self._fitted = fit_embedding(known, self._lag), fit_palette(known)

    def _thin(self) -> None:
        """Let the radius grow until half of the frames can go."""
        while len(self._images) > self._most // 2:
            typical = float(np.median(norms(self._latents[: len(self._images)] - self._latents[0])))
            self._radius = max(1.5 * self._radius, typical / self._most)
            kept = 1
            for index in range(1, len(self._images)):
                if norms(self._latents[:kept] - self._latents[index]).min() > self._radius:
                    self._latents[kept], self._images[kept] = self._latents[index], self._images[index]
                    kept += 1
            del self._images[kept:]
