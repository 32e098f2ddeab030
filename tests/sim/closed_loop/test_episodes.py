"""Episodes: only a stop at the goal counts."""

from __future__ import annotations

import time

import numpy as np
import pytest

from jepa_sim.closed_loop.episodes import (
    HELD_OUT_SEED,
    Driver,
    Outcome,
    Policy,
    baselines,
    episode_seeds,
    random_actions,
    run_episode,
    straight_line,
)
from jepa_sim.worlds import TwoRooms
from jepa_sim.worlds.interface import Actions, Image, World
from tests.sim.closed_loop.planes import MappedPlane, Plane


def stop_at_once(_world: World, _seed: int) -> Policy:
    return lambda _frame: None


def stand(_world: World, _seed: int) -> Policy:
    return lambda _frame: np.zeros(2)


def arrive_and_stop(world: World, _seed: int) -> Policy:
    assert isinstance(world, Plane)
    ways = iter([world.goal / 0.4, world.goal / 0.4])
    return lambda _frame: next(ways, None)


def arrive_and_go_on(world: World, _seed: int) -> Policy:
    assert isinstance(world, Plane)
    ways = iter([world.goal / 0.2])
    return lambda _frame: next(ways, np.zeros(2))


@pytest.mark.parametrize(
    ("driver", "outcome", "steps", "distance"),
    [
        (arrive_and_stop, "reached", 2, 0.0),
        (stop_at_once, "wrong_place", 0, 1.0),
        (stand, "timeout", 5, 1.0),
        (arrive_and_go_on, "timeout", 5, 0.0),
    ],
)
def test_episode_is_reached_if_the_driver_stops_at_the_goal(
    driver: object, outcome: Outcome, steps: int, distance: float
) -> None:
    began = time.perf_counter()
    result = run_episode(Plane(), Driver(driver), seed=3, step_s=0.2)  # type: ignore[arg-type]
    took_ms = (time.perf_counter() - began) * 1e3
    assert (result.seed, result.outcome, result.steps) == (3, outcome, steps)
    assert result.distance == pytest.approx(distance, abs=1e-9)
    assert len(result.plan_ms) == min(steps + 1, 5) and min(result.plan_ms) >= 0
    assert sum(result.plan_ms) <= took_ms


def test_world_is_reset_with_the_episode_seed_before_driving() -> None:
    world, at_begin = Plane(), []

    def note(seen: World, seed: int) -> Policy:
        at_begin.append((world.resets[-1], seed, seen.distance()))
        return lambda _frame: None

    run_episode(world, Driver(note), seed=7, step_s=0.2)
    assert at_begin == [(7, 7, pytest.approx(1.0))]


def test_observer_receives_every_decided_frame() -> None:
    decided: list[Image] = []
    watched: list[Image] = []

    def note(_world: World, _seed: int) -> Policy:
        def decide(frame: Image) -> Actions:
            decided.append(frame)
            return np.ones(2)

        return decide

    run_episode(Plane(), Driver(note), seed=0, step_s=0.2, watch=watched.append)
    assert len(watched) == 5
    np.testing.assert_array_equal(watched, decided)
    assert (np.diff([frame[0, 0, 0] for frame in watched]) > 0).all()


def test_every_episode_has_its_own_seed_disjoint_from_training() -> None:
    seeds = episode_seeds((0, 1, 2), 5)
    assert len(set(seeds)) == 15 and min(seeds) >= HELD_OUT_SEED


def test_world_without_a_straight_line_has_one_baseline_less() -> None:
    assert list(baselines(Plane())) == ["random"]
    assert list(baselines(MappedPlane())) == ["straight_line", "random"]
    with pytest.raises(TypeError, match="no straight_line method"):
        straight_line().begin(Plane(), 0)


def test_straight_line_on_an_open_floor_reaches_the_goal_and_stops() -> None:
    result = run_episode(MappedPlane(max_steps=10), straight_line(), seed=1, step_s=0.2)
    assert result.outcome == "reached" and result.distance < 0.05


def test_random_actions_respect_the_limits_and_follow_from_the_seed() -> None:
    def drawn(seed: int) -> np.ndarray:
        policy, frame = random_actions().begin(Plane(), seed), np.zeros((8, 8, 3), np.uint8)
        return np.array([policy(frame) for _ in range(200)])

    first = drawn(4)
    assert np.abs(first).max() <= 1.25 and np.abs(first).max() > 1.0
    np.testing.assert_array_equal(first, drawn(4))
    assert not np.array_equal(first, drawn(5))


def test_random_actions_are_independent_of_the_goal() -> None:
    """The world, too, uses a generator with the episode's seed."""
    world, frame, drawn = Plane(), np.zeros((8, 8, 3), np.uint8), []
    for seed in range(200):
        world.reset(seed)
        action = random_actions().begin(world, seed)(frame)
        assert action is not None
        drawn.append((np.arctan2(world.goal[1], world.goal[0]) % (2 * np.pi), action[0]))
    assert abs(np.corrcoef(np.array(drawn).T)[0, 1]) < 0.25


def test_straight_line_in_two_rooms_is_blocked_by_walls_and_random_actions_reach_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jepa_sim.worlds.two_rooms_world.MAX_STEPS", 30)
    world = TwoRooms(layout="fixed", seed=0)
    result = {
        name: sum(
            run_episode(world, driver, seed=seed, step_s=0.2).outcome == "reached"
            for seed in episode_seeds((0,), 20)
        )
        for name, driver in baselines(world).items()
    }
    assert 2 <= result["straight_line"] < 20
    assert result["random"] < result["straight_line"]
