"""The camera of the first-person world: geometry, light, and textures that are held out."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_sim.worlds.first_person.layouts import HALF_WALL_M, sample_layout
from jepa_sim.worlds.first_person.rendering import (
    CAMERA_AHEAD_M,
    CAMERA_HEIGHT_M,
    HEIGHT_PX,
    WIDTH_PX,
    focal_length_px,
    render,
)
from jepa_sim.worlds.first_person.textures import HELD_OUT_TEXTURES, TEXTURES, load_textures
from tests.sim.first_person.houses import SIZE_M, Layout, box, one_room, packed, pose, two_rooms


def image(layout: Layout, *at: float, size: tuple[int, int] = (HEIGHT_PX, WIDTH_PX)) -> np.ndarray:
    return render(packed(layout), pose(*at)[None], np.zeros(1, int), size=size)[0].astype(int)


@pytest.mark.parametrize("size", [(72, 96), (288, 384)])
@pytest.mark.parametrize("depth", [0.9, 1.7, 2.9])
def test_foot_of_a_wall_is_in_the_row_that_follows_from_its_distance(
    depth: float, size: tuple[int, int]
) -> None:
    """A box across the room, against the empty room, whose floor is the same below the foot of the box."""
    front = 0.5 + CAMERA_AHEAD_M + depth
    across = one_room(box((front + 0.05, SIZE_M / 2), (0.05, SIZE_M / 2), top=1.0))
    at = (0.5, SIZE_M / 2)
    middle = size[1] // 2
    changed = np.abs(image(across, *at, size=size) - image(one_room(), *at, size=size)).sum(axis=2) > 0
    rows = np.flatnonzero(changed[:, middle])
    focal = focal_length_px(size[1])
    assert rows[-1] == pytest.approx(size[0] / 2 + focal * CAMERA_HEIGHT_M / depth - 0.5, abs=1)
    assert rows[0] == pytest.approx(size[0] / 2 - focal * (1.0 - CAMERA_HEIGHT_M) / depth - 0.5, abs=1)


def test_field_of_view_is_100_degrees() -> None:
    """A post 49 degrees to the left is in the image; one at 51 degrees is not."""
    for angle, visible in ((49, True), (51, False)):
        x, y = (1.5 * function(math.radians(angle)) for function in (math.cos, math.sin))
        post = one_room(box((1.0 + CAMERA_AHEAD_M + x, 2.0 + y), (0.005, 0.005)))
        different = np.abs(image(post, 1.0, 2.0) - image(one_room(), 1.0, 2.0)).sum(axis=(0, 2)) > 0
        assert different.any() == visible
        assert not different[WIDTH_PX // 2 :].any()


def test_rotation_moves_the_picture_by_the_columns_of_its_angle() -> None:
    """Left turns move the picture to the right; at the middle one column is one focal length's angle."""
    post = one_room(box((3.0 + CAMERA_AHEAD_M, 2.0), (0.01, 0.01)))
    focal = focal_length_px(384)
    places = []
    for columns in (0, 1, 5):
        # The camera stays where it is: it is ahead of the center that the robot turns about.
        heading = math.atan2(columns, focal)
        x, y = 1.0 - CAMERA_AHEAD_M * math.cos(heading), 2.0 - CAMERA_AHEAD_M * math.sin(heading)
        views = [image(layout, x, y, heading, size=(288, 384)) for layout in (post, one_room())]
        seen = np.flatnonzero(np.abs(views[0] - views[1]).sum(axis=(0, 2)))
        places.append(seen.mean())
    assert np.diff(places) == pytest.approx([1, 4], abs=0.51)


def test_door_shows_the_next_room() -> None:
    """The second room is dark: only through the door is it seen."""
    views = [image(two_rooms(door=door), 1.0, SIZE_M / 2) for door in (False, True)]
    closed, opened = (view[HEIGHT_PX // 2].mean(axis=1) for view in views)
    assert closed.min() > 60
    dark = np.flatnonzero(opened < 30)
    half_door = focal_length_px() * 0.5 / (SIZE_M - HALF_WALL_M - 1.0 - CAMERA_AHEAD_M)
    assert dark[0] == pytest.approx(WIDTH_PX / 2 - half_door, abs=1.5)
    assert dark[-1] == pytest.approx(WIDTH_PX / 2 + half_door, abs=1.5)
    assert len(dark) == dark[-1] - dark[0] + 1


def test_nearer_solid_hides_the_one_behind_it() -> None:
    near = box((2.0, 2.0), (0.05, 1.9))
    both = one_room(box((3.0, 2.0), (0.05, 0.5)), near)
    np.testing.assert_array_equal(image(both, 0.5, 2.0), image(one_room(near), 0.5, 2.0))


def test_textures_are_those_that_models_are_trained_with() -> None:
    textures = load_textures()
    assert textures.shape == (TEXTURES, 4, 64, 64, 3)
    means = textures[[0, 100, 191, 192, 239], 0].mean(axis=(1, 2))
    expected = [
        [162.13, 80.77, 143.09], [83.67, 114.00, 143.26], [42.47, 147.76, 51.61], [161.24, 116.46, 226.06],
        [60.01, 98.35, 148.78],
    ]  # fmt: skip
    np.testing.assert_allclose(means, expected, atol=0.05)
    coarse = textures[:, 3, :8, :8].mean(axis=(1, 2))
    np.testing.assert_allclose(coarse, textures[:, 0].mean(axis=(1, 2)), atol=0.01)


def test_held_out_textures_are_never_in_training_layouts() -> None:
    first_held_out = TEXTURES - HELD_OUT_TEXTURES
    for seed in range(40):
        for held_out in (False, True):
            layout = sample_layout(np.random.default_rng(seed), held_out=held_out)
            solids = (*layout.walls, *layout.pictures, *layout.furniture)
            used = {solid.texture for solid in solids}
            used |= {number for room in layout.rooms for number in (room.floor, room.ceiling)}
            assert all((number >= first_held_out) == held_out for number in used)
