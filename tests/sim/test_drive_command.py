"""``jepa-runtime drive``: outputs, and error messages."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from jepa_runtime.bundle import Bundle, StateSpec, seal
from jepa_runtime.cli import main
from jepa_runtime.imaging.conversion import decode
from jepa_runtime.profiling import write_profile
from jepa_sim import drive_command
from jepa_sim.worlds import make_world
from tests.bundles import make_bundle
from tests.runtime.profiles import make_profile

PLANE = "tests.sim.closed_loop.planes:MappedPlane"
BRIEF = ["--world", PLANE, "--seed", "0", "--episodes", "3"]


def test_drive_shows_every_variant_and_baseline_and_writes_requested_files(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, page, picture = (tmp_path / name for name in ("f.json", "f.html", "f.png"))
    outputs = ["--json", str(figures), "--html", str(page), "--png", str(picture)]
    assert main(["drive", str(toy_bundle), *BRIEF, *outputs]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in ("fp32", "fp16", "straight line", "random", "an open floor"))
    assert "horizon reduced from 8 to 4 steps" in output
    result = json.loads(figures.read_text())
    assert {score["episodes"] for score in result["scores"].values()} == {3}
    assert result["seeds"] == [0]
    assert page.read_text().count("<div class='film'") == 12
    assert decode(picture.read_bytes()).shape[2] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.html", "f.json", "f.png"]


def test_drive_with_a_closed_terminal_keeps_its_results(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive_command, "_show", Mock(side_effect=BrokenPipeError))
    # It closes standard output, which is that of the tests too.
    monkeypatch.setattr("rich.console.Console.on_broken_pipe", Mock(side_effect=SystemExit(1)))
    assert main(["drive", str(toy_bundle), *BRIEF, "--json", str(tmp_path / "f.json")]) == 141
    assert json.loads((tmp_path / "f.json").read_text())["scores"]


def test_drive_options_select_engine_precision_planner_and_baselines(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "f.json"
    chosen = ["--precision", "fp16", "--planner", "vjepa2_ac", "--no-baselines", "--threads", "2"]
    assert main(["drive", str(toy_bundle), *BRIEF, *chosen, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert list(result["scores"]) == ["fp16"] and result["threads"] == 2 and not result["differences"]
    assert result["planner"]["search"]["num_samples"] == 400 and result["planner"]["search"]["horizon"] == 2
    assert "horizon reduced" not in capsys.readouterr().out


def test_drive_with_random_weights_requires_permission_and_is_labeled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bundle(tmp_path / "toy", trained=False)
    command = ["drive", str(tmp_path / "toy"), *BRIEF]
    assert main(command) == 1
    assert "--allow-untrained" in capsys.readouterr().err
    assert main([*command, "--allow-untrained"]) == 0
    assert "untrained, the results mean nothing" in " ".join(capsys.readouterr().out.split())


def test_drive_with_a_model_of_another_robot_names_the_differing_actions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = make_bundle(tmp_path / "toy").manifest.model_dump(mode="json")
    fields["io"]["action"]["names"] = ["steering", "throttle"]
    seal(tmp_path / "toy", fields)
    assert main(["drive", str(tmp_path / "toy"), "--episodes", "1"]) == 1
    output = capsys.readouterr().err
    assert "cannot drive in Two Rooms, random layout" in output
    assert "steering [m/s], throttle [m/s], the world's are linear.x [m/s], linear.y [m/s]" in output


def test_drive_with_a_model_that_reads_states_is_rejected(
    arm_bundle: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drive", str(arm_bundle), "--episodes", "1", "--allow-untrained"]) == 1
    assert "[sim.model_mismatch]" in capsys.readouterr().err
    # Also if its actions are those of the world.
    manifest, task = Bundle.open(toy_bundle).manifest, make_world(PLANE).task
    assert task.mismatch(manifest) is None
    io = manifest.io.model_copy(update={"state": StateSpec(names=("x",), units=("m",))})
    reason = task.mismatch(manifest.model_copy(update={"io": io}))
    assert reason is not None and "reads the measured state of the robot (x)" in reason


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--world", "maze"], "unknown world 'maze': choose one of first_person_l0, first_person_l1"),
        (["--engine", "nowhere:CPU"], "nowhere"),
        (["--json", "/dev/null/f.json"], "/dev/null/f.json: cannot be written"),
    ],
)
def test_drive_error_is_one_line_without_driving(
    arguments: list[str], reason: str, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drive", str(toy_bundle), *arguments]) == 1
    printed = capsys.readouterr()
    assert reason in printed.err and printed.err.count("\n") == 1
    assert "reached" not in printed.out


@pytest.mark.parametrize("wrong", [["--episodes", "0"], ["--seed", "-1"], ["--planner", "luck"]])
def test_drive_value_out_of_range_is_rejected(
    wrong: list[str], toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["drive", str(toy_bundle), *wrong])
    assert ended.value.code == 2 and wrong[0] in capsys.readouterr().err


def test_drive_closes_the_world_even_if_the_model_cannot_act(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.sim.closed_loop import planes

    created = planes.MappedPlane(tick_s=0.3)
    monkeypatch.setattr(planes, "MappedPlane", lambda: created)
    assert main(["drive", str(toy_bundle), *BRIEF]) == 1
    assert created.closed
    assert "not a multiple of the world's tick" in capsys.readouterr().err


@pytest.mark.parametrize("time", ["measured", "20", "profile"])
def test_drive_with_charged_time_reports_it(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], time: str
) -> None:
    if time == "profile":
        time = str(tmp_path / "profile.json")
        write_profile(make_profile(frames=30), time)
    out = tmp_path / "f.json"
    options = ["--precision", "fp16", "--time", time, "--latency-ms", "100", "--json", str(out)]
    assert main(["drive", str(toy_bundle), *BRIEF, *options]) == 0
    result = json.loads(out.read_text())
    charged = result["charged_time"]
    assert charged["transport_s"] == 0.1 and (charged["decisions_ms"] is None) is (time == "measured")
    assert result["planner"]["futures_timeout_s"] > 0.4 and result["planner"]["compensate_latency"]
    assert "time is charged" in capsys.readouterr().out


def test_drive_charges_the_estimates_of_the_npu_compiler(tmp_path: Path) -> None:
    folder, out = tmp_path / "toy", tmp_path / "f.json"
    fields = make_bundle(folder).manifest.model_dump(mode="json")
    rows = [
        {"graph": graph, "platform": "4000", "estimate": {"total_ms": 100.0}}
        for graph in ("encoder", "predictor", "energy")
    ]
    (folder / "report.json").write_text(json.dumps({"npu": {"graphs": rows}}))
    seal(folder, fields)
    options = ["--precision", "fp16", "--no-baselines", "--time", "npu:4000", "--json", str(out)]
    assert main(["drive", str(folder), *BRIEF, *options]) == 0
    assert json.loads(out.read_text())["charged_time"]["decisions_ms"]["p50"] == pytest.approx(300.0)


def test_drive_with_a_platform_without_estimates_names_those_that_have_some(
    toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drive", str(toy_bundle), *BRIEF, "--time", "npu:4000"]) == 1
    assert "only for: none" in capsys.readouterr().err


def test_drive_without_compensation_and_free_time_says_so(toy_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.json"
    options = ["--precision", "fp16", "--no-compensation", "--no-baselines", "--json", str(out)]
    assert main(["drive", str(toy_bundle), *BRIEF, *options]) == 0
    result = json.loads(out.read_text())
    assert result["charged_time"] is None and not result["planner"]["compensate_latency"]


@pytest.mark.parametrize(
    "options", [["--latency-ms", "100"], ["--time", "-1"], ["--time", "nan"], ["--latency-ms", "-5"]]
)
def test_drive_with_invalid_time_is_a_usage_error(toy_bundle: Path, options: list[str]) -> None:
    try:
        status = main(["drive", str(toy_bundle), *BRIEF, *options])
    except SystemExit as error:
        status = error.code
    assert status == 2


def test_drive_with_a_file_that_is_no_profile_fails_with_the_reason(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.json").write_text("{}")
    assert main(["drive", str(toy_bundle), *BRIEF, "--time", str(tmp_path / "p.json")]) == 1
    assert "not a jepa-edge profile" in capsys.readouterr().err
