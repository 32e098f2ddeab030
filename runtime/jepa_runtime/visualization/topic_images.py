"""Pictures for topics, a few times a second: drawn with OpenCV, in the colours of the reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from jepa_runtime.util.opencv import cv2
from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.embedding import Floats, Image, Latents
from jepa_runtime.visualization.latent_tiles import tile
from jepa_runtime.visualization.predictions import Predictions

_INK, _SOFT, _PAPER, _FAINT = (28, 36, 48), (86, 98, 115), (255, 255, 255), (205, 211, 219)
BEST, WORST, CAME = (26, 127, 75), (185, 58, 10), (36, 99, 201)
_STEPS = 6
_CELL, _GAP, _LEFT, _TOP = 96, 4, 92, 26

Placing = Callable[[Floats], Floats]


def paint(trail: Latents, foreseen: Predictions, atlas: Atlas, seconds: float) -> dict[str, Image]:
    """``latent``, ``futures`` and ``map``, where ``trail`` [n, T, D] came in the last ``seconds``."""
    return {
        "latent": latent_image(trail, atlas, seconds),
        "futures": futures_image(foreseen, atlas),
        "map": map_image(trail[-max(1, len(trail) // 5) :], foreseen, atlas),
    }


def latent_image(latents: Latents, atlas: Atlas, seconds: float) -> Image:
    """The newest of ``latents`` [n, T, D] in colours, and below it all of them over the last ``seconds``."""
    colours = atlas.palette.colours(latents)
    canvas = _blank(480, 300)
    _write(canvas, "latent", (12, 20))
    _paste(canvas, tile(colours[-1]), (12, 32), (180, 132))
    _write(canvas, f"last {seconds:.0f} s, a row for each of {colours.shape[1]} tokens", (12, 190))
    _paste(canvas, np.ascontiguousarray(colours.transpose(1, 0, 2)), (12, 200), (456, 88))
    return canvas


def futures_image(foreseen: Predictions, atlas: Atlas) -> Image:
    """The best and the worst candidate as most similar remembered frames; without a goal the first one."""
    ends = foreseen.ends
    rows = [("first", 0)] if ends is None else [("best", ends[0]), ("worst", ends[1])]
    steps = foreseen.columns(_STEPS)
    canvas = _blank(_LEFT + len(steps) * (_CELL + _GAP), _TOP + len(rows) * (_CELL + 20))
    for column, step in enumerate(steps):
        _write(canvas, f"+{foreseen.ahead_s[step]:.1f} s", (_LEFT + column * (_CELL + _GAP) + 20, 18))
    for row, (name, index) in enumerate(rows):
        top = _TOP + row * (_CELL + 20)
        _write(canvas, name, (8, top + 18), _INK)
        if foreseen.energies is not None and ends is not None:
            _write(canvas, f"energy {foreseen.energies[index, -1]:.2g}", (8, top + 38), scale=0.36)
        found, away = atlas.nearest(foreseen.latents[index][steps])
        for column, frame in enumerate(found):
            left = _LEFT + column * (_CELL + _GAP)
            _paste(canvas, atlas.image(int(frame)), (left, top), (_CELL, _CELL), smooth=True)
            _write(canvas, f"{away[column]:.2f} away", (left + 14, top + _CELL + 13), scale=0.36)
    return canvas


def map_image(trail: Latents, foreseen: Predictions, atlas: Atlas) -> Image:
    """Where the latent has been lately (``trail`` [n, T, D]), and the candidates' paths from there."""
    canvas = _blank(480, 400)
    known, came = atlas.project(atlas.latents), atlas.project(trail)
    paths = atlas.project(foreseen.latents)
    place = _frame(np.concatenate([known, came, paths.reshape(-1, 2)]), 480, 400)
    for x, y in place(known):
        cv2.circle(canvas, (int(x), int(y)), 2, _FAINT, -1, cv2.LINE_AA)
    for path in paths:
        _path(canvas, place(np.vstack([came[-1], path])), _FAINT)
    ends = foreseen.ends
    for index, colour in zip(ends or (), (BEST, WORST), strict=False):
        _path(canvas, place(np.vstack([came[-1], paths[index]])), colour, 2)
    _path(canvas, place(came), CAME, 2)
    x, y = place(came[-1:])[0]
    cv2.circle(canvas, (int(x), int(y)), 5, _INK, 2, cv2.LINE_AA)
    labels = (("came", CAME), ("best", BEST), ("worst", WORST))
    for row, (label, colour) in enumerate(labels[: 1 if ends is None else 3]):
        _write(canvas, label, (12, 20 + 18 * row), colour)
    return canvas


def _frame(points: Floats, width: int, height: int) -> Placing:
    low, high = points.min(axis=0), points.max(axis=0)
    scale = 0.88 * float((np.array([width, height]) / np.maximum(high - low, 1e-9)).min())
    middle = (low + high) / 2

    def place(chosen: Floats) -> Floats:
        found = (chosen - middle) * scale
        return cast(Floats, np.stack([width / 2 + found[:, 0], height / 2 - found[:, 1]], axis=1))

    return place


def _blank(width: int, height: int) -> Image:
    return np.full((height, width, 3), _PAPER, np.uint8)


def _paste(
    canvas: Image, image: Image, corner: tuple[int, int], size: tuple[int, int], *, smooth: bool = False
) -> None:
    """Put ``image`` at ``corner``, as large as ``size`` allows; pixels are stretched, pictures keep their
    proportions."""
    width, height = size
    if smooth:
        share = min(width / image.shape[1], height / image.shape[0])
        width, height = max(1, int(image.shape[1] * share)), max(1, int(image.shape[0] * share))
    resized = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if smooth else cv2.INTER_NEAREST
    )
    canvas[corner[1] : corner[1] + height, corner[0] : corner[0] + width] = resized


def _write(
    canvas: Image, words: str, at: tuple[int, int], colour: Sequence[int] = _SOFT, *, scale: float = 0.45
) -> None:
    cv2.putText(canvas, words, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def _path(canvas: Image, points: Floats, colour: Sequence[int], width: int = 1) -> None:
    cv2.polylines(canvas, [np.round(points).astype(np.int32)], False, colour, width, cv2.LINE_AA)
