"""jepa-export on the command line: errors are reported in one line."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jepa_export import cli
from jepa_export.cli import main

PUBLISH = ["release", "publish", "repository", "bundle", "--channel", "stable"]
POSITIVE = "must be a positive number of at most 1e+09"
TRAIN = ["train", "two_rooms", "--output"]


@pytest.mark.parametrize("missing", ["torch", "nncf"])
def test_missing_extra_is_reported_with_its_install_command(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        cli.importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name, *rest)
    )
    assert main([*TRAIN, str(tmp_path / "out")]) == 1
    stderr = capsys.readouterr().err
    assert missing in stderr and "pip install 'jepa-edge[export]'" in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["train", "atari", "--output", "x"], "invalid choice: 'atari'"),
        (["train", "two_rooms"], "--output"),
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
        ([*PUBLISH, "--max-latency-p99-ms", "inf"], f"--max-latency-p99-ms: {POSITIVE}, got inf"),
        ([*PUBLISH, "--max-peak-memory-mb", "0"], f"--max-peak-memory-mb: {POSITIVE}, got 0"),
    ],
)
def test_invalid_arguments_exit_with_status_2(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_unwritable_output_is_reported_in_one_line(tmp_path: Path) -> None:
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
