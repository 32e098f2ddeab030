"""Gymnasium's Reacher as a world: joint speeds, goal images, and reproducibility."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from jepa_runtime.errors import WorldError
from jepa_sim.closed_loop.episodes import episode_seeds, run_episode, straight_line
from jepa_sim.worlds import HasStraightLine, World, make_world, mujoco_gl
from jepa_sim.worlds.reacher import MAX_JOINT_RADPS, TOLERANCE_M, Reacher, fingertip
from tests.errors import code

needs_mujoco = pytest.mark.skipif(
    importlib.util.find_spec("mujoco") is None or importlib.util.find_spec("gymnasium") is None,
    reason="gymnasium and mujoco are not installed (extra worlds)",
)


@pytest.fixture(scope="module")
def reacher() -> Iterator[Reacher]:
    try:
        world = make_world("reacher")
    except WorldError as error:
        pytest.skip(str(error))
    assert isinstance(world, Reacher)
    yield world
    world.close()


@needs_mujoco
def test_reacher_is_a_world_with_a_straight_line(reacher: Reacher) -> None:
    assert isinstance(reacher, World) and isinstance(reacher, HasStraightLine)
    assert reacher.task.tick_s == pytest.approx(0.02)


@needs_mujoco
def test_reacher_episode_follows_from_its_seed(reacher: Reacher) -> None:
    def seen(seed: int) -> list[np.ndarray]:
        reacher.reset(seed)
        goal, start = reacher.render_goal(), reacher.render()
        reacher.step(np.array([1.0, -1.0]), 0.2)
        return [goal, start, reacher.render()]

    first = seen(5)
    assert all(frame.shape == (128, 128, 3) and frame.dtype == np.uint8 for frame in first)
    np.testing.assert_array_equal(first, seen(5))
    assert not np.array_equal(first[1], seen(6)[1])
    assert not np.array_equal(first[0], first[1]) and not np.array_equal(first[1], first[2])


@needs_mujoco
def test_reacher_goal_image_changes_nothing(reacher: Reacher) -> None:
    reacher.reset(1)
    reacher.step(np.array([2.0, 1.0]), 0.2)
    before, apart = reacher.render(), reacher.distance()
    reacher.render_goal()
    np.testing.assert_array_equal(before, reacher.render())
    assert apart == reacher.distance() > TOLERANCE_M


@needs_mujoco
def test_reacher_joints_turn_at_the_commanded_speed(reacher: Reacher) -> None:
    for request, expected in ((1.5, 1.5), (50.0, MAX_JOINT_RADPS)):
        reacher.reset(2)
        reacher.step(np.array([request, 0.0]), 0.4)
        before = reacher._environment.data.qpos[0]
        reacher.step(np.array([request, 0.0]), 0.4)
        turned = reacher._environment.data.qpos[0] - before
        assert turned / 0.4 == pytest.approx(expected, rel=0.06)


@needs_mujoco
def test_reacher_fingertip_equals_that_of_mujoco(reacher: Reacher) -> None:
    reacher.reset(3)
    angles = reacher._environment.data.qpos[:2]
    np.testing.assert_allclose(
        fingertip(angles), reacher._environment.get_body_com("fingertip")[:2], atol=1e-9
    )


@needs_mujoco
def test_reacher_driver_that_knows_the_angles_reaches_the_goal(reacher: Reacher) -> None:
    result = [
        run_episode(reacher, straight_line(), seed=seed, step_s=0.2) for seed in episode_seeds((0,), 10)
    ]
    assert [episode.outcome for episode in result] == ["reached"] * 10


def test_reacher_without_gymnasium_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(WorldError, check=code("sim.missing_package")):
        make_world("reacher")


def test_reacher_without_a_rendering_library_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(mujoco_gl, "find_library", lambda _name: None)
    with pytest.raises(WorldError, check=code("sim.no_renderer")):
        make_world("reacher")
