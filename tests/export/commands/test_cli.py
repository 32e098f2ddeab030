"""jepa-export on the command line: what is missing is named, what is wrong is said in one line."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jepa_export import cli
from jepa_export.cli import main

PUBLISH = ["release", "publish", "repository", "bundle", "--channel", "stable"]
POSITIVE = "must be a positive number of at most 1e+09"
TRAIN = ["train", "two_rooms", "--out"]


@pytest.mark.parametrize("gone", ["torch", "nncf"])
def test_a_missing_extra_is_named_with_what_to_install(
    gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        cli.importlib.util, "find_spec", lambda name, *rest: None if name == gone else find(name, *rest)
    )
    assert main([*TRAIN, str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert gone in said and "pip install 'jepa-edge[export]'" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["train", "atari", "--out", "x"], "invalid choice: 'atari'"),
        (["train", "two_rooms"], "--out"),
        ([*TRAIN, "x", "--layout", "round"], "invalid choice: 'round'"),
        ([*TRAIN, "x", "--seed", "lucky"], "invalid seed value: 'lucky'"),
        ([*TRAIN, "x", "--seed", "-1"], "--seed: must be between 0 and 4294967295, got -1"),
        ([*TRAIN, "x", "--episodes", "-1"], "--episodes: must be between 0 and 100000, got -1"),
        (["distill", "--seed", "-1"], "--seed: must be between 0 and 4294967295, got -1"),
        (["build", "--seed", "-1"], "--seed: must be between 0 and 4294967295, got -1"),
        (["release", "resign", "x", "--within", "nan"], "--within: must be between 0 and 36500, got nan"),
        (["release", "resign", "x", "--within", "1e12"], "--within: must be between 0 and 36500, got 1"),
        (["release", "rollout", "x", "--percent", "nan"], "--percent: must be between 0 and 100, got nan"),
        (["release", "downgrade", "x", "--percent", "101"], "--percent: must be between 0 and 100, got 101"),
        ([*PUBLISH, "--percent=-1"], "--percent: must be between 0 and 100, got -1"),
        ([*PUBLISH, "--deltas=-1"], "--deltas: must be between 0 and 100000, got -1"),
        ([*PUBLISH, "--max-error-ratio", "nan"], f"--max-error-ratio: {POSITIVE}, got nan"),
        ([*PUBLISH, "--latency-p99-ms", "inf"], f"--latency-p99-ms: {POSITIVE}, got inf"),
        ([*PUBLISH, "--peak-memory-mb", "0"], f"--peak-memory-mb: {POSITIVE}, got 0"),
    ],
)
def test_wrong_arguments_are_said_with_exit_status_2(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    run = "import sys; from jepa_export.cli import main; sys.exit(main())"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", run, "release", "init", tmp_path / "repo"],
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert ended.stderr == (
        b"jepa-export: error: standard output: No space left on device [cli.output_failed]\n"
    )
    assert ended.returncode == os.EX_IOERR


@pytest.fixture
def train(needs_extra: None) -> ModuleType:
    from jepa_export.commands import train_world

    return train_world


def test_a_folder_of_another_run_ends_in_one_line_and_status_1(
    train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "settings.txt").write_text("seed 7, layout fixed, Recipe()\n")
    assert main([*TRAIN, str(tmp_path), "--seed", "8"]) == 1
    said = capsys.readouterr().err
    assert (
        said.startswith("jepa-export: error: ") and "seed 7, layout fixed" in said and "another --out" in said
    )
    assert "Traceback" not in said


def test_a_target_that_is_no_bundle_is_refused_before_hours_of_training(
    train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained first")

    monkeypatch.setattr(train, "train", refuse)
    (tmp_path / "bundle").mkdir()
    assert main([*TRAIN, str(tmp_path)]) == 1
    assert "is not a bundle" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told_before_the_training(
    train: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, "/proc/run"]) == 1
    assert "/proc/run/checkpoints cannot be written: No such file" in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on(
    train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupted)
    assert main([*TRAIN, str(tmp_path)]) == 130
    assert "resumes from the last checkpoint" in capsys.readouterr().err


@pytest.mark.usefixtures("copied")
def test_training_ends_with_a_scored_and_sealed_bundle(
    train: ModuleType,
    tiny_run: tuple[Path, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from jepa_runtime.bundle import Bundle

    monkeypatch.setattr(train, "train", lambda *_, **__: tiny_run[1])
    monkeypatch.setattr("jepa_sim.worlds.two_rooms_world.MAX_STEPS", 1)
    assert main([*TRAIN, str(tmp_path), "--episodes", "1", "--seed", "3"]) == 0
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.provenance.command == "jepa-export train two_rooms --layout random --seed 3"
    assert '"closed_loop"' in (tmp_path / "bundle" / "report.json").read_text()
    shown = capsys.readouterr().out
    assert "int8" in shown and "straight_line" in shown
