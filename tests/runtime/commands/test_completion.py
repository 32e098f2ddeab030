"""``completion``: scripts for bash and zsh."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from jepa_export.cli import main as export
from jepa_runtime.cli import PROGRAM, main

pytest.importorskip("shtab", reason="shtab is not installed")
COMMANDS = {command.name for group in PROGRAM.groups.values() for command in group}


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Return the completion script of jepa-runtime for bash."""
    assert main(["completion", "bash"]) == 0
    path = tmp_path / "jepa-runtime"
    path.write_text(capsys.readouterr().out)
    return path


def complete(script: Path, *words: str) -> set[str]:
    """Return what bash proposes for the last word."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    program = (
        f". {shlex.quote(str(script))}; COMP_WORDS=({shlex.join(('jepa-runtime', *words))}); "
        f"COMP_CWORD={len(words)}; _shtab_jepa_runtime; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(
        [bash, "-c", program], capture_output=True, text=True, check=True, cwd=script.parent
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["up"], {"update"}),
        (["update", "app"], {"apply", "approve"}),
        (["profile", "--num"], {"--num-samples"}),
        (["drive", "bundle", "--planner", "two"], {"two_rooms"}),
        (["run", "jepa"], {"jepa-runtime"}),
        (["info", "bundle", "--json", "jepa"], {"jepa-runtime"}),
    ],
)
def test_bash_completes_commands_options_choices_and_files(
    words: list[str], expected: set[str], script: Path
) -> None:
    assert complete(script, *words) == expected


def test_bash_completes_all_commands(script: Path) -> None:
    assert complete(script, "") >= COMMANDS


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_both_programs_print_a_script_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    for program, command in ((main, "build-engine"), (export, "train-predictor")):
        assert program(["completion", shell]) == 0
        assert command in capsys.readouterr().out
