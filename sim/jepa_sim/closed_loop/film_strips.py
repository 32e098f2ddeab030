"""An episode as a strip of images: the goal, then camera images from start to end."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jepa_runtime.imaging import resize_into
from jepa_runtime.reports import words
from jepa_runtime.util import opencv
from jepa_sim.closed_loop.run import ClosedLoop, Film
from jepa_sim.worlds.interface import Image

SHOWN = 7
TILE_PX = 112
_GAP_PX, _LINE_PX = 4, 24
_BACKGROUND, _TEXT_COLOR = 255, (40, 40, 40)


def tiles(film: Film) -> list[Image]:
    """Return the goal, and up to :data:`SHOWN` frames evenly spaced over the episode."""
    chosen = np.unique(np.linspace(0, len(film.frames) - 1, SHOWN).round().astype(int))
    found = []
    for frame in (film.goal, *(film.frames[index] for index in chosen)):
        tile = np.empty((TILE_PX, TILE_PX, 3), np.uint8)
        resize_into(frame, tile)
        found.append(tile)
    return found


def strip(film: Film) -> Image:
    """Return the tiles in a row, with a gap after the goal."""
    picture = np.full((TILE_PX, (SHOWN + 1) * (TILE_PX + _GAP_PX) + _GAP_PX, 3), _BACKGROUND, np.uint8)
    for column, tile in enumerate(tiles(film)):
        left = column * (TILE_PX + _GAP_PX) + 2 * _GAP_PX * (column > 0)
        picture[:, left : left + TILE_PX] = tile
    return picture


def captions(found: ClosedLoop) -> Mapping[str, Film]:
    """Return the films by caption: driver, episode and outcome."""
    return {
        f"{words(name)}, episode {number}: {words(film.episode.outcome)} after {film.episode.steps:.1f} "
        f"steps, "
        f"{film.episode.distance:.3f} {found.task.unit} from the goal": film
        for name, drive in found.drives.items()
        for number, film in enumerate(drive.films, 1)
    }


def sheet(films: Mapping[str, Film]) -> Image:
    """Return all strips in one image, each below its caption."""
    parts = []
    for caption, film in films.items():
        picture = strip(film)
        line = np.full((_LINE_PX, picture.shape[1], 3), _BACKGROUND, np.uint8)
        opencv.cv2.putText(
            line, caption, (2, 17), opencv.cv2.FONT_HERSHEY_SIMPLEX, 0.45, _TEXT_COLOR, 1, opencv.cv2.LINE_AA
        )
        parts += [line, picture]
    return np.concatenate(parts)
