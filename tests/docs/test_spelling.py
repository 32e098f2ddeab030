"""Spelling, and words that have a plain term (scripts/codespell-dictionary.txt): in files and help texts."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.scripts import ROOT

pytest.importorskip("codespell_lib", reason="codespell is not installed (extra dev)")


def codespell(*arguments: str, text: str = "") -> str:
    command = [sys.executable, "-m", "codespell_lib", *arguments]
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def help_texts(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from help_texts(command)


def test_files_have_no_spelling_findings() -> None:
    assert codespell() == ""


@pytest.mark.parametrize("module", ["jepa_runtime.cli", "jepa_export.cli"])
def test_help_of_every_command_has_no_spelling_findings(module: str) -> None:
    texts = list(help_texts(importlib.import_module(module).PROGRAM.parser()))
    assert len(texts) > 10
    assert codespell("-", text="\n".join(texts)) == ""


@pytest.mark.parametrize("text", ["a behaviour", "an update in work", "built anew"])  # codespell:ignore
def test_codespell_reports_british_spelling_and_unclear_words(text: str) -> None:
    assert "==>" in codespell("-", text=text)
