"""The parser of all commands, which accepts no abbreviated option."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from jepa_runtime.util import ArgumentParser

ROOT = Path(__file__).resolve().parents[3]
INSTALLED = ("runtime", "export", "sim", "recipes", "ros2_ws/src")


def test_parser_rejects_abbreviated_options_of_commands_too(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    command = parser.add_subparsers().add_parser("run")
    command.add_argument("--rate")
    assert parser.parse_args(["run", "--rate", "5"]).rate == "5"
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["run", "--rat", "5"])
    assert "unrecognized arguments: --rat 5" in capsys.readouterr().err
    assert argparse.ArgumentParser().allow_abbrev, "the default accepts them"


def test_all_installed_programs_reject_abbreviated_options() -> None:
    accepting = re.compile(r"argparse\.ArgumentParser\((?!allow_abbrev=False)")
    found = [
        str(path.relative_to(ROOT))
        for folder in INSTALLED
        for path in (ROOT / folder).rglob("*.py")
        if accepting.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
