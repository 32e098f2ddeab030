"""The command line as a whole: help, usage errors, messages, logging and exit status."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from types import ModuleType

import pytest

import jepa_runtime
from jepa_export.cli import PROGRAM as EXPORT
from jepa_runtime.cli import PROGRAM, main
from jepa_runtime.commands.exit_status import ExitStatus, UsageError, status_of
from jepa_runtime.commands.program import Command, Program
from jepa_runtime.control import PRESETS
from jepa_runtime.errors import BundleError, JepaRuntimeError
from jepa_sim import drive_parser

LARGE = {"numpy", "pydantic", "rich", "tuf", "cv2", "openvino", "onnxruntime", "rosbags", "torch"}
NO_LARGE_PACKAGE = (
    f"large = {LARGE} & sys.modules.keys()\nsys.exit(f'imported: {{sorted(large)}}' if large else 0)\n"
)
VERSION = "from jepa_runtime.cli import main; main(['--version'])"
COMMANDS = [command.name for group in PROGRAM.groups.values() for command in group]


def fail(error: Exception) -> int:
    raise error


def test_program_help_lists_every_command_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    output = capsys.readouterr().out
    for title, commands in PROGRAM.groups.items():
        assert f"\n{title}:\n" in output
        for command in commands:
            assert f"  {command.name} " in output and command.summary in output


@pytest.mark.parametrize("name", COMMANDS)
def test_command_help_is_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: jepa-runtime {name} ")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_program_help_and_version_import_no_large_package(option: str) -> None:
    """An imported package slows the start on every machine; a time also depends on the load."""
    program = (
        "import sys\n"
        "from jepa_runtime.cli import main\n"
        "try:\n"
        f"    main([{option!r}])\n"
        "except SystemExit:\n"
        "    pass\n"
        f"{NO_LARGE_PACKAGE}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("package", ["jepa_runtime", "jepa_export"])
def test_parsers_of_all_commands_import_no_large_package(package: str) -> None:
    program = f"import sys\nfrom {package}.cli import PROGRAM\nPROGRAM.parser()\n{NO_LARGE_PACKAGE}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_in_parsers_equal_those_of_the_library() -> None:
    """The parser of ``drive`` does not import the planners."""
    assert tuple(sorted(PRESETS)) == drive_parser.PRESETS


def test_program_version_takes_less_than_300_ms() -> None:
    def seconds() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", VERSION], check=True, capture_output=True)
        return time.perf_counter() - began

    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    if load > 1:
        pytest.skip(f"the machine is busy (load {load:.1f} per core)")
    assert min(seconds() for _ in range(5)) < 0.3


@pytest.mark.parametrize(
    ("arguments", "prog"),
    [
        (["info", "bundle", "--bundel"], "jepa-runtime info"),
        (["update", "status", "--rot", "x"], "jepa-runtime update status"),
        (["report", "run.mcap"], "jepa-runtime report"),
        (["info", "bundle", "--vers"], "jepa-runtime info"),
        (["update", "status", "--rob", "x"], "jepa-runtime update status"),
        (["update", "status", "--version", "1.0.0"], "jepa-runtime update status"),
        (["update", "status", "--version=1.0.0"], "jepa-runtime update status"),
    ],
)
def test_usage_error_shows_the_usage_of_the_command_and_returns_2(
    arguments: list[str], prog: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    output = capsys.readouterr().err
    assert output.startswith(f"usage: {prog} [-h]") and f"\n{prog}: error: " in output


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["run", "--version"], ["update", "--version"], ["update", "status", "--version"]],
)
def test_program_and_commands_show_the_version(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    assert capsys.readouterr().out == f"jepa-edge {jepa_runtime.__version__}\n"


@pytest.mark.parametrize("version", [["--version", "1.0.0"], ["--version=1.0.0"]])
def test_version_with_a_value_names_the_option_that_takes_one(
    version: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["release", "downgrade", "repository", "--channel", "stable", "--model", "toy", *version]
    with pytest.raises(SystemExit, match="2"):
        EXPORT.main(arguments)
    output = capsys.readouterr()
    assert output.out == "" and output.err.endswith("takes no value, got '1.0.0': use --bundle-version\n")


def test_abbreviated_option_is_a_usage_error_also_before_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--verb", "info", "bundle"])
    assert "unrecognized arguments: --verb" in capsys.readouterr().err


def test_message_options_may_stand_before_and_after_each_command() -> None:
    for arguments in (["-v", "update", "status"], ["update", "-v", "status"], ["update", "status", "-v"]):
        args = PROGRAM.parse(arguments)
        assert (args.verbose, args.quiet, args.log_level) == (1, False, None)


def test_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["fly"])
    assert "invalid choice: 'fly'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            BundleError("toy: damaged", code="bundle.hash_mismatch"),
            "x: error: toy: damaged [bundle.hash_mismatch]\n",
        ),
        (JepaRuntimeError("toy: damaged"), "x: error: toy: damaged\n"),
    ],
)
def test_error_is_printed_with_its_code_and_returns_1(
    error: Exception, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("x", lambda: fail(error)) == ExitStatus.ERROR
    assert capsys.readouterr().err == shown


def test_usage_error_of_a_command_is_left_to_the_program() -> None:
    with pytest.raises(UsageError):
        status_of("x", lambda: fail(UsageError("-a and -b")))


@pytest.mark.parametrize(
    ("options", "level"),
    [
        ([], logging.WARNING),
        (["-v"], logging.INFO),
        (["-vv"], logging.DEBUG),
        (["-q"], logging.ERROR),
        (["-v", "--log-level", "error"], logging.ERROR),
    ],
)
def test_message_options_set_the_log_level(
    options: list[str], level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(logging, "basicConfig", lambda level, **_: root.setLevel(level))
    monkeypatch.setattr(root, "level", logging.NOTSET)
    result: list[int] = []

    def show(_: argparse.Namespace) -> int:
        result.append(root.level)
        return 0

    module = ModuleType("levels")
    module.__dict__["add_parser"] = lambda subparsers: subparsers.add_parser("show").set_defaults(run=show)
    monkeypatch.setitem(sys.modules, "levels", module)
    program = Program("x", "Show the level.", "1", {"All": [Command("show", "show it", "levels")]})
    for arguments in (["show", *options], [*options, "show"]):
        root.handlers = []
        assert program.main(arguments) == 0
    assert result == [level, level]
