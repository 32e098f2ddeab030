"""Draw images for topics a few times a second with OpenCV, in the colors of the reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from jepa_runtime.util.opencv import cv2
from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.embedding import Floats, Image, Latents
from jepa_runtime.visualization.futures_picture import COLORS, FuturesPicture
from jepa_runtime.visualization.latent_tiles import tile
from jepa_runtime.visualization.palette import FAINT, OBSERVED, PAPER, SECONDARY_TEXT, TEXT
from jepa_runtime.visualization.predictions import Predictions

_INK, _SOFT, _PAPER, _FAINT = TEXT.rgb, SECONDARY_TEXT.rgb, PAPER.rgb, FAINT.rgb
MAX_COLUMNS = 6
_CELL, _GAP, _LEFT, _TOP = 96, 4, 92, 26

ToPixels = Callable[[Floats], Floats]


def draw_images(trail: Latents, predictions: Predictions, atlas: Atlas, seconds: float) -> dict[str, Image]:
    """Return the images ``latent``, ``futures`` and ``map``.

    Args:
        trail: [n, T, D], the latents of the last ``seconds``.
        predictions: The futures from the newest image.
        atlas: The frames that latents are shown as.
        seconds: The duration of the trail.
    """
    picture = FuturesPicture.of(predictions, trail[-1], atlas, max_columns=MAX_COLUMNS)
    return {
        "latent": latent_image(trail, atlas, seconds),
        "futures": futures_image(picture, atlas),
        "map": map_image(trail[-max(1, len(trail) // 5) :], picture, atlas),
    }


def latent_image(latents: Latents, atlas: Atlas, seconds: float) -> Image:
    """Draw the newest of ``latents`` [n, T, D] in colors, and all of them over time below it."""
    colors = atlas.token_colors.colors(latents)
    canvas = _blank(480, 300)
    _write(canvas, "latent", (12, 20))
    _paste(canvas, tile(colors[-1]), (12, 32), (180, 132))
    _write(canvas, f"last {seconds:.0f} s, one row per token ({colors.shape[1]})", (12, 190))
    _paste(canvas, np.ascontiguousarray(colors.transpose(1, 0, 2)), (12, 200), (456, 88))
    return canvas


def futures_image(picture: FuturesPicture, atlas: Atlas) -> Image:
    """Draw the candidates of a picture as their nearest frames."""
    canvas = _blank(
        _LEFT + len(picture.steps) * (_CELL + _GAP), _TOP + len(picture.candidates) * (_CELL + 20)
    )
    for column, step in enumerate(picture.steps):
        _write(canvas, f"+{picture.ahead_s[step]:.1f} s", (_LEFT + column * (_CELL + _GAP) + 20, 18))
    for row, candidate in enumerate(picture.candidates):
        top = _TOP + row * (_CELL + 20)
        _write(canvas, candidate.role, (8, top + 18), _INK)
        if picture.energies is not None:
            _write(canvas, f"energy {picture.energies[candidate.index, -1]:.2g}", (8, top + 38), scale=0.36)
        for column, frame in enumerate(candidate.frames):
            left = _LEFT + column * (_CELL + _GAP)
            _paste(canvas, atlas.image(int(frame)), (left, top), (_CELL, _CELL), smooth=True)
            away = f"{candidate.distances[column]:.2f} away"
            _write(canvas, away, (left + 14, top + _CELL + 13), scale=0.36)
    return canvas


def map_image(trail: Latents, picture: FuturesPicture, atlas: Atlas) -> Image:
    """Draw the recent path of the latent (``trail`` [n, T, D]), and the predicted paths from its end."""
    canvas = _blank(480, 400)
    stored, observed = atlas.project(atlas.latents), atlas.project(trail)
    to_pixels = _fit(np.concatenate([stored, observed, picture.paths.reshape(-1, 2)]), 480, 400)
    for x, y in to_pixels(stored):
        cv2.circle(canvas, (int(x), int(y)), 2, _FAINT, -1, cv2.LINE_AA)
    for index in range(len(picture.paths)):
        _path(canvas, to_pixels(picture.path(index)), _FAINT)
    for candidate in picture.candidates:
        _path(canvas, to_pixels(picture.path(candidate.index)), COLORS[candidate.role].rgb, 2)
    _path(canvas, to_pixels(observed), OBSERVED.rgb, 2)
    x, y = to_pixels(observed[-1:])[0]
    cv2.circle(canvas, (int(x), int(y)), 5, _INK, 2, cv2.LINE_AA)
    for row, label in enumerate(("observed", *(candidate.role for candidate in picture.candidates))):
        _write(canvas, label, (12, 20 + 18 * row), COLORS[label].rgb)
    across, upward = picture.explained
    _write(canvas, f"axes: {across:.0%} (right) and {upward:.0%} (up) of all changes", (12, 390), scale=0.36)
    return canvas


def _fit(points: Floats, width: int, height: int) -> ToPixels:
    """Return the conversion of map coordinates to pixels that fits all ``points`` into an image."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = 0.88 * float((np.array([width, height]) / np.maximum(high - low, 1e-9)).min())
    center = (low + high) / 2

    def to_pixels(chosen: Floats) -> Floats:
        offsets = (chosen - center) * scale
        return cast(Floats, np.stack([width / 2 + offsets[:, 0], height / 2 - offsets[:, 1]], axis=1))

    return to_pixels


def _blank(width: int, height: int) -> Image:
    return np.full((height, width, 3), _PAPER, np.uint8)


def _paste(
    canvas: Image, image: Image, corner: tuple[int, int], size: tuple[int, int], *, smooth: bool = False
) -> None:
    """Scale ``image`` to ``size`` and put it at ``corner``.

    With ``smooth`` it is scaled as a photo and keeps its aspect ratio; otherwise its pixels are stretched.
    """
    width, height = size
    if smooth:
        scale = min(width / image.shape[1], height / image.shape[0])
        width, height = max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale))
    resized = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if smooth else cv2.INTER_NEAREST
    )
    canvas[corner[1] : corner[1] + height, corner[0] : corner[0] + width] = resized


def _write(
    canvas: Image, text: str, at: tuple[int, int], color: Sequence[int] = _SOFT, *, scale: float = 0.45
) -> None:
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)


def _path(canvas: Image, points: Floats, color: Sequence[int], width: int = 1) -> None:
    cv2.polylines(canvas, [np.round(points).astype(np.int32)], False, color, width, cv2.LINE_AA)
