"""Scores count what really happened: a stop at the goal, nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jepa_export import evaluate
from jepa_export.evaluate import BASELINES, HELD_OUT_SEED, Policy, closed_loop, score
from jepa_runtime.shares import wilson
from jepa_runtime.worlds import TwoRooms


def teleport(world: TwoRooms) -> None:
    world._position = world.goal[None]


def stop_at_once(_world: TwoRooms, _seed: int) -> Policy:
    return lambda world: None


def never_stop(_world: TwoRooms, _seed: int) -> Policy:
    def decide(world: TwoRooms) -> np.ndarray:
        teleport(world)
        return np.zeros(2)

    return decide


def reach_and_stop(_world: TwoRooms, seed: int) -> Policy:
    """In two steps, for even seeds only; elsewhere it stops in the wrong place."""
    waited = iter((True, True, False))

    def decide(world: TwoRooms) -> np.ndarray | None:
        if next(waited):
            return np.zeros(2)
        if seed % 2 == 0:
            teleport(world)
        return None

    return decide


@pytest.mark.parametrize(("policy", "successes"), [(stop_at_once, 0), (never_stop, 0), (reach_and_stop, 4)])
def test_an_episode_counts_if_it_stopped_and_truly_reached(
    policy: object, successes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "MAX_STEPS", 5)
    told: list[tuple[int, bool]] = []

    def note(*said: object) -> None:
        told.append(said)

    result = score(policy, layout="random", step_s=0.2, seeds=(0, 3), episodes=4, on_episode=note)
    assert (result.episodes, result.successes, result.rate) == (8, successes, successes / 8)
    assert result.interval == wilson(successes, 8)
    assert [episode for episode, _ in told] == list(range(8))
    assert sum(success for _, success in told) == successes
    assert result.mean_steps == (2.0 if successes else None)
    assert result.plan_ms_p50 is not None and result.plan_ms_p50 <= result.plan_ms_p95


def test_every_episode_has_a_seed_of_its_own_far_from_those_of_training() -> None:
    seeds: list[int] = []

    def note(_world: TwoRooms, seed: int) -> Policy:
        seeds.append(seed)
        return lambda world: None

    score(note, layout="fixed", step_s=0.2, seeds=(0, 1, 2), episodes=5)
    assert len(set(seeds)) == 15 and min(seeds) >= HELD_OUT_SEED


def test_baselines_that_know_the_positions_find_some_goals_and_chance_finds_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate, "MAX_STEPS", 30)
    found = {
        name: score(policy, layout="fixed", step_s=0.2, seeds=(0,), episodes=20).successes
        for name, policy in BASELINES.items()
    }
    assert 2 <= found["straight_line"] < 20
    assert found["random"] < found["straight_line"]


def test_the_closed_loop_scores_every_precision_and_the_baselines(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "MAX_STEPS", 2)
    report = closed_loop(tiny_bundle, layout="random", seeds=(0,), episodes=2)
    assert list(report["scores"]) == ["fp32", "int8", "straight_line", "random"]
    assert all(entry["episodes"] == 2 for entry in report["scores"].values())
    assert report["seeds"] == [0] and report["machine"]["cpu"]["model"]
    only = closed_loop(
        tiny_bundle, layout="random", seeds=(0,), episodes=1, precisions=("int8",), baselines=False
    )
    assert list(only["scores"]) == ["int8"]
