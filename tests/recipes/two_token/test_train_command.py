"""jepa-export train two_rooms: from the arguments to the bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_export.cli import main
from jepa_recipes.two_token import train_command
from jepa_recipes.two_token.training import TrainedModel
from jepa_runtime.bundle import Bundle

TRAIN = ["train", "two_rooms", "--output"]


def test_folder_of_another_run_is_reported_in_one_line_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "settings.txt").write_text("seed 7, layout fixed, Recipe()\n")
    assert main([*TRAIN, str(tmp_path), "--seed", "8"]) == 1
    stderr = capsys.readouterr().err
    assert (
        stderr.startswith("jepa-export: error: ")
        and "seed 7, layout fixed" in stderr
        and "another --output" in stderr
    )
    assert "Traceback" not in stderr


def test_output_that_is_no_bundle_is_rejected_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained first")

    monkeypatch.setattr(train_command, "train", refuse)
    (tmp_path / "bundle").mkdir()
    assert main([*TRAIN, str(tmp_path)]) == 1
    assert "is not a bundle" in capsys.readouterr().err


def test_folder_that_cannot_be_created_is_reported_before_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*TRAIN, "/proc/run"]) == 1
    assert "/proc/run/checkpoints cannot be written: No such file" in capsys.readouterr().err


def test_interrupted_training_explains_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_command, "train", interrupted)
    assert main([*TRAIN, str(tmp_path)]) == 130
    assert "resumes from the last checkpoint" in capsys.readouterr().err


@pytest.mark.usefixtures("copied")
def test_training_ends_with_a_scored_and_sealed_bundle(
    tiny_run: tuple[Path, TrainedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train_command, "train", lambda *_, **__: tiny_run[1])
    monkeypatch.setattr("jepa_sim.worlds.two_rooms_world.MAX_STEPS", 1)
    assert main([*TRAIN, str(tmp_path), "--episodes", "1", "--seed", "3"]) == 0
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.provenance.command == "jepa-export train two_rooms --layout random --seed 3"
    assert '"closed_loop"' in (tmp_path / "bundle" / "report.json").read_text()
    output = capsys.readouterr().out
    assert "int8" in output and "straight_line" in output
