"""Episodes in which the world goes on while the robot thinks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.control.config import ControllerConfig
from jepa_runtime.errors import ProfileError, WorldError
from jepa_runtime.profiling import write_profile
from jepa_runtime.profiling.profile import ReportedLatencies
from jepa_sim.closed_loop.charged_time import (
    ChargedTime,
    Neighbor,
    profiled_decisions,
    run_charged_episode,
)
from jepa_sim.closed_loop.episodes import Driver, Episode, model_driver
from jepa_sim.worlds.interface import Actions, Image, World
from tests.errors import code
from tests.runtime.profiles import make_profile
from tests.sim.closed_loop.planes import MappedPlane, Plane

STEP_S, IMAGES = 0.2, 4
PERIOD_NS = 50_000_000


class Thinker:
    """A policy that records its images and commands one velocity for ever."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: list[int] = []
        self.observed: list[int] = []
        self.answered: list[int] = []
        self.swaps = 0
        self.stops: tuple[int, ...] = ()

    def __call__(self, image: Image) -> Actions:
        raise AssertionError("thinking is charged")

    def see(self, image: Image, stamp_ns: int) -> None:
        self.seen.append(stamp_ns)

    def observe(self, image: Image, *, stamp_ns: int) -> None:
        self.observed.append(stamp_ns)

    def answer(self, now_ns: int) -> Actions | None:
        self.answered.append(now_ns)
        return np.array([1.0, 0.0])

    def watch(self, now_ns: int) -> bool:
        return now_ns in self.stops

    def swap_model(self, now_ns: int) -> None:
        self.swaps += 1


class TickedPlane(Plane):
    """A plane that records for how many ticks each action is held."""

    def __init__(self, *, max_steps: int = 5, tick_s: float = 0.025) -> None:
        super().__init__(max_steps=max_steps, tick_s=tick_s)
        self.held: list[float] = []

    def step(self, action: Actions, dt_s: float) -> None:
        assert self.task.tick_s is not None
        self.held.append(dt_s / self.task.tick_s)
        super().step(action, dt_s)


def run(
    charged: ChargedTime,
    *,
    stops: tuple[int, ...] = (),
    max_steps: int = 5,
    world: Plane | None = None,
) -> tuple[Thinker, Episode, Plane]:
    world = Plane(max_steps=max_steps) if world is None else world
    thinker = Thinker(world)
    thinker.stops = stops
    driver = Driver(lambda _world, _seed: thinker, images_per_step=IMAGES)
    return thinker, run_charged_episode(world, driver, charged, seed=0, step_s=STEP_S), world


@pytest.mark.parametrize(
    ("charged", "first_effect_s"),
    [
        (ChargedTime(decisions_s=(0.03,)), 0.03),
        (ChargedTime(decisions_s=(0.03,), transport_s=0.2), 0.23),
        (ChargedTime(decisions_s=(0.03,), transport_s=0.2, actuation_s=0.1), 0.33),
    ],
)
def test_command_takes_effect_after_transport_decision_and_actuation(
    charged: ChargedTime, first_effect_s: float
) -> None:
    _, episode, world = run(charged)
    assert episode.outcome == "timeout" and episode.steps == pytest.approx(5)
    assert world.position[0] == pytest.approx(5 * STEP_S - first_effect_s)


def test_images_that_arrive_while_the_robot_thinks_are_replaced_by_newer_ones() -> None:
    thinker, episode, _ = run(ChargedTime(decisions_s=(0.12,)))
    assert thinker.seen[:4] == [each * PERIOD_NS for each in range(4)]
    assert thinker.observed[:4] == [0, 2 * PERIOD_NS, 4 * PERIOD_NS, 7 * PERIOD_NS]
    assert thinker.answered[:2] == [120_000_000, 240_000_000]
    assert len(episode.plan_ms) == len(thinker.answered)


def test_transport_does_not_lower_the_rate_of_decisions() -> None:
    thinker, _, _ = run(ChargedTime(decisions_s=(0.001,), transport_s=0.4))
    assert np.diff(thinker.observed).tolist() == [PERIOD_NS] * (len(thinker.observed) - 1)
    assert thinker.answered[0] == 401_000_000


def test_images_are_lost_in_the_given_proportion_and_late_ones_keep_their_order() -> None:
    thinker, _, _ = run(ChargedTime(decisions_s=(0.001,), dropped=0.5), max_steps=100)
    assert 0.4 < len(thinker.observed) / (100 * IMAGES) < 0.6
    jittered, _, _ = run(ChargedTime(decisions_s=(0.001,), jitter_s=0.2), max_steps=100)
    assert (np.diff(jittered.observed) > 0).all(), "transport keeps the order"


def test_neighbor_slows_decisions_down_from_time_to_time() -> None:
    neighbor = Neighbor(factor=4.0, every_s=1.0, lasts_s=0.5)
    thinker, _, _ = run(ChargedTime(decisions_s=(0.04,), neighbor=neighbor), max_steps=10)
    durations = np.diff([0, *thinker.answered]) / 1e6
    assert durations[0] == 160.0 and min(durations) <= 60.0
    assert ChargedTime(decisions_s=(0.04,), neighbor=neighbor).longest_decision_s == pytest.approx(0.16)


