"""Presentation of a closed-loop evaluation: a page and an image."""

from __future__ import annotations

import re
from base64 import b64decode

import cv2
import numpy as np

from jepa_runtime.imaging.conversion import decode, to_png
from jepa_sim.closed_loop.film_strips import SHOWN, TILE_PX, captions, sheet, strip, tiles
from jepa_sim.closed_loop.results_page import difference_rows, goals_rows, render
from tests.pages import external
from tests.sim.closed_loop.results import driven, episode, film


def test_rows_show_rates_intervals_and_outcomes() -> None:
    result = driven()
    assert goals_rows(result.goals, result.plan_times)[0] == [
        "fp32", "90.0%", "69.9% to 97.2%", "20", "0", "2", "12.0", "10.0", "12.0",
    ]  # fmt: skip
    assert [row[0] for row in goals_rows(result.goals, result.plan_times)] == [
        "fp32",
        "int8",
        "straight line",
    ]
    name, points, interval, gained, lost = difference_rows(result.differences)[0]
    assert (name, points, gained, lost) == ("int8", "-10.0", "0", "2")
    low, high = (float(end) for end in interval.split(" to "))
    assert low < -10 < high


def test_page_is_self_contained_and_escapes_bundle_text() -> None:
    page = render(driven())
    assert "toy &lt;b&gt;1.2.3&lt;/b&gt;" in page and "<b>1.2.3</b>" not in page
    assert "Random weights" not in page and "Random weights" in render(driven(trained=False))
    assert external(page) == []


def test_page_films_can_be_decoded() -> None:
    page = render(driven())
    pictures = re.findall(r"src='data:image/png;base64,([^']+)'", page)
    assert len(pictures) == 6 * len(tiles(film(episode())))
    assert decode(b64decode(pictures[0])).shape == (TILE_PX, TILE_PX, 3)
    assert "int8, episode 1: reached after 12.0 steps, 0.050 m from the goal" in page
    assert "<img" not in render(driven(films=False))


def test_driver_has_one_name_on_the_page() -> None:
    text = render(driven()).partition("<script")[0]
    assert "straight line" in text and "straight_line" not in text


def test_strip_shows_the_goal_and_then_start_to_end() -> None:
    picture = strip(film(episode(), frames=30))
    assert picture.shape[0] == TILE_PX
    tiles = [picture[:, place * (picture.shape[1] // (SHOWN + 1)) + 40] for place in range(SHOWN + 1)]
    assert (tiles[0] == (255, 0, 0)).all()
    shades = [int(tile[50, 0]) for tile in tiles[1:]]
    assert shades[0] == 0 and shades == sorted(shades)


def test_short_episode_is_padded_and_one_frame_is_enough() -> None:
    picture = strip(film(episode(), frames=1))
    assert (picture[:, -TILE_PX:] == 255).all() and picture.shape == strip(film(episode())).shape


def test_sheet_has_a_caption_above_every_strip() -> None:
    result = captions(driven())
    image = decode(to_png(sheet(result)))
    height = strip(film(episode())).shape[0]
    assert image.shape[0] > len(result) * height and len(result) == 6
    assert image[:20].min() < 100, "the caption is written in dark ink"


def test_png_preserves_colors() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 200
    restored = cv2.imdecode(np.frombuffer(to_png(image), np.uint8), cv2.IMREAD_COLOR)
    assert tuple(restored[0, 0]) == (0, 0, 200)
