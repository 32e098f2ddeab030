"""Compensated latency with the shipped model: the predicted start of a plan against the true one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.control.config import ControllerConfig
from jepa_runtime.serving.frame_processor import FrameProcessor, ProcessingConfig
from jepa_runtime.sources.base import Frame
from jepa_sim.closed_loop.charged_time import ChargedTime, run_charged_episode
from jepa_sim.closed_loop.episodes import Episode, episode_seeds, model_driver
from jepa_sim.worlds import TwoRooms

PERIOD_NS = 40_000_000
STEP_S = 0.2


@pytest.fixture(scope="module")
def model() -> Iterator[WorldModel]:
    with WorldModel.open("models/two_rooms") as opened:
        yield opened


@pytest.mark.parametrize(("delay_ms", "factor"), [(120, 2.0), (400, 4.0)])
def test_plan_under_delay_starts_near_the_true_latent(
    model: WorldModel, delay_ms: int, factor: float
) -> None:
    """The state that is predicted for the end of the delay is nearer to what the robot then sees."""
    processor = FrameProcessor(model, ProcessingConfig())
    rng, world, delay_ns = np.random.default_rng(0), TwoRooms(seed=5), delay_ms * 1_000_000
    seen, predicted = dict[int, np.ndarray](), dict[int, np.ndarray]()
    # The commands are sent in advance, so that those of the delay are known as they are on a robot whose
    # images arrive late.
    velocities = rng.uniform(-1, 1, (18, 2))
    for index, velocity in enumerate(velocities):
        processor.add_action(10**12 + 7 * index * PERIOD_NS, velocity)
    for index in range(120):
        now_ns = 10**12 + index * PERIOD_NS
        seen[now_ns] = processor.process(Frame(world.render(), now_ns, "camera", index), 0).latent
        start = processor.prediction_context("", delay_ns=delay_ns)
        assert start is not None and start.context.stamp_ns == now_ns + delay_ns
        predicted[start.context.stamp_ns] = start.context.latents[-1]
        world.step(velocities[index // 7], PERIOD_NS / 1e9)
    true = seen.keys() & predicted.keys()
    compensated = np.mean([np.linalg.norm(predicted[at] - seen[at]) for at in true])
    stale = np.mean([np.linalg.norm(seen[at - delay_ns] - seen[at]) for at in true])
    assert len(true) > 100 and factor * compensated < stale


def drive(model: WorldModel, *, compensate: bool, episodes: int = 2) -> list[Episode]:
    world, charged = TwoRooms(seed=0), ChargedTime(decisions_s=(0.006,), transport_s=0.5)
    config = replace(charged.adapted(ControllerConfig()), compensate_latency=compensate)
    driver = model_driver(model, config, world.task)
    return [
        run_charged_episode(world, driver, charged, seed=seed, step_s=STEP_S)
        for seed in episode_seeds([7], episodes)
    ]


def test_robot_with_late_images_reaches_its_goals_only_with_compensation(model: WorldModel) -> None:
    compensated = drive(model, compensate=True)
    assert [episode.outcome for episode in compensated] == ["reached"] * 2
    assert "reached" not in {episode.outcome for episode in drive(model, compensate=False)}


def test_robot_with_late_images_drives_the_same_way_again(model: WorldModel) -> None:
    first, second = (drive(model, compensate=True, episodes=1) for _ in range(2))
    assert [each.distance for each in first] == [each.distance for each in second]
