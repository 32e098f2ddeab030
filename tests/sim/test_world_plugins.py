"""Worlds are plugins: built-in ones, those of packages by entry point, others by module and attribute."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import WorldError
from jepa_sim.worlds import TwoRooms, World, make_world, worlds
from tests.errors import code
from tests.scripts import ROOT
from tests.sim.closed_loop.planes import Plane

PLANES = "tests.sim.closed_loop.planes"
VELOCITIES = "linear.x [m/s], linear.y [m/s]"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an installed package with worlds."""
    described = tmp_path / "plane_worlds-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: plane-worlds\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(
        f"[jepa_edge.worlds]\nplane = {PLANES}:Plane\ntwo_rooms = {PLANES}:Plane\n"
        "lost = no.such.module:World\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return described


@pytest.mark.parametrize(("name", "layout"), [("two_rooms", "random"), ("two_rooms_fixed", "fixed")])
def test_two_rooms_is_an_ordinary_plugin(name: str, layout: str) -> None:
    world = make_world(name)
    assert isinstance(world, TwoRooms) and isinstance(world, World)
    assert world.layout_name == layout and layout in world.task.name


@pytest.mark.usefixtures("package")
def test_installed_package_adds_worlds_but_cannot_override_ours() -> None:
    assert worlds()["plane"] == f"{PLANES}:Plane"
    assert isinstance(make_world("plane"), Plane)
    assert isinstance(make_world("two_rooms"), TwoRooms)


@pytest.mark.usefixtures("package")
def test_unknown_world_error_lists_the_installed_ones() -> None:
    with pytest.raises(WorldError, check=code("sim.unknown_world")) as error:
        make_world("maze")
    assert "lost, plane, reacher, two_rooms, two_rooms_fixed" in str(error.value)


def test_module_and_attribute_name_a_world() -> None:
    assert isinstance(make_world(f"{PLANES}:Plane"), Plane)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lost", "sim.world_not_loadable"),
        (f"{PLANES}:Maze", "sim.world_not_loadable"),
        ("nowhere:", "sim.world_not_loadable"),
        ("jepa_sim.worlds.two_rooms_world:TwoRooms", "sim.world_not_loadable"),
        ("jepa_sim.worlds.two_rooms_world:MAX_STEPS", "sim.world_not_loadable"),
        (f"{PLANES}:broken", "sim.not_a_world"),
        (f"{PLANES}:uneven", "sim.world_not_loadable"),
        (f"{PLANES}:idle", "sim.not_a_world"),
    ],
)
def test_make_world_that_is_no_world_raises(name: str, reason: str) -> None:
    with pytest.raises(WorldError, check=code(reason)) as error:
        make_world(name)
    assert name in str(error.value)


def test_make_world_that_lacks_methods_names_them() -> None:
    with pytest.raises(WorldError, check=code("sim.not_a_world")) as error:
        make_world(f"{PLANES}:broken")
    assert "it lacks close, distance, render, render_goal, " in str(error.value)


@pytest.mark.parametrize(
    ("differs", "reason"),
    [
        ({}, None),
        ({"low": (-1.0, -1.0)}, None),
        ({"units": ("meters/second", "m s^-1")}, None),
        ({"names": ("x", "y")}, f"the model's actions are x [m/s], y [m/s], the world's are {VELOCITIES}"),
        (
            {"units": ("m", "m/s")},
            f"the model's actions are linear.x [m], linear.y [m/s], the world's are {VELOCITIES}",
        ),
        (
            {"high": (1.25, 2.0)},
            "the model's linear.y ranges from -1.25 to 2, the world's from -1.25 to 1.25",
        ),
    ],
)
def test_model_fits_a_world_with_the_same_actions(
    differs: dict[str, object], reason: str | None, toy_bundle: Path
) -> None:
    manifest = Bundle.open(toy_bundle).manifest
    action = manifest.io.action.model_copy(update=differs)
    inputs = manifest.model_copy(update={"io": manifest.io.model_copy(update={"action": action})})
    assert TwoRooms(seed=0).task.mismatch(inputs) == reason


@pytest.mark.parametrize(
    ("tick_s", "fits"), [(None, True), (0.2, True), (0.02, True), (0.03, False), (0.4, False)]
)
def test_action_is_repeated_for_whole_ticks_of_the_world(
    tick_s: float | None, fits: bool, toy_bundle: Path
) -> None:
    reason = Plane(tick_s=tick_s).task.mismatch(Bundle.open(toy_bundle).manifest)
    assert (reason is None) == fits
    assert fits or "step of 0.2 s is not a multiple" in str(reason)


def test_reset_with_a_seed_is_a_new_world_regardless_of_the_past() -> None:
    used, fresh = TwoRooms(seed=1), TwoRooms(seed=2)
    used.step(np.array([1.0, 0.5]), 0.7)
    used.reset()
    used.reset(2)
    np.testing.assert_array_equal(used.goal, fresh.goal)
    np.testing.assert_array_equal(used.render_goal(), fresh.render_goal())
    np.testing.assert_array_equal(used.render(), fresh.render())


def test_straight_line_of_two_rooms_points_at_the_goal() -> None:
    world = TwoRooms(seed=3)
    way = world.goal - world.position
    np.testing.assert_allclose(world.straight_line() * np.linalg.norm(way), way * np.linalg.norm(way) / 0.2)


def test_documented_world_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(
        r"```python\n(.*?)```", (ROOT / "docs/worlds.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert block is not None
    (tmp_path / "documented_floor.py").write_text(block[1], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    world = make_world("documented_floor:Floor")
    world.reset(1)
    image, before = world.render(), world.distance()
    assert image.dtype == np.uint8 and image.shape == world.render_goal().shape == (64, 64, 3)
    for _ in range(10):
        world.step(np.array([0.6, 0.0]), 0.2)
    assert world.distance() != before and not np.array_equal(world.render(), image)
    world.reset(1)
    assert world.distance() == before and np.array_equal(world.render(), image)
