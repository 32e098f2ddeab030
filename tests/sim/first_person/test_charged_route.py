"""Routes that the robot repeats while the world goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_runtime.control import preset
from jepa_sim.closed_loop.charged_time import ChargedTime, run_charged_episode
from jepa_sim.closed_loop.episodes import Episode, episode_seeds
from jepa_sim.closed_loop.first_person.charged_route import (
    localization_s,
    reflex_driver,
    route_driver,
    shown_route,
)
from jepa_sim.closed_loop.first_person.floors import odometry_only
from jepa_sim.closed_loop.repeat import RepeatConfig
from jepa_sim.worlds.first_person.world import FirstPersonRooms, level_tr
from tests.sim.first_person.pose_model import STEP_S, PoseModel, show_poses

(SEED,) = episode_seeds([0], 1)
LATE = ChargedTime(decisions_s=(0.02,), transport_s=0.3)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> FirstPersonRooms:
    """Return the world, at the start of an episode, with cameras that show their poses."""
    show_poses(monkeypatch)
    world = level_tr()
    world.reset(SEED)
    return world


def repeat(model: Any, world: FirstPersonRooms, charged: ChargedTime, *, compensate: bool = True) -> Episode:
    route = shown_route(model, world, SEED)
    config = replace(charged.adapted(preset("steering")), images_per_step=3, compensate_latency=compensate)
    driver = route_driver(model, route, RepeatConfig(controller=config), world)
    return run_charged_episode(world, driver, charged, seed=SEED, step_s=STEP_S)


def test_route_is_repeated_with_late_images(world: FirstPersonRooms) -> None:
    episode = repeat(PoseModel(), world, LATE)
    assert episode.outcome == "reached" and world.distance() <= world.task.tolerance


class Counting(PoseModel):
    """Counts the latents of each call, also of those for the energies of key frames, which are poses here."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []

    def relative_poses(self, latents: Any, goal: Any) -> Any:
        self.read.append(len(latents))
        return super().relative_poses(latents, goal)


def test_localization_reads_the_pose_in_the_frames_of_three_key_frames(world: FirstPersonRooms) -> None:
    model = Counting()
    route = shown_route(model, world, SEED)
    model.read.clear()
    assert localization_s(model, route) > 0
    assert model.read[::2] == [3] * len(route)


def test_odometry_alone_follows_the_route_and_stops(world: FirstPersonRooms) -> None:
    episode = run_charged_episode(
        world, reflex_driver(odometry_only(), 3), ChargedTime(decisions_s=(0.0,)), seed=SEED, step_s=STEP_S
    )
    assert episode.outcome in ("reached", "wrong_place") and episode.steps > 20
