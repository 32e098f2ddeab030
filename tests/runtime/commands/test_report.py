"""The command ``jepa-runtime report``."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_runtime.cli import main
from tests.runtime.bags import write_bag
from tests.runtime.visualization import runs


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return runs.write_run(tmp_path / "run.mcap")


def test_report_writes_all_requested_outputs(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    page, figure, copy = (tmp_path / name for name in ("run.html", "run.png", "copy.mcap"))
    assert main(["report", str(bag), "--html", str(page), "--png", str(figure), "--mcap", str(copy)]) == 0
    output = capsys.readouterr().out
    assert "60 frames in 5.9 s, predictions at 4 moments, atlas of the run" in output
    assert page.read_text().startswith("<!DOCTYPE html>") and str(page) in output
    assert figure.stat().st_size > 10_000 and copy.stat().st_size > bag.stat().st_size


def test_report_without_outputs_is_a_usage_error(bag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(bag)])
    assert "at least one of --html, --png and --mcap is required" in capsys.readouterr().err


def test_report_with_bundle_of_other_latents_is_rejected(
    bag: Path, toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["report", str(bag), str(toy_bundle), "--html", str(tmp_path / "run.html")]
    assert main(command) == 1
    assert "shape [2, 8], those of the bag [2, 4]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("nothing.mcap", "nothing.mcap: no such file or folder"), ("zeros.mcap", "not a readable bag")],
)
def test_report_of_an_invalid_bag_prints_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, complaint: str
) -> None:
    (tmp_path / "zeros.mcap").write_bytes(bytes(100))
    assert main(["report", str(tmp_path / name), "--html", str(tmp_path / "run.html")]) == 1
    output = capsys.readouterr().err
    assert complaint in output and output.count("\n") == 1
    assert ("mcap recover" in output) == (name == "zeros.mcap")


@pytest.mark.parametrize("option", ["--html", "--png", "--mcap"])
def test_report_does_not_overwrite_its_source(
    bag: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bag.read_bytes()
    assert main(["report", str(bag), option, str(bag)]) == 1
    assert "which is read: write into another file" in capsys.readouterr().err
    assert bag.read_bytes() == before


def test_report_failing_output_does_not_prevent_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [entry for entry in runs.entries() if entry[0] < runs.stamp(4)]
    bag = write_bag(tmp_path / "short.mcap", first)
    page, copy = tmp_path / "run.html", tmp_path / "copy.mcap"
    outputs = ["--png", str(tmp_path / "run.png"), "--html", str(page), "--mcap", str(copy)]
    assert main(["report", str(bag), *outputs]) == 1
    assert "[report.no_predictions]" in capsys.readouterr().err
    assert page.exists() and copy.stat().st_size > bag.stat().st_size


def test_report_onto_another_recording_is_rejected(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = tmp_path / "older.mcap"
    older.write_bytes(b"an older recording")
    assert main(["report", str(bag), "--html", str(tmp_path / "run.html"), "--mcap", str(older)]) == 1
    assert "older.mcap already exists, and recordings are never replaced" in capsys.readouterr().err
    assert not (tmp_path / "run.html").exists() and older.read_bytes() == b"an older recording"
