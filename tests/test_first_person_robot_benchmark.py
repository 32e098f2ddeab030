"""The benchmark of the robot's own code in first-person rooms: rows, goals, and interrupted runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from tests.bundles import make_wheeled_bundle
from tests.scripts import load

first_person = load("first_person")
robot = load("first_person_robot")
tables = load("readme_tables.worlds")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of random weights for the robot of these rooms."""
    return make_wheeled_bundle(tmp_path_factory.mktemp("robot") / "bundle")


def run(bundle: Path, report: Path, *options: str) -> tuple[int, dict[str, Any]]:
    given = ["--bundle", str(bundle), "--level", "L0", "--precision", "fp32", "--json", str(report)]
    status = first_person.main([*given, *options])
    return status, json.loads(report.read_text())


def test_robot_benchmark_below_its_goal_fails_and_continues_from_its_report(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "report.json"
    status, first = run(bundle, path, "--episodes", "1")
    row = first["rows"][0]
    assert (status, row["level"], row["driver"], row["episodes"]) == (1, "L0", "fp32", 1)
    assert sum(row["outcomes"].values()) == 1 and "L0: fp32 reaches" in capsys.readouterr().err
    first["drives"]["L0"]["fp32"][0][3] = 0.5
    path.write_text(json.dumps(first))
    _, second = run(bundle, path, "--episodes", "2")
    assert second["rows"][0]["episodes"] == 2 and second["drives"]["L0"]["fp32"][0][3] == 0.5
    assert "| L0 | fp32 | " in tables._robot(second) and "toy 1.2.3, 2 held-out" in tables._robot(second)


def test_robot_benchmark_report_of_another_seed_is_not_continued(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"settings": {"bundle": "other"}, "drives": {}}))
    status, report = run(bundle, path, "--episodes", "1")
    assert status == 2 and report["settings"] == {"bundle": "other"}


def test_robot_benchmark_goals_are_those_of_the_levels_and_of_fp32() -> None:
    def row(level: str, driver: str, rate: float) -> dict[str, Any]:
        return {"level": level, "driver": driver, "rate": rate}

    assert robot.missed_goals([row("TR", "fp32", 0.95), row("L1", "int8", 0.8)]) == []
    assert robot.missed_goals([row("TR", "fp32", 1.0), row("TR", "int8", 0.98)]) == []
    (missed,) = robot.missed_goals([row("TR", "fp32", 1.0), row("TR", "int8", 0.97)])
    assert "int8" in missed and "98.0%" in missed
    assert len(robot.missed_goals([row("TR", "fp32", 0.949)])) == 1


@pytest.mark.parametrize(
    ("reached", "ends", "expected"),
    [
        (True, ["reached"], "reached"),
        (True, [], "reached"),
        (False, ["reached"], "wrong place"),
        (False, ["lost"], "lost"),
        (False, [], "timeout"),
    ],
)
def test_robot_benchmark_outcome_is_the_true_one(reached: bool, ends: list[str], expected: str) -> None:
    assert robot.outcome(reached, ends) == expected
