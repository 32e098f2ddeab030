"""An atlas: remembered latents with their images, so that a predicted latent can be shown as the most similar
frame that was seen. Nothing can decode a JEPA's latent; this only looks one up, and says how far it is.

A bundle may hold one as ``atlas.npz``, listed in its manifest like every file; one can also be made of a run.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import Bundle
from jepa_runtime.bundle.golden_outputs import read_npz
from jepa_runtime.errors import BundleError
from jepa_runtime.imaging.conversion import decode, to_jpeg
from jepa_runtime.util.opencv import cv2
from jepa_runtime.visualization.embedding import (
    Embedding,
    Floats,
    Image,
    Latents,
    Palette,
    fit_embedding,
    fit_palette,
)
from jepa_runtime.visualization.frame_album import nearest

ATLAS_NAME = "atlas.npz"
THUMBNAIL_PX = 128
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class Atlas:
    """N remembered frames.

    Attributes:
        latents: float16 [N, T, D].
        images: their pictures, as JPEG.
        embedding: where latents lie on the map.
        palette: how their tokens are coloured.
    """

    latents: NDArray[np.float16]
    images: tuple[bytes, ...]
    embedding: Embedding
    palette: Palette

    @classmethod
    def of(cls, latents: Latents, chosen: NDArray[np.intp], images: Sequence[bytes], lag: int) -> Atlas:
        """Remember the frames ``chosen`` [n] of ``latents`` [N, T, D], with an image for each of those n.

        Map and colours are fitted to all, in their order in time; ``lag``: see
        :func:`~jepa_runtime.visualization.embedding.fit_embedding`.
        """
        known = latents[chosen].astype(np.float16)
        return cls(known, tuple(images), fit_embedding(latents, lag), fit_palette(latents))

    @classmethod
    def in_bundle(cls, bundle: Bundle) -> Atlas | None:
        """The atlas of ``bundle``, or None if it has none.

        Raises:
            BundleError: it is damaged, or of latents that are not the model's.
        """
        if all(record.path != ATLAS_NAME for record in bundle.manifest.files):
            return None
        latent = bundle.manifest.io.latent
        return read_atlas(bundle.read(ATLAS_NAME), (latent.tokens, latent.dim), f"{bundle.path / ATLAS_NAME}")

    def nearest(self, latents: Latents) -> tuple[NDArray[np.intp], Floats]:
        """The remembered frame most similar to each of ``latents`` [..., T, D]: indices [...] and distances
        [...] (the norm of the difference)."""
        asked = np.asarray(latents, np.float32).reshape(-1, self._flat.shape[1])
        found, away = nearest(self._flat, asked)
        shape = latents.shape[:-2]
        return found.reshape(shape), away.reshape(shape)

    def project(self, latents: Latents) -> Floats:
        """Places [..., 2] of ``latents`` [..., T, D] on the map."""
        return self.embedding.project(latents)

    def image(self, index: int) -> Image:
        """The picture of a remembered frame, uint8 [h, w, 3] RGB."""
        return decode(self.images[index])

    def to_bytes(self) -> bytes:
        """The content of ``atlas.npz``."""
        file = io.BytesIO()
        np.savez(
            file,
            latents=self.latents,
            jpeg=np.frombuffer(b"".join(self.images), np.uint8),
            offsets=np.cumsum([0, *map(len, self.images)], dtype=np.int64),
            mean=self.embedding.mean,
            axes=self.embedding.axes,
            explained=self.embedding.explained,
            token_mean=self.palette.mean,
            token_axes=self.palette.axes,
            low=self.palette.low,
            high=self.palette.high,
        )
        return file.getvalue()

    @cached_property
    def _flat(self) -> Floats:
        return self.latents.astype(np.float32).reshape(len(self.latents), -1)


def read_atlas(data: bytes, latent: tuple[int, int], where: str) -> Atlas:
    """Read ``atlas.npz`` of a model whose latents are ``latent`` = (T, D).

    Raises:
        BundleError: an array is missing, of another type or shape, or its pictures are not whole.
    """
    arrays = read_npz(data, where)
    tokens, dim = latent
    count = len(np.atleast_1d(arrays.get("latents", np.zeros(0))))
    sizes = {
        "mean": (tokens * dim,), "axes": (2, tokens * dim), "explained": (2,), "token_mean": (tokens, dim),
        "token_axes": (3, dim), "low": (3,), "high": (3,), "latents": (count, tokens, dim),
        "offsets": (count + 1,),
    }  # fmt: skip
    if arrays.keys() != {"jpeg", *sizes}:
        raise BundleError(
            f"{where}: is no atlas (it holds {', '.join(arrays)}): make it with jepa-export atlas"
        )
    for name, shape in sizes.items():
        array = arrays[name]
        kind = np.float16 if name == "latents" else np.int64 if name == "offsets" else np.float32
        if array.shape != shape or array.dtype != kind or not np.isfinite(array).all():
            raise BundleError(
                f"{where}: {name} must be finite {np.dtype(kind)} {list(shape)}, is {array.dtype} "
                f"{list(array.shape)}: it was made for another model"
            )
    content, ends = arrays["jpeg"].tobytes(), [int(end) for end in arrays["offsets"]]
    if not count or ends != sorted(ends) or ends[0] != 0 or ends[-1] != len(content):
        raise BundleError(f"{where}: its pictures do not fill it: make it again with jepa-export atlas")
    pick = cast("dict[str, Floats]", arrays)
    return Atlas(
        cast("NDArray[np.float16]", arrays["latents"]),
        tuple(content[start:end] for start, end in pairwise(ends)),
        Embedding(pick["mean"], pick["axes"], pick["explained"]),
        Palette(pick["token_mean"], pick["token_axes"], pick["low"], pick["high"]),
    )


def spread(latents: Latents, count: int) -> tuple[NDArray[np.intp], float]:
    """Choose frames so that few cover much: farthest-point sampling, from the one nearest to the mean on.

    Returns:
        Indices of at most ``count`` different latents of [N, T, D], ascending; and the covering radius: no
        latent is further than that from one of them.
    """
    flat = np.asarray(latents, np.float32).reshape(len(latents), -1)
    chosen = [int(np.square(flat - flat.mean(axis=0)).sum(axis=1).argmin())]
    away = np.linalg.norm(flat - flat[chosen[0]], axis=1)
    while len(chosen) < count and away.max() > 0:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, np.linalg.norm(flat - flat[chosen[-1]], axis=1))
    return np.sort(np.array(chosen)), float(away.max())


def thumbnail(image: Image, px: int = THUMBNAIL_PX) -> bytes:
    """``image`` (uint8 [h, w, 3] RGB) as a JPEG whose longer side has at most ``px`` pixels.

    Raises:
        FrameError: it has no pixels.
    """
    height, width = image.shape[:2]
    share = px / max(height, width, 1)
    if share < 1:
        size = max(1, round(width * share)), max(1, round(height * share))
        image = cast(Image, cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    return to_jpeg(image, _JPEG_QUALITY)
