"""First-person rooms as a world of ``jepa-runtime drive``, and the compiler that they need."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime.cli import main
from jepa_runtime.errors import WorldError
from jepa_sim.closed_loop.episodes import run_episode, straight_line
from jepa_sim.worlds import HasStraightLine, World, make_world
from tests.errors import code

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_sim.worlds.first_person.compilation import announce_compilation, compiled
from jepa_sim.worlds.first_person.textures import HELD_OUT_TEXTURES, TEXTURES
from jepa_sim.worlds.first_person.world import FirstPersonRooms


@pytest.fixture(scope="module")
def world() -> FirstPersonRooms:
    made = make_world("first_person_l1")
    assert isinstance(made, FirstPersonRooms)
    return made


def test_first_person_is_a_world_with_a_straight_line(world: FirstPersonRooms) -> None:
    assert isinstance(world, World) and isinstance(world, HasStraightLine)
    task = world.task
    assert task.action_names == ("linear.x", "angular.z")
    assert (task.low, task.high, task.tick_s) == ((-0.2, -1.5), (0.8, 1.5), 0.025)
    assert task.max_steps == 80


def test_first_person_episode_follows_from_its_seed(world: FirstPersonRooms) -> None:
    def seen(seed: int) -> list[np.ndarray]:
        world.reset(seed)
        goal, start = world.render_goal(), world.render()
        world.step(np.array([0.5, 0.5]), 0.3)
        return [goal, start, world.render()]

    first = seen(5)
    assert all(image.shape == (72, 96, 3) and image.dtype == np.uint8 for image in first)
    np.testing.assert_array_equal(first, seen(5))
    assert not np.array_equal(first[1], seen(6)[1])


def test_first_person_camera_has_noise(world: FirstPersonRooms) -> None:
    world.reset(3)
    one, other = world.render().astype(int), world.render().astype(int)
    assert 1.0 < (one - other).std() < 4.0 and world.task.has_sensor_noise


def test_first_person_episodes_are_in_held_out_layouts(world: FirstPersonRooms) -> None:
    for seed in range(10):
        world.reset(seed)
        used = {solid.texture for solid in world.mission.layout.walls}
        assert all(texture >= TEXTURES - HELD_OUT_TEXTURES for texture in used)


def test_first_person_distance_counts_the_heading(world: FirstPersonRooms) -> None:
    world.reset(1)
    goal = world.goal
    world._robot._state[:3] = goal + np.array([0.0, 0.0, np.radians(40)])
    assert world.distance() == pytest.approx(0.6)
    world._robot._state[:3] = goal + np.array([0.5, 0.0, 0.0])
    assert world.distance() == pytest.approx(0.5)


def test_first_person_straight_line_reaches_near_goals(world: FirstPersonRooms) -> None:
    near = make_world("first_person_l0")
    outcomes = [run_episode(near, straight_line(), seed=seed, step_s=0.1).outcome for seed in range(10)]
    assert outcomes == ["reached"] * 10


def test_drive_with_a_model_of_other_actions_names_the_mismatch(
    toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drive", str(toy_bundle), "--world", "first_person_l1", "--episodes", "1"]) != 0
    error = " ".join(capsys.readouterr().err.split())
    assert "linear.x [m/s], angular.z [rad/s]" in error and "linear.y" in error


def test_first_person_without_numba_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in [name for name in sys.modules if name.startswith("jepa_sim.worlds.first_person.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(WorldError, check=code("sim.missing_package")):
        make_world("first_person_l0")


def test_compiled_function_without_a_writable_cache_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the installation and the home folder may be read-only."""

    def no_place(_self: object, _function: object) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr("numba.core.caching.FunctionCache.__init__", no_place)
    assert compiled(_double)(2.0) == 4.0


def test_compilation_is_announced_only_if_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    announced = threading.Event()

    def report(line: str) -> None:
        lines.append(line)
        announced.set()

    with announce_compilation(report):
        pass
    monkeypatch.setattr("jepa_sim.worlds.first_person.compilation._LOADED_WITHIN_S", 0.01)
    with announce_compilation(report):
        assert announced.wait(30)
    assert len(lines) == 1


def test_packed_layout_modules_import_without_numba() -> None:
    program = (
        "import sys\nsys.modules['numba'] = None\n"
        "import jepa_sim.worlds.first_person.layouts, jepa_sim.worlds.first_person.textures\n"
        "import jepa_sim.worlds, jepa_sim.drive_command\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _double(value: float) -> float:
    return 2.0 * value
