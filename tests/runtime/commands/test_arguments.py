"""Options shared by the commands of ``jepa-runtime``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.cli import main
from jepa_runtime.commands.arguments import open_console
from jepa_runtime.errors import BackendError
from jepa_runtime.model.world_model import WorldModel
from tests.errors import code


@pytest.mark.parametrize("rate", ["1e10", "1e-300", "nan", "-1", "abc", ""])
@pytest.mark.parametrize("name", ["run", "record", "profile", "view", "report"])
def test_rate_out_of_range_is_a_usage_error(name: str, rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([name, f"--rate={rate}"])
    assert "argument --rate: must be " in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        "run --duration", "run --deadline-ms", "record --duration", "profile --duration",
        "profile --deadline-ms", "calibrate --duration", "view --duration", "whatif --around",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", ["0", "nan", "inf", "1e308", "soon", ""])
def test_duration_out_of_range_is_a_usage_error(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(f"{option}={value}".split())
    assert f"must be a positive number of at most 1e+09, got {value}" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["99999x99999", "640x0", "640", "640x480x3"])
def test_frame_size_out_of_range_is_a_usage_error(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["profile", f"--size={size}"])
    assert "argument --size: must be WIDTHxHEIGHT of at most 9999" in capsys.readouterr().err


def test_run_with_empty_bundle_name_reports_the_missing_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "", "--source", "two_rooms"]) == 1
    assert "manifest.json: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "run BUNDLE --source two_rooms",
        "verify BUNDLE",
        "profile BUNDLE",
        "drive BUNDLE",
        "view BUNDLE --source two_rooms --output OUT.rrd",
        "calibrate BUNDLE --source two_rooms --output OUT",
    ],
)
def test_cache_dir_reaches_every_command_that_opens_a_model(
    toy_bundle: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def looks(*_: Any, options: BackendOptions, **__: Any) -> None:
        raise BackendError(f"looked in {options.cache_dir}")

    monkeypatch.setattr(WorldModel, "open", looks)
    if command.startswith("view"):
        pytest.importorskip("rerun", reason="rerun is not installed (extra rerun)")
    filled = command.replace("BUNDLE", str(toy_bundle)).replace("OUT", str(tmp_path / "out"))
    assert main([*filled.split(), "--cache-dir", str(tmp_path / "kept")]) == 1
    assert f"looked in {tmp_path / 'kept'}" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", ""])
def test_count_out_of_range_is_a_usage_error(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["drive", "toy", f"--episodes={value}"])
    assert f"must be an integer of at least 1, got {value}" in capsys.readouterr().err


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**20])
def test_backend_options_threads_out_of_range_raise(threads: int) -> None:
    with pytest.raises(BackendError, check=code("backend.option_invalid")):
        BackendOptions(threads=threads)


@pytest.mark.parametrize(("columns", "width"), [(None, 10_000), ("80", 80)])
def test_console_without_terminal_does_not_wrap_lines(
    columns: str | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert open_console().width == width


@pytest.mark.parametrize(
    "words",
    [
        "run bundle --source two_rooms --json - --html -",
        "drive bundle --json --html -",
        "doctor --json - --fix-script -",
        "compare a.json b.json --json - --markdown -",
    ],
)
def test_two_outputs_on_standard_output_are_a_usage_error(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert "can write to standard output" in capsys.readouterr().err