def test_swap_and_watchdog_reach_the_robot() -> None:
    thinker, _, world = run(ChargedTime(decisions_s=(10.0,), swap_at_s=0.3), stops=(100_000_000,))
    assert thinker.swaps == 1 and not thinker.answered and world.position[0] == 0.0
    _, _, swapped = run(ChargedTime(decisions_s=(0.4,), swap_at_s=0.45))
    assert swapped.position[0] == pytest.approx(0.05 + 0.2), "it stops for the swap"
    _, _, stopped = run(ChargedTime(decisions_s=(0.4,)), stops=(450_000_000,))
    assert stopped.position[0] == pytest.approx(0.05 + 0.2), "it drives again after the next decision"


def test_same_seed_gives_the_same_episode_with_random_time() -> None:
    charged = ChargedTime(decisions_s=(0.01, 0.05, 0.2), jitter_s=0.1, dropped=0.2)
    first, second = (run(charged) for _ in range(2))
    assert first[0].answered == second[0].answered
    assert np.array_equal(first[2].position, second[2].position)


def test_baseline_decides_about_the_time_of_the_image() -> None:
    def outcome(latency_s: float) -> tuple[str, float]:
        world = MappedPlane(max_steps=40)
        near = world.task.tolerance / 2
        driver = Driver(
            lambda _world, _seed: lambda _image: None if world.distance() < near else world.straight_line(),
            images_per_step=IMAGES,
        )
        charged = ChargedTime(decisions_s=(0.001,), transport_s=latency_s)
        episode = run_charged_episode(world, driver, charged, seed=0, step_s=STEP_S)
        return episode.outcome, episode.distance

    assert outcome(0.0)[0] == "reached"
    late, distance = outcome(0.5)
    assert late != "reached" and distance > 0.1


@pytest.mark.parametrize(
    "wrong",
    [{"dropped": 1.0}, {"dropped": -0.1}, {"transport_s": -1.0}, {"decisions_s": (0.1, -0.1)}],
)
def test_charged_time_out_of_range_is_rejected(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ChargedTime(**wrong)


@pytest.mark.parametrize(
    ("decision_s", "first_effect_s"), [(0.0, 0.0), (0.025, 0.025), (0.03, 0.05), (0.061, 0.075)]
)
def test_world_with_ticks_applies_commands_at_the_next_tick(decision_s: float, first_effect_s: float) -> None:
    world = TickedPlane()
    run(ChargedTime(decisions_s=(decision_s,), jitter_s=0.0), world=world)
    assert world.position[0] == pytest.approx(5 * STEP_S - first_effect_s)
    np.testing.assert_allclose(world.held, np.round(world.held), atol=1e-9)
    assert sum(world.held) == pytest.approx(5 * STEP_S / 0.025)


def test_world_with_ticks_stops_at_the_next_tick() -> None:
    _, _, world = run(
        ChargedTime(decisions_s=(0.02,), swap_at_s=0.51, dropped=0.9), world=TickedPlane(tick_s=0.05)
    )
    moved_s = world.position[0]
    assert moved_s == pytest.approx(round(moved_s / 0.05) * 0.05)


def test_world_whose_actions_are_not_rates_cannot_be_charged_in_ticks() -> None:
    driver = Driver(lambda _world, _seed: lambda _image: np.zeros(2))
    world = Plane(tick_s=0.1)
    world.task = replace(world.task, action_units=("m", "m"))
    with pytest.raises(WorldError, check=code("sim.discrete_time")):
        run_charged_episode(world, driver, ChargedTime(), seed=0, step_s=STEP_S)


def test_decisions_of_a_profile_are_its_durations_without_waiting(tmp_path: Path) -> None:
    profile = make_profile(frames=60)
    write_profile(profile, tmp_path / "p.json")
    durations = profiled_decisions(tmp_path / "p.json")
    run = profile.run
    expected = np.array(run.latency_ms) - run.stages_ms["receive"] - np.array(run.stages_ms["wait"])
    np.testing.assert_allclose(np.array(durations) * 1e3, expected, rtol=1e-6)


def test_decisions_of_a_profile_without_samples_are_an_error(tmp_path: Path) -> None:
    profile = make_profile(frames=0)
    summary = ReportedLatencies(n=3, quantiles_ms={"p50": 1.0})
    empty = profile.run.model_copy(
        update={"reported": summary, "scheduled_s": [], "latency_ms": [], "stages_ms": {}}
    )
    write_profile(profile.model_copy(update={"run": empty}), tmp_path / "p.json")
    with pytest.raises(ProfileError, check=code("profile.no_samples")):
        profiled_decisions(tmp_path / "p.json")


def test_adapted_settings_allow_the_latency_and_nothing_more() -> None:
    config = ControllerConfig(futures_timeout_s=0.4, frozen_after_s=0.8)
    assert ChargedTime().adapted(config) == config
    late = ChargedTime(decisions_s=(0.1, 0.05), transport_s=0.3).adapted(config)
    assert late.futures_timeout_s == pytest.approx(0.9) and late.frozen_after_s == pytest.approx(1.8)
    assert ChargedTime(transport_s=0.3).adapted(replace(config, frozen_after_s=0.0)).frozen_after_s == 0.0


@pytest.fixture(scope="module")
def model() -> Iterator[WorldModel]:
    with WorldModel.open("models/two_rooms", num_samples=16) as opened:
        yield opened


def test_robot_is_stopped_while_its_images_are_too_old(model: WorldModel) -> None:
    world = MappedPlane(max_steps=10)
    driver = model_driver(model, ControllerConfig(frozen_after_s=0.0), world.task)
    charged = ChargedTime(decisions_s=(0.5,))
    run_charged_episode(world, driver, charged, seed=0, step_s=STEP_S)
    assert not world.position.any(), "futures_timeout_s is 0.4 s"
