"""An episode as one strip of pictures: the goal, then what the camera saw, from the start to the end."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jepa_runtime.imaging.conversion import fit
from jepa_runtime.reports.html import words
from jepa_runtime.util.opencv import cv2
from jepa_sim.closed_loop.run import ClosedLoop, Film
from jepa_sim.worlds.interface import Image

SHOWN = 7
TILE_PX = 112
_GAP_PX, _LINE_PX = 4, 24
_PAPER, _INK = 255, (40, 40, 40)


def strip(film: Film) -> Image:
    """The goal, a gap, and up to :data:`SHOWN` frames evenly spread over the episode, the last one last."""
    chosen = np.unique(np.linspace(0, len(film.frames) - 1, SHOWN).round().astype(int))
    picture = np.full((TILE_PX, (SHOWN + 1) * (TILE_PX + _GAP_PX) + _GAP_PX, 3), _PAPER, np.uint8)
    for place, frame in enumerate([film.goal, *(film.frames[index] for index in chosen)]):
        left = place * (TILE_PX + _GAP_PX) + 2 * _GAP_PX * (place > 0)
        tile = np.empty((TILE_PX, TILE_PX, 3), np.uint8)
        fit(frame, tile)
        picture[:, left : left + TILE_PX] = tile
    return picture


def captions(found: ClosedLoop) -> Mapping[str, Film]:
    """Every film under a line of words, which says who drove and how it went."""
    return {
        f"{words(name)}, episode {number}: {words(film.episode.outcome)} after {film.episode.steps} steps, "
        f"{film.episode.distance:.3f} {found.task.unit} from the goal": film
        for name, drive in found.drives.items()
        for number, film in enumerate(drive.films, 1)
    }


def sheet(films: Mapping[str, Film]) -> Image:
    """All strips under each other, each under its caption."""
    parts = []
    for caption, film in films.items():
        picture = strip(film)
        line = np.full((_LINE_PX, picture.shape[1], 3), _PAPER, np.uint8)
        cv2.putText(line, caption, (2, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _INK, 1, cv2.LINE_AA)
        parts += [line, picture]
    return np.concatenate(parts)
