"""Images of houses in MuJoCo: where things appear, and what is missing where nothing can draw."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.sim.first_person_mujoco.mujoco_scenes import robot, scene  # isort: skip

from jepa_runtime.errors import WorldError
from jepa_sim.worlds import make_world, mujoco_gl
from jepa_sim.worlds.first_person.layouts import HALF_WALL_M, ROOM_HEIGHT_M, Layout, Solid
from jepa_sim.worlds.first_person.rendering import CAMERA_AHEAD_M, CAMERA_HEIGHT_M, focal_length_px
from jepa_sim.worlds.first_person_mujoco import scene as scene_module
from jepa_sim.worlds.first_person_mujoco.house import compile_house
from jepa_sim.worlds.first_person_mujoco.scene import HouseRenderer
from jepa_sim.worlds.first_person_mujoco.textures import texture
from tests.errors import code
from tests.sim.first_person.houses import SIZE_M, box, one_room, pose, two_rooms

SIZE = (288, 384)
FOCAL_PX = focal_length_px(SIZE[1])


def surfaces(layout: Layout, *at: float) -> np.ndarray:
    """Return the name of the surface at each pixel."""
    model = compile_house(layout)
    renderer = HouseRenderer(model, SIZE)
    renderer._renderer.enable_segmentation_rendering()
    numbers = renderer.draw_from(pose(*at))[..., 0]
    renderer.close()
    materials = [model.mat(index).name if index >= 0 else "robot" for index in model.geom_matid]
    return np.array([*materials, "nothing"])[numbers]


def marked(center: tuple[float, float], half: float, top: float) -> Solid:
    """Return a box with a texture of its own."""
    return replace(box(center, (half, half), top=top), texture=9)


@pytest.mark.parametrize("distance_m", [0.8, 1.5, 3.0])
def test_wall_at_a_known_distance_ends_at_the_right_rows(distance_m: float) -> None:
    x = SIZE_M - HALF_WALL_M - distance_m - CAMERA_AHEAD_M
    column = surfaces(one_room(), x, 2.0)[:, SIZE[1] // 2]
    floor, ceiling = np.flatnonzero(column == "floor_1"), np.flatnonzero(column == "ceiling_2")
    # The skirting board stands out 12 mm.
    foot = SIZE[0] / 2 + FOCAL_PX * CAMERA_HEIGHT_M / (distance_m - 0.012)
    top = SIZE[0] / 2 - FOCAL_PX * (ROOM_HEIGHT_M - CAMERA_HEIGHT_M) / distance_m
    assert min(floor, default=SIZE[0]) == pytest.approx(min(foot, SIZE[0]), abs=1)
    assert max(ceiling, default=0) == pytest.approx(max(top, 0), abs=1)


def test_furniture_to_the_left_appears_to_the_left_as_high_as_it_is() -> None:
    image = surfaces(one_room(marked((3.0, 2.8), 0.2, 0.8)), 1.0, 2.0)
    rows, columns = np.nonzero(image == "furniture_9")
    assert columns.max() < SIZE[1] / 2
    ahead = 3.0 - 0.2 - 1.0 - CAMERA_AHEAD_M
    expected = SIZE[1] / 2 - FOCAL_PX * (0.8 + 0.2) / ahead
    assert columns.min() == pytest.approx(expected, abs=3)
    assert rows.max() == pytest.approx(SIZE[0] / 2 + FOCAL_PX * CAMERA_HEIGHT_M / ahead, abs=3)


def test_open_door_shows_the_room_behind_it() -> None:
    opened = two_rooms(door=True)
    rooms = opened.rooms[0], replace(opened.rooms[1], floor=3)
    for layout, is_seen in ((opened, True), (two_rooms(door=False), False)):
        assert (surfaces(replace(layout, rooms=rooms), 2.0, 2.0) == "floor_3").any() == is_seen


def test_no_pixel_shows_nothing_inside_a_house() -> None:
    for heading in (0.0, 2.0, 4.0):
        assert not (surfaces(two_rooms(door=True), 1.0, 1.0, heading) == "nothing").any()


def test_images_have_noise_and_follow_from_the_seed() -> None:
    one, same, other = scene(one_room()), scene(one_room()), scene(one_room(), seed=1)
    at = pose(1.0, 2.0)[None]
    first = one.images(at)
    assert first.shape == (1, 72, 96, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, same.images(at))
    assert 1.0 < (first.astype(int) - other.images(at)).std() < 5.0
    for opened in (one, same, other):
        opened.close()


def test_robot_sees_what_a_camera_sees_at_its_pose() -> None:
    standing = robot(one_room(), 1.0, 2.0, 0.3)
    opened = scene(one_room())
    seen, expected = standing.read_camera().astype(int), opened.images(standing.pose[None])[0]
    # It is pitched by the weight on its rear caster, so edges move by a fraction of a pixel.
    assert np.abs(seen - expected).mean() < 4.0
    opened.close()


def test_closed_scene_draws_again() -> None:
    opened = scene(one_room())
    opened.close()
    assert opened.images(pose(1.0, 2.0)[None]).std() > 5.0
    opened.close()


def test_texture_follows_from_surface_and_number() -> None:
    np.testing.assert_array_equal(texture("wall", 5), texture.__wrapped__("wall", 5))
    assert not np.array_equal(texture("wall", 5), texture("wall", 6))
    assert not np.array_equal(texture("wall", 5), texture("floor", 5))


@pytest.mark.parametrize("present", [(), ("EGL",), ("OpenGL", "GL")], ids=["none", "EGL", "OpenGL"])
def test_mujoco_world_without_a_rendering_library_names_the_packages(
    present: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    _forget_imports(monkeypatch)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(mujoco_gl, "find_library", lambda name: name if name in present else None)
    with pytest.raises(WorldError, check=code("sim.no_renderer")) as caught:
        make_world("first_person_mujoco_l0")
    assert "apt install libegl1 libopengl0" in str(caught.value)


def test_mujoco_world_without_mujoco_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _forget_imports(monkeypatch)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(WorldError, check=code("sim.missing_package")):
        make_world("first_person_mujoco_l0")


def test_mujoco_world_without_opengl_names_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyOpenGL raises this where libEGL is installed without libOpenGL."""
    _forget_imports(monkeypatch)
    fake = "import ctypes\nraise ctypes.ArgumentError(\"'NoneType' object has no attribute 'glGetError'\")\n"
    (tmp_path / "mujoco.py").write_text(fake)
    monkeypatch.delitem(sys.modules, "mujoco")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WorldError, check=code("sim.no_renderer")):
        make_world("first_person_mujoco_l0")


def test_renderer_without_a_driver_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library can be there without any driver: MuJoCo then fails when it draws first."""

    def fail(*_: object, **__: object) -> None:
        raise ImportError("Cannot initialize a EGL device display")

    monkeypatch.setattr(scene_module.mujoco, "Renderer", fail)
    with pytest.raises(WorldError, check=code("sim.no_renderer")) as caught:
        HouseRenderer(compile_house(one_room()))
    assert "libgl1-mesa-dri" in str(caught.value)


def _forget_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("jepa_sim.worlds.first_person_mujoco")]:
        monkeypatch.delitem(sys.modules, name)
