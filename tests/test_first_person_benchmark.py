"""The benchmark of the first-person rooms: rows, intervals, and exit status."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from tests.scripts import load

first_person = load("first_person")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the report of a small run."""
    out = tmp_path_factory.mktemp("first_person") / "new" / "out.json"
    options = ["--episodes", "3", "--level", "L0", "TR", "--json", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_person, "_MEASURED_S", 0.05)
        assert first_person.main(options) == 0
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def test_first_person_benchmark_has_a_row_for_each_level_and_floor(report: dict[str, Any]) -> None:
    straight, shortest = "straight by true pose", "shortest path by true pose"
    random, cloning = "random, stops by true pose", "behavior cloning"
    expected = [("L0", name) for name in (random, straight, cloning, shortest)]
    expected += [("TR", name) for name in (random, straight, "odometry only", cloning, shortest)]
    assert [(row["level"], row["driver"]) for row in report["rows"]] == expected
    for row in report["rows"]:
        low, high = row["interval"]
        assert row["episodes"] == 3 and row["rate"] == row["reached"] / 3
        assert -1e-9 <= low <= row["rate"] + 1e-9 and row["rate"] <= high + 1e-9 <= 1 + 1e-6
    assert "numba" in report["machine"]["versions"] and report["machine"]["cpu"]["model"]
    assert min(report["per_second"].values()) > 0 and "96x72" in report["per_second"]


def test_first_person_benchmark_in_mujoco_measures_its_physics_and_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("mujoco") is None:
        pytest.skip("mujoco is not installed (extra worlds)")
    out = tmp_path / "out.json"
    monkeypatch.setattr(first_person, "_MEASURED_S", 0.05)
    options = ["--world", "mujoco", "--episodes", "1", "--level", "L0", "--json", str(out)]
    status = first_person.main(options)
    if status == 2:
        pytest.skip("MuJoCo has no renderer here")
    content = json.loads(out.read_text())
    assert status == 0 and content["world"] == "mujoco" and len(content["rows"]) == 4
    assert set(content["per_second"]) == {"houses", "96x72", "384x288", "ticks"}
    assert "mujoco" in content["machine"]["versions"]


def test_first_person_benchmark_fails_if_a_level_is_not_solvable(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_person, "measure", lambda *_: report)
    assert first_person.main(["--json", str(tmp_path / "out.json"), "--goal", "1.1"]) == 1


def test_first_person_benchmark_levels_are_all_levels() -> None:
    from jepa_sim.worlds.first_person.levels import LEVELS

    assert tuple(LEVELS) == first_person.LEVEL_NAMES


def test_first_person_benchmark_floors_are_all_floors() -> None:
    from jepa_sim.closed_loop.first_person.cloned_policy import ClonedPolicy
    from jepa_sim.closed_loop.first_person.floors import floors
    from jepa_sim.worlds.first_person.levels import LEVELS

    assert tuple(floors(LEVELS["TR"], ClonedPolicy(first_person.POLICY))) == first_person.FLOORS


def test_first_person_benchmark_of_one_driver_retains_the_rows_of_the_others(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_person, "_MEASURED_S", 0.05)
    out = tmp_path / "out.json"
    out.write_text(json.dumps(report))
    options = ["--driver", "behavior cloning", "--episodes", "2", "--level", "L0", "L1", "--json", str(out)]
    assert first_person.main(options) == 0
    found = json.loads(out.read_text())
    episodes = {(row["level"], row["driver"]): row["episodes"] for row in found["rows"]}
    assert list(episodes) == [
        ("L0", "random, stops by true pose"),
        ("L0", "straight by true pose"),
        ("L0", "behavior cloning"),
        ("L0", "shortest path by true pose"),
        ("L1", "behavior cloning"),
        *(("TR", driver) for driver in first_person.FLOORS),
    ]
    new = {("L0", "behavior cloning"), ("L1", "behavior cloning")}
    assert all(number == (2 if place in new else 3) for place, number in episodes.items())
    assert found["per_second"] == report["per_second"]
    assert first_person.main([*options, "--seed", "1"]) == 2
    assert json.loads(out.read_text()) == found


def test_shipped_policy_is_small_and_states_where_it_comes_from() -> None:
    files = list(first_person.POLICY.iterdir())
    assert sum(file.stat().st_size for file in files) < 2_000_000
    provenance = json.loads((first_person.POLICY / "policy.json").read_text())
    errors = provenance["held_out_errors"]
    assert "--cloning-frames" in provenance["command"]
    for name in ("speed_mps", "turn_radps", "log_distance"):
        assert errors[name] < 0.8 * errors[f"median_{name}"], name


def test_first_person_benchmark_without_numba_exits_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in [name for name in sys.modules if name.startswith("jepa_sim.worlds.first_person.")]:
        monkeypatch.delitem(sys.modules, name)
    out = tmp_path / "out.json"
    assert first_person.main(["--json", str(out)]) == 2
    assert "first-person" in capsys.readouterr().err and not out.exists()
