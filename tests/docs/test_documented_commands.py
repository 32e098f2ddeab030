"""Every command line in the documentation and in the systemd units is one that the programs accept."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from jepa_export.cli import PROGRAM as EXPORT
from jepa_runtime.cli import PROGRAM as RUNTIME
from tests.scripts import ROOT

PROGRAMS = {"jepa-runtime": RUNTIME, "jepa-export": EXPORT}
PAGES = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "ros2_ws/README.md",
            "recipes/FIRST_PERSON.md",
            "recipes/TRAINING.md",
            "firmware_configs/README.md",
        )
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]
UNITS = sorted((ROOT / "firmware_configs").rglob("*.service"))
# A command in a block of a page, or in a unit; a backslash continues it on the next line.
LINE = re.compile(
    r"^(?:    |ExecStart=)?(?:sudo (?:-u \w+ )?)?(?:\S*/)?(?P<words>jepa-(?:runtime|export) (?:.*\\\n)*.*)$",
    re.MULTILINE,
)
# Lines with placeholders are not complete commands.
PLACEHOLDER = re.compile(r"…|\.\.\.|\[|\||<")


def commands(page: Path) -> Iterator[list[str]]:
    for found in LINE.finditer(page.read_text("utf-8")):
        text = re.sub(r"\s#.*|\\\n| (?:>|&&).*", " ", found["words"])
        if not PLACEHOLDER.search(text):
            yield shlex.split(text)


@pytest.mark.parametrize("page", [*PAGES, *UNITS], ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_command_is_accepted(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("bundle: models/two_rooms\nsource: two_rooms\n")
    rejected = []
    for program, *arguments in commands(page):
        try:
            PROGRAMS[program].parse(arguments)
        except SystemExit as ended:
            stderr = capsys.readouterr().err
            # A folder of the example need not exist.
            if ended.code and "no such folder" not in stderr:
                rejected.append(stderr.splitlines()[-1])
    assert not rejected


def test_pages_and_units_have_commands() -> None:
    assert sum(len(list(commands(page))) for page in [*PAGES, *UNITS]) > 60
