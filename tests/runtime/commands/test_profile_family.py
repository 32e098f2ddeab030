"""``jepa-runtime profile`` of several bundles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("tests.bundles", reason="onnx is not installed (extra dev)")

from jepa_runtime.cli import main
from tests.runtime.families import make_family, make_member, report_multiply_adds

# 110 frames of each bundle.
BRIEF = ["--rate", "200", "--duration", "0.55"]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a small and a large bundle, in one folder."""
    large, small = make_family(tmp_path_factory.mktemp("families") / "family")
    report_multiply_adds(small, 1_000_000)
    report_multiply_adds(large, 5_000_000)
    return small, large


def test_largest_bundle_that_keeps_the_deadline_is_recommended(
    family: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, large = family
    out = tmp_path / "found.json"
    assert main(["profile", str(small.parent), *BRIEF, "--deadline-ms", "10000", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["recommended"] == str(large)
    assert (found["rate_hz"], found["deadline_ms"], found["ordered_by"]) == (200.0, 10000.0, "multiply_adds")
    assert [entry["path"] for entry in found["bundles"]] == [str(small), str(large)]
    assert [entry["multiply_adds"] for entry in found["bundles"]] == [3_000_000, 15_000_000]
    for entry in found["bundles"]:
        assert entry["verdict"] == "keeps the deadline" and entry["failure"] is None
        assert entry["response_ms"]["n"] == 110 and entry["response_ms"]["p99"] > 0
        assert entry["variant"] == "fp32 on openvino:CPU"
    output = capsys.readouterr().out
    assert 0 <= found["cores_used_by_others"] <= found["cores"]
    assert "other programs used " in output
    assert f"recommended: {large}, the largest whose p99 is within 10000 ms at 200 Hz" in output
    assert "15 M" in output


def test_no_bundle_that_keeps_the_deadline_is_a_negative_result(
    family: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", *map(str, family), *BRIEF, "--deadline-ms", "0.001", "--json"]) == 3
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["recommended"] is None
    assert {entry["verdict"] for entry in found["bundles"]} == {"misses the deadline"}
    assert all(entry["late"] == 110 for entry in found["bundles"])
    assert "[profile.deadline_not_kept]" in captured.err and "misses the deadline" in captured.err


def test_too_few_frames_are_inconclusive(
    family: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["profile", *map(str, family), "--rate", "200", "--duration", "0.2", "--deadline-ms", "10000"]
    assert main(command) == 4
    captured = capsys.readouterr()
    assert "[profile.too_few_frames]" in captured.err and "too few frames" in captured.out


def test_bundle_that_cannot_run_is_reported_and_not_recommended(
    family: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, _ = family
    untrained = make_member(tmp_path / "untrained", trained=False)
    report_multiply_adds(untrained, 9_000_000)
    paths = [str(untrained), str(small)]
    assert main(["profile", *paths, *BRIEF, "--deadline-ms", "10000", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["recommended"] == str(small)
    assert [entry["verdict"] for entry in found["bundles"]] == ["keeps the deadline", "cannot run"]
    assert "[bundle.untrained]" in found["bundles"][1]["failure"]
    assert f"{untrained} cannot run: " in captured.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--engine", "openvino:NPU"], "[backend."), (["--precision", "int8"], "int8")],
)
def test_no_bundle_that_can_run_is_an_error(
    family: tuple[Path, Path], arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", *map(str, family), *BRIEF, *arguments]) == 1
    assert expected in capsys.readouterr().err


def test_bundles_of_different_families_are_an_error(
    family: tuple[Path, Path], two_rooms_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", *map(str, family), str(two_rooms_bundle), *BRIEF]) == 1
    assert "[profile.different_families]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [["--html", "x.html"], ["--trace", "x"], ["--skip", "all"], ["--ros"], ["--attach", "world_model"]],
)
def test_options_for_one_bundle_are_a_usage_error(
    family: tuple[Path, Path], option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["profile", *map(str, family), *option])
    assert f"{option[0]}: not with several bundles" in capsys.readouterr().err


def test_bundles_may_be_named_in_a_file(family: tuple[Path, Path], tmp_path: Path) -> None:
    file, out = tmp_path / "profile.yaml", tmp_path / "out.json"
    lines = "".join(f"  - {path}\n" for path in family)
    file.write_text(f"bundle:\n{lines}rate: 200\nduration: 0.55\ndeadline-ms: 10000\njson: {out}\n")
    assert main(["profile", "--config", str(file)]) == 0
    assert len(json.loads(out.read_text())["bundles"]) == 2
