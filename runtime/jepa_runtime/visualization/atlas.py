"""An atlas of latents with their images, which shows a predicted latent as the most similar stored frame.

A JEPA has no decoder: the atlas is a nearest-neighbor lookup, and reports the distance to the frame it shows.
A bundle may contain an atlas as ``atlas.npz``; an atlas can also be built from a run.
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
    TokenColors,
    fit_embedding,
    fit_token_colors,
)
from jepa_runtime.visualization.frame_album import nearest

ATLAS_NAME = "atlas.npz"
"""The file name of an atlas in a bundle."""
THUMBNAIL_PX = 128
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class Atlas:
    """N stored frames.

    Attributes:
        latents: float16 [N, T, D].
        images: The images of the frames as JPEG.
        embedding: Projects latents onto the map.
        token_colors: Assigns colors to tokens.
    """

    latents: NDArray[np.float16]
    images: tuple[bytes, ...]
    embedding: Embedding
    token_colors: TokenColors

    @classmethod
    def build(cls, latents: Latents, chosen: NDArray[np.intp], images: Sequence[bytes], lag: int) -> Atlas:
        """Build an atlas from a sequence of frames.

        Args:
            latents: [N, T, D] of all frames in temporal order; map and colors are fitted to them.
            chosen: [n], the indices of the frames to store.
            images: The JPEG of each chosen frame.
            lag: See :func:`~jepa_runtime.visualization.embedding.fit_embedding`.
        """
        stored = latents[chosen].astype(np.float16)
        return cls(stored, tuple(images), fit_embedding(latents, lag), fit_token_colors(latents))

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Atlas | None:
        """Return the atlas of ``bundle``, or None if it has none.

        Raises:
            BundleError: The atlas is malformed, or its latents are not those of the model.
        """
        if all(record.path != ATLAS_NAME for record in bundle.manifest.files):
            return None
        latent = bundle.manifest.io.latent
        return read_atlas(bundle.read(ATLAS_NAME), (latent.tokens, latent.dim), f"{bundle.path / ATLAS_NAME}")

    def nearest(self, latents: Latents) -> tuple[NDArray[np.intp], Floats]:
        """Return the stored frame nearest to each of ``latents`` [..., T, D].

        Returns:
            Indices [...] and distances [...], the norms of the differences.
        """
        queries = np.asarray(latents, np.float32).reshape(-1, self._flat.shape[1])
        indices, distances = nearest(self._flat, queries)
        shape = latents.shape[:-2]
        return indices.reshape(shape), distances.reshape(shape)

    def project(self, latents: Latents) -> Floats:
        """Return the map coordinates [..., 2] of ``latents`` [..., T, D]."""
        return self.embedding.project(latents)

    def image(self, index: int) -> Image:
        """Return the image of a stored frame, uint8 [h, w, 3] RGB."""
        return decode(self.images[index])

    def to_bytes(self) -> bytes:
        """Return the content of ``atlas.npz``."""
        file = io.BytesIO()
        np.savez(
            file,
            latents=self.latents,
            jpeg=np.frombuffer(b"".join(self.images), np.uint8),
            offsets=np.cumsum([0, *map(len, self.images)], dtype=np.int64),
            mean=self.embedding.mean,
            axes=self.embedding.axes,
            explained=self.embedding.explained,
            token_mean=self.token_colors.mean,
            token_axes=self.token_colors.axes,
            low=self.token_colors.low,
            high=self.token_colors.high,
        )
        return file.getvalue()

    @cached_property
    def _flat(self) -> Floats:
        return self.latents.astype(np.float32).reshape(len(self.latents), -1)


def read_atlas(data: bytes, latent: tuple[int, int], where: str) -> Atlas:
    """Read the content of ``atlas.npz``.

    Args:
        data: The bytes of the file.
        latent: The shape (T, D) of the model's latents.
        where: The path, for error messages.

    Raises:
        BundleError: An array is missing or has a wrong type or shape, or the images are incomplete.
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
            f"{where} is not an atlas (it has the arrays {', '.join(arrays)}): create it with "
            "jepa-export atlas",
            code="bundle.atlas_invalid",
        )
    for name, shape in sizes.items():
        array = arrays[name]
        dtype = np.float16 if name == "latents" else np.int64 if name == "offsets" else np.float32
        if array.shape != shape or array.dtype != dtype or not np.isfinite(array).all():
            raise BundleError(
                f"{where}: array {name} must be finite {np.dtype(dtype)} {list(shape)}, but is {array.dtype} "
                f"{list(array.shape)}: create an atlas for this model with jepa-export atlas",
                code="bundle.atlas_mismatch",
            )
    content, ends = arrays["jpeg"].tobytes(), [int(end) for end in arrays["offsets"]]
    if not count or ends != sorted(ends) or ends[0] != 0 or ends[-1] != len(content):
        raise BundleError(
            f"{where}: the offsets of the images do not match their bytes: create the atlas again with "
            "jepa-export atlas",
            code="bundle.atlas_invalid",
        )
    floats = cast("dict[str, Floats]", arrays)
    return Atlas(
        cast("NDArray[np.float16]", arrays["latents"]),
        tuple(content[start:end] for start, end in pairwise(ends)),
        Embedding(floats["mean"], floats["axes"], floats["explained"]),
        TokenColors(floats["token_mean"], floats["token_axes"], floats["low"], floats["high"]),
    )


def sample_farthest_points(latents: Latents, count: int) -> tuple[NDArray[np.intp], float]:
    """Choose frames by farthest-point sampling, starting from the one nearest to the mean.

    Returns:
        Ascending indices of at most ``count`` distinct latents of [N, T, D]; and the covering radius, the
        largest distance of any latent to the nearest chosen one.
    """
    flat = np.asarray(latents, np.float32).reshape(len(latents), -1)
    chosen = [int(np.square(flat - flat.mean(axis=0)).sum(axis=1).argmin())]
    distances = np.linalg.norm(flat - flat[chosen[0]], axis=1)
    while len(chosen) < count and distances.max() > 0:
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(flat - flat[chosen[-1]], axis=1))
    return np.sort(np.array(chosen)), float(distances.max())


def thumbnail(image: Image, px: int = THUMBNAIL_PX) -> bytes:
    """Return ``image`` (uint8 [h, w, 3] RGB) as a JPEG whose longer side has at most ``px`` pixels.

    Raises:
        FrameError: The image has no pixels.
    """
    height, width = image.shape[:2]
    scale = px / max(height, width, 1)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cast(Image, cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    return to_jpeg(image, _JPEG_QUALITY)
