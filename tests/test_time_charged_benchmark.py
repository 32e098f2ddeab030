"""The benchmark of charged time: its cells, its ratios, its exit status, and interrupted runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from jepa_runtime.imaging.conversion import decode
from jepa_runtime.profiling import write_profile
from tests.bundles import make_wheeled_bundle
from tests.runtime.profiles import make_profile
from tests.scripts import load

benchmark = load("time_charged")
tables = load("readme_tables.models")
WITHOUT = ["--late-ms", "--thinking-ms", "--dropped", "--jitter-ms", "--swap-at-s", "--neighbor"]


def row(latency: str, rate: float, driver: str = "compensated") -> dict[str, Any]:
    return {
        "kind": "late",
        "latency": latency,
        "driver": driver,
        "rate": rate,
        "successes": round(10 * rate),
        "episodes": 10,
        "interval": (0.0, 1.0),
        "outcomes": {"reached": 10},
    }


@pytest.mark.parametrize(("rate", "status"), [(0.95, 0), (0.81, 0), (0.8, 1)])
def test_exit_status_compares_the_compensated_rates(
    rate: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row("500", rate), row("0", 0.9), row("500", 0.0, "not compensated")]
    report = {"rows": rows, "world": "w", "model": "m"}
    monkeypatch.setattr(benchmark, "measure", Mock(return_value=report))
    assert benchmark.main(["--html", str(tmp_path / "r.html")]) == status
    page = (tmp_path / "r.html").read_text()
    assert page.count("<polyline") == 2 and "not compensated" in page


def test_exit_status_in_first_person_rooms_is_that_of_steering(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("CEM, compensated", "steering, compensated")
    rows = [row(latency, 1.0, name) for name in names for latency in ("0", "500")]
    for worse, status in zip(names, (0, 1), strict=True):
        changed = [each | {"rate": 0.5} if each["driver"] == worse else each for each in rows[1::2]]
        found = [*rows[::2], *changed]
        monkeypatch.setattr(benchmark, "measure", Mock(return_value={"rows": found}))
        assert benchmark.main(["--world", "first_person_l0"]) == status


def test_ratio_without_both_latencies_is_left_out() -> None:
    assert benchmark.ratios([row("0", 0.9)]) == {}
    assert benchmark.ratios([row("0", 0.0), row("500", 0.0)]) == {}
    assert benchmark.ratios([row("0", 0.9, "straight line"), row("500", 0.9, "straight line")]) == {}


def cells(arguments: list[str], report: dict[str, Any] | None = None) -> list[Any]:
    parsed = benchmark._parser().parse_args(arguments)
    return list(benchmark.cells(parsed, SimpleNamespace(report=lambda: report)))


def test_cells_cover_latencies_decisions_disturbances_and_profiles(tmp_path: Path) -> None:
    write_profile(make_profile(frames=30), tmp_path / "p.json")
    found = cells(["--late-ms", "0", "500", "--thinking-ms", "100", "--profile", str(tmp_path / "p.json")])
    assert [cell.key for cell in found] == [
        "late 0",
        "late 500",
        "thinking 100",
        "disturbed 30% of the images lost",
        "disturbed jitter up to 200 ms",
        "disturbed model swap after 2 s",
        "disturbed noisy neighbor, 10 x",
        "profile p.json",
    ]
    assert found[1].charged.transport_s == 0.5 and found[2].charged.decisions_s == (0.1,)
    dropped, jitter, swap, neighbor = (cell.charged for cell in found[3:7])
    assert {each.transport_s for each in (dropped, jitter, swap, neighbor)} == {0.1}
    assert (dropped.dropped, jitter.jitter_s, swap.swap_at_s) == (0.3, 0.2, 2.0)
    assert neighbor.longest_decision_s == pytest.approx(0.3)
    assert len(found[7].charged.decisions_s) == 26


def test_cells_have_the_estimates_of_the_npu_compiler_for_whole_models() -> None:
    def graph(name: str, platform: str, total_ms: float | None) -> dict[str, Any]:
        estimate = {"problem": "?"} if total_ms is None else {"estimate": {"total_ms": total_ms}}
        return {"graph": name, "platform": platform} | estimate

    graphs = [
        graph("encoder", "4000", 3.0),
        graph("encoder", "4000", 2.0),
        graph("step", "4000", 50.0),
        graph("predictor", "4000", 5.0),
        graph("encoder", "3720", 4.0),
        graph("predictor", "3720", None),
    ]
    (found,) = cells([*WITHOUT], {"npu": {"graphs": graphs}})
    assert found.key == "estimate 4000" and found.charged.decisions_s == pytest.approx((0.007,))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of random weights for the robot of the first-person rooms."""
    pytest.importorskip("numba", reason="numba is not installed (extra first-person)")
    return make_wheeled_bundle(tmp_path_factory.mktemp("wheeled") / "bundle")


