"""Behavior cloning as a driver, with a policy that sees exact poses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_runtime.errors import BackendError
from jepa_runtime.util.poses import travel_m
from jepa_sim.closed_loop.first_person import cloning_driver as module
from jepa_sim.closed_loop.first_person.cloned_policy import ClonedPolicy, Decision
from jepa_sim.closed_loop.first_person.cloning_driver import cloning_driver
from jepa_sim.closed_loop.first_person.protocol import Drive, drive, mission_of
from jepa_sim.worlds.first_person.levels import LEVELS
from jepa_sim.worlds.first_person.paths import drive_straight
from tests.errors import code
from tests.sim.first_person.pose_model import Floats, PoseModel, show_poses


class PosePolicy:
    """Decides by the poses that images show; its latent is the pose."""

    latent_space = "a" * 64

    def __init__(self) -> None:
        self._model = PoseModel()
        self.images = 0

    def encode(self, image: Any) -> Floats:
        self.images += 1
        return self._model.encode(image)

    def decide(self, latent: Floats, goal: Floats) -> Decision:
        command = drive_straight(_pose(latent), _pose(goal))
        distance_m = float(self.distances(latent[None], goal)[0])
        return Decision(np.zeros(2) if command is None else command, distance_m)

    def distances(self, latents: Floats, goal: Floats) -> Floats:
        return np.array([travel_m(_pose(latent), _pose(goal)) for latent in latents], np.float32)


class BlindPolicy(PosePolicy):
    """Cannot tell any place from another."""

    def distances(self, latents: Floats, goal: Floats) -> Floats:
        return np.zeros(len(latents), np.float32)


def _pose(latent: Floats) -> Floats:
    x, y, cos, sin = latent[0].tolist()
    return np.array([x, y, np.arctan2(sin, cos)])


def driven(name: str, seed: int, policy: PosePolicy, monkeypatch: pytest.MonkeyPatch) -> Drive:
    show_poses(monkeypatch)
    level, driver = LEVELS[name], cloning_driver(cast(ClonedPolicy, policy))
    return drive(level, mission_of(level, seed), driver, seed=seed)


@pytest.mark.parametrize("name", ["L0", "TR"])
def test_cloning_driver_with_exact_decisions_reaches_the_goal(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = driven(name, 0, PosePolicy(), monkeypatch)
    assert found.reached and found.stopped


def test_cloning_driver_sees_one_image_per_model_step(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = PosePolicy()
    found = driven("L0", 0, policy, monkeypatch)
    # And the goal image, and the image at which it stops.
    assert found.time_s > 0.9 and policy.images == pytest.approx(found.time_s / 0.3 + 2)


def test_cloning_driver_that_is_never_near_drives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REACHED_M", -1.0)
    found = driven("L0", 0, PosePolicy(), monkeypatch)
    assert not found.stopped and found.reached


def test_cloning_driver_that_tells_no_places_apart_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    found = driven("TR", 0, BlindPolicy(), monkeypatch)
    assert found.stopped and found.time_s == 0 and not found.reached


def test_cloned_policy_without_files_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BackendError, check=code("backend.graph_unreadable")):
        ClonedPolicy(tmp_path)
