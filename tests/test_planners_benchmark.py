"""benchmarks/planners.py: a small run has a row for each driver."""

from __future__ import annotations

import json
from pathlib import Path

from tests.scripts import load

planners = load("planners")


def test_small_run_has_a_row_for_each_planner_and_energy(two_rooms_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "planners.json"
    options = ["--bundle", str(two_rooms_bundle), "--seed", "10", "--episodes", "1", "--iterations", "1"]
    chosen = ["--demonstrations", "4", "--planner", "policy_cem", "hierarchical_cem", "--json", str(out)]
    assert planners.main([*options, *chosen]) == 0
    report = json.loads(out.read_text())
    shown = [(row["planner"], row["energy"]) for row in report["rows"]]
    assert shown == [
        *((name, "-") for name in ("straight_line", "random", planners.EXPERT, planners.CLONING)),
        *((name, energy) for energy in planners.ENERGIES for name in ("policy_cem", "hierarchical_cem")),
    ]
    assert all(row["decision_ms"]["p50"] >= 0 and row["episodes"] == 1 for row in report["rows"])
    assert "HWM" in report["searches"]["hierarchical_cem"]["source"]
