"""The code that drives the robot, at the first-person levels."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_runtime.errors import WorldError
from jepa_runtime.model import Futures
from jepa_runtime.model.world_model import StepOutcome, step_outcome
from jepa_sim.closed_loop.first_person.protocol import PERIOD_S, Assignment, Drive, drive, mission_of
from jepa_sim.closed_loop.first_person.robot_driver import robot_driver
from jepa_sim.worlds.first_person import camera
from jepa_sim.worlds.first_person.levels import LEVELS, DoorClosing
from jepa_sim.worlds.first_person.paths import DistanceField
from tests.errors import code
from tests.sim.first_person.pose_model import Floats, PoseModel, SightedModel, show_poses


def driven(name: str, seed: int, model: PoseModel) -> tuple[Drive, list[str]]:
    """Return a drive of the robot, and what it reported."""
    ends: list[str] = []
    level = LEVELS[name]
    driver = robot_driver(model, report=ends.append)
    return drive(level, mission_of(level, seed), driver, seed=seed), ends


@pytest.mark.parametrize("name", ["L0", "TR", "TR-back"])
def test_robot_driver_that_reads_exact_poses_reaches_the_goal(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    show_poses(monkeypatch)
    found, ends = driven(name, 0, PoseModel())
    assert found.reached and found.stopped and ends == ["reached"]


class StillModel(PoseModel):
    """Predicts that nothing moves, such as a predictor at the start of its training."""

    def predict(self, actions: Floats, *, latents: Floats, goal: Floats | None = None, **_: Any) -> Futures:
        futures = np.broadcast_to(latents[-1], (*actions.shape[:2], 1, 4))
        energies = None if goal is None else self.energy(futures, goal)
        return Futures(futures, actions, energies, np.full(actions.shape[1], 0.05, np.float32))

    def outcome(
        self,
        previous: Floats,
        _between: Floats,
        _action: Floats,
        observed: Floats,
        history_states: None = None,
    ) -> StepOutcome:
        return step_outcome(previous[-1].ravel(), previous[-1].ravel(), observed.ravel())


def test_robot_driver_that_predicts_no_motion_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    show_poses(monkeypatch)
    found, ends = driven("L0", 0, StillModel())
    assert found.reached and ends == ["reached"]


def test_robot_driver_finds_its_way_to_a_far_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    show_poses(monkeypatch)
    found, ends = driven("L3", 25, SightedModel())
    assert found.reached and found.stopped and ends == ["reached"]


def test_robot_driver_behind_whose_door_the_goal_is_tries_again_and_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wheels slip in front of a door that was open in the tour: by odometry alone, it would arrive."""
    show_poses(monkeypatch)
    level, ends = LEVELS["L3"], list[str]()
    mission = mission_of(level, 25)
    door = mission.layout.doors_on(DistanceField(mission.packed, 0, mission.goal).path(mission.start))[-1]
    closed = replace(mission, door_closing=DoorClosing(door, 0.0), time_limit_s=200.0)
    found = drive(level, closed, robot_driver(SightedModel(), report=ends.append), seed=25)
    assert not found.reached and found.stopped and ends[0] in {"blocked", "changed", "lost", "aborted"}


def test_robot_driver_with_an_unknown_goal_image_is_lost_and_does_not_move(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show_poses(monkeypatch)
    found, ends = driven("L3", 25, SightedModel(0))
    assert ends == ["lost"] and found.stopped and found.time_s == 0 and not found.reached


def test_robot_driver_at_an_unknown_place_looks_around_at_three_positions_and_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The goal image is the last one of which it is certain, after those of the tour."""
    show_poses(monkeypatch)
    level = LEVELS["L3"]
    mission = mission_of(level, 25)
    with closing(mission.open_scene(np.random.default_rng(0))) as scene:
        shown = len(Assignment(level, mission, scene).demonstration(2 * PERIOD_S).images)
    found, ends = driven("L3", 25, SightedModel(shown + 1))
    assert ends == ["lost"] and 24.0 < found.time_s < 32.0 and 0.8 < found.path_m < 1.7


def test_robot_driver_with_a_frozen_camera_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the goal image the camera shows the start for ever, with the noise of the sensor."""
    show_poses(monkeypatch)
    render, shown = camera.render, list[Any]()

    def render_frozen(layouts: Any, poses: NDArray[np.float64], which: Any) -> NDArray[np.float64]:
        shown.append(poses)
        return render(layouts, shown[min(len(shown), 2) - 1], which)

    monkeypatch.setattr(camera, "render", render_frozen)
    found, ends = driven("L0", 0, PoseModel())
    assert len(shown) > 10 and not ends and not found.stopped and found.path_m < 1.0


def test_robot_driver_of_another_robot_is_rejected() -> None:
    model = PoseModel()
    model.manifest.io.action.names = ("linear.x", "linear.y")
    with pytest.raises(WorldError, check=code("sim.model_mismatch")):
        driven("L0", 0, model)


def test_robot_driver_of_a_model_with_another_step_is_rejected() -> None:
    model = PoseModel()
    model.manifest.io.step_s = 0.25
    with pytest.raises(WorldError, check=code("sim.model_mismatch")):
        driven("L0", 0, model)