def run(bundle: Path, path: Path, *options: str) -> tuple[int, dict[str, Any]]:
    given = ["--world", "first_person_l0", "--bundle", str(bundle), "--jobs", "1", "--json", str(path)]
    status = benchmark.main([*given, *WITHOUT, *options])
    return status, json.loads(path.read_text())


def test_interrupted_run_continues_with_more_episodes_latencies_and_drivers(
    bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    _, first = run(bundle, path, "--episodes", "1", "--late-ms", "0", "--driver", "straight line")
    assert [(each["driver"], each["episodes"]) for each in first["rows"]] == [("straight line", 1)]
    first["drives"]["late 0"]["straight line"][0][2] = 0.5
    path.write_text(json.dumps(first))
    drivers = ["straight line", "steering, compensated"]
    _, second = run(bundle, path, "--episodes", "2", "--late-ms", "0", "500", "--driver", *drivers)
    assert {(each["latency"], each["driver"], each["episodes"]) for each in second["rows"]} == {
        (latency, driver, 2) for latency in ("0", "500") for driver in drivers
    }
    assert second["drives"]["late 0"]["straight line"][0][2] == 0.5, "it is not driven again"
    assert second["given"].keys() == {"late 0", "late 500"} and second["settings"]["images_per_step"] == 3


def test_report_of_another_world_or_with_other_times_is_not_continued(bundle: Path, tmp_path: Path) -> None:
    path, options = tmp_path / "r.json", ["--episodes", "1", "--late-ms", "0", "--driver", "straight line"]
    _, report = run(bundle, path, *options)
    for changed in (
        {"settings": report["settings"] | {"world": "two_rooms"}},
        {"given": {"late 0": report["given"]["late 0"] | {"transport_s": 0.1}}},
    ):
        path.write_text(json.dumps(report | changed))
        status, unchanged = run(bundle, path, *options)
        assert status == 2 and unchanged == report | changed


def test_localization_on_a_route_is_measured_once_and_charged(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jepa_sim.worlds.first_person.world import FirstPersonRooms

    path, charged = tmp_path / "r.json", list[float]()
    drive, task_of = benchmark.run_charged_episode, FirstPersonRooms.task.fget

    def recording(world: Any, driver: Any, time: Any, **options: Any) -> Any:
        charged.extend(time.decisions_s)
        return drive(world, driver, time, **options)

    monkeypatch.setattr(benchmark, "run_charged_episode", recording)
    # Episodes are over after two seconds.
    monkeypatch.setattr(
        FirstPersonRooms, "task", property(lambda world: replace(task_of(world), max_steps=7))
    )
    options = ["--world", "first_person_tr", "--late-ms", "0", "--episodes", "1"]
    _, report = run(bundle, path, *options)
    assert {each["driver"] for each in report["rows"]} == {"compensated", "not compensated", "odometry only"}
    assert report["rows"][0]["outcomes"] == {"timeout": 1}
    localization_ms = report["localization_ms"]
    assert localization_ms > 0
    assert charged == pytest.approx([benchmark.DECISION_S + localization_ms / 1e3] * 3)
    _, continued = run(bundle, path, *options, "--thinking-ms", "100")
    assert continued["localization_ms"] == localization_ms
    assert charged[3:] == pytest.approx([0.1 + localization_ms / 1e3] * 3)


def test_driver_that_does_not_exist_is_rejected(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--world", "first_person_l0", "--bundle", str(bundle), "--json", str(tmp_path / "r.json")]
    assert benchmark.main([*options, "--driver", "luck"]) == 2
    assert "steering, compensated" in capsys.readouterr().err


def test_table_has_a_row_for_each_latency_in_order_and_no_value_where_none_was_measured() -> None:
    rows = [row("500", 0.5), row("0", 0.9), row("0", 0.8, "behavior cloning")]
    rows.append(row("jitter up to 200 ms", 0.7) | {"kind": "disturbed"})
    machine = {"cpu": "a processor", "cores": 2}
    report = {"world": "w", "model": "m", "precision": "int8", "rows": rows, "machine": machine}
    lines = tables._charged(report).splitlines()
    assert "10 held-out" in lines[0] and lines[4] == "| latency | compensated | behavior cloning |"
    assert [line.split("|")[1].strip() for line in lines[6:]] == [
        "images 0 ms late", "images 500 ms late", "images 100 ms late, jitter up to 200 ms",
    ]  # fmt: skip
    assert "80.0%" in lines[6] and lines[7].endswith("|  |")


def test_picture_has_a_chart_for_each_world() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra viz)")
    picture = load("time_charged_picture")
    names = ("steering, compensated", "steering, not compensated", "behavior cloning")
    rows = [row(latency, 0.5, name) for name in names for latency in ("500", "0")]
    rows += [row("0", 1.0, "straight line") | {"interval": (0.7, 0.9999999999999999)}]
    report = {"world": "first-person rooms, L0: near", "rows": rows}
    one, two = (decode(picture.draw([report] * count)) for count in (1, 2))
    assert two.shape[1] > 1.5 * one.shape[1] and two.shape[0] == one.shape[0]
    assert picture.plt.get_fignums() == [], "figures are closed"
