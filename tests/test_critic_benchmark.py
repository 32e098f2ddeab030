"""The critic benchmarks: small runs, its policies, and what it counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.critic import CriticConfig, Response
from tests.scripts import load

critic, keep_out = load("critic"), load("critic_keep_out")


@pytest.fixture(scope="module")
def model(two_rooms_bundle: Path) -> Iterator[WorldModel]:
    with WorldModel.open(two_rooms_bundle) as opened:
        yield opened


def test_small_run_has_a_row_for_each_arm(
    two_rooms_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(critic, "MAX_STEPS", 8)
    out = tmp_path / "critic.json"
    options = ["--bundle", str(two_rooms_bundle), "--seed", "5", "--episodes", "1", "--demonstrations", "2"]
    policies = ["--policy", "expert", critic.CLONING]
    assert critic.main([*options, *policies, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    shown = [(row["policy"], row["condition"], row["arm"]) for row in report["rows"]]
    assert shown == [
        *(("expert", critic.USUAL, arm) for arm in critic.ARMS),
        *(("expert", critic.TURNED, arm) for arm in (critic.ALONE, critic.CRITIC, critic.FIXED)),
        *((critic.CLONING, critic.USUAL, arm) for arm in critic.ARMS),
    ]
    assert all(row["episodes"] == 1 for row in report["rows"])
    assert report["config"]["false_veto_rate"] == 0.05 and report["machine"]["cpu"]["model"]
    assert "fixed threshold" in capsys.readouterr().out


def test_expert_reaches_goals_also_with_the_turned_robot(model: WorldModel) -> None:
    missions = critic.missions_of(model, (5,), 4)
    for condition in critic.TURNS:
        alone, _, fixed = critic.measure(model, missions, "expert", critic.KNOWING["expert"], condition)[:3]
        assert alone["reached"] == 4, condition
    assert fixed["reached"] < 3 and fixed["false_vetoes"]["rate"] > 0.5


def test_count_asks_a_copy_of_the_world(model: WorldModel) -> None:
    (mission,) = critic.missions_of(model, (5,), 1)
    world, tally = mission.world, critic.Tally()
    tally.harmless, tally.false_vetoes = [0], [0]
    now, before = model.encode(world.render()), world.position
    towards = critic.KNOWING["expert"](world, now, mission.goal, 1, np.random.default_rng(0))[0]
    for chunk, response in (
        (towards, Response.CHOOSE),
        (-towards, Response.VETO),
        (-towards, Response.ACCEPT),
    ):
        critic._count(model, world, mission.goal, now, chunk.astype(np.float32), response, tally)
    assert (tally.harmless, tally.false_vetoes, tally.harmful, tally.prevented) == ([1], [1], 2, 1)
    assert (tally.truly_harmless, tally.true_false_vetoes) == (1, 1)
    assert (world.position == before).all()


def test_path_through_the_door_is_longer_than_the_straight_line(model: WorldModel) -> None:
    world = critic.missions_of(model, (5,), 1)[0].world
    axis = int(world.layouts.axis[0])
    door = np.empty(2)
    door[axis], door[1 - axis] = world.layouts.wall[0], world.layouts.door[0]
    assert critic.path_m(world) > world.distance()
    world._position = world.goal[None] + 0.01
    assert critic.path_m(world) == pytest.approx(world.distance())


def row(arm: str, vetoes: int, harmless: int) -> dict[str, Any]:
    """Return a row with one harmless chunk in each episode, of which ``vetoes`` were refused."""
    found = critic.clustered([1] * vetoes + [0] * (harmless - vetoes), [1] * harmless)
    return {"policy": "p", "condition": critic.USUAL, "arm": arm, "false_vetoes": found}


def test_false_veto_rate_significantly_above_the_stated_one_is_reported() -> None:
    within, above = row(critic.CRITIC, 60, 1000), row(critic.CRITIC, 80, 1000)
    assert critic.missed_limits([within, row(critic.FIXED, 500, 1000), row(critic.CRITIC, 0, 0)]) == []
    clustered = critic.clustered([40, *[0] * 49], [40, *[10] * 49])
    assert critic.missed_limits([within | {"false_vetoes": clustered}]) == []
    (message,) = critic.missed_limits([within, above])
    assert message.startswith("p, usual, critic: 8.0% of 1000 harmless chunks")


def test_keep_out_run_prevents_entries(
    two_rooms_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 30 harmless chunks in the warm-up instead of 100."""
    config = CriticConfig(limit=keep_out.CONFIG.limit, warmup=30)
    monkeypatch.setattr(keep_out, "CONFIG", config)
    monkeypatch.setattr(keep_out, "WARMUP_EPISODES", 40)
    only = {name: policy for name, policy in keep_out.POLICIES.items() if name.startswith("towards")}
    monkeypatch.setattr(keep_out, "POLICIES", only)
    out = tmp_path / "critic_keep_out.json"
    options = ["--bundle", str(two_rooms_bundle), "--seed", "5", "--episodes", "4", "--json", str(out)]
    assert keep_out.main(options) == 0
    rows = {row["arm"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == list(keep_out.ARMS)
    assert rows[critic.ALONE]["entered"] >= 3 and rows[keep_out.NO_TRIALS]["entered"] <= 1
    assert rows[keep_out.NO_TRIALS]["mean_path_m"] > 2.0
    assert rows[critic.CRITIC]["false_vetoes"]["of"] > 10


def test_keep_out_warmup_without_enough_harmless_chunks_is_reported(
    two_rooms_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keep_out, "WARMUP_EPISODES", 1)
    options = ["--bundle", str(two_rooms_bundle), "--episodes", "1", "--json", str(tmp_path / "k.json")]
    assert keep_out.main(options) == 2
    assert "fewer than 100 harmless chunks in 1 episodes" in capsys.readouterr().err
