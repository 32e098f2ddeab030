"""Generates ``docs/update-faults.md``: attacks and faults that updates are tested against.

    python -m tests.ota.campaigns.faults [--check]

runs the tests that the page names, including slow ones, and writes the code and text of their errors into the
page; ``--check`` only prints the difference. Rows are added by hand, with the class of the error and nothing
else in the error column, or ``none``.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from jepa_runtime.errors import CodedError, JepaRuntimeError

ROOT = Path(__file__).resolve().parents[3]
TESTS, PAGE = ROOT / "tests" / "ota", ROOT / "docs" / "update-faults.md"
_ROW = re.compile(
    r"\| (?P<fault>[^|]+) \| (?P<error>\w+)(?: `[\w.]+`)?(?::.*?)? "
    r"\| (?P<reaction>[^|]+) \| `(?P<test>[^`]+)` \|"
)
_NORMALIZED = (
    (r"(127\.0\.0\.1|localhost):\d{4,5}", r"\1:PORT"),
    (r"port=\d+", "port=PORT"),
    (r" \(read timeout=[\d.]+\)", ""),
    (r"\d+ more expected", "N more expected"),
    (r"_ssl\.c:\d+", "_ssl.c:LINE"),
    (r"\b(cosine|difference) -?[\d.e-]+", r"\1 X"),
    (r"[\d.]+ MB (are free|is free|free|available)", r"N MB \1"),
    (r"\b[0-9a-f]{64}\b", "SHA256"),
    (r"\([0-9a-f]{12}\)", "(HASH)"),
    (r"\(pid \d+\)", "(pid N)"),
    (r"\d+ bytes per second", "N bytes per second"),
    (r"\b[\d.e+-]+ (ms|MB) (on|of|by|wall-clock)\b", r"X \1 \2"),
    (r"use \d+% of", "use N% of"),
    (r"\|", r"\|"),
    (r"\s+", " "),
)


@dataclass(frozen=True)
class Row:
    """One row of the page.

    Attributes:
        line: Its line number, from 0.
        error: The class of the error that its test causes; ``none``: no error.
        test: The test's identifier, relative to ``tests/ota``.
    """

    line: int
    error: str
    test: str


def rows() -> list[Row]:
    """Return all rows of the page."""
    result = enumerate(map(_ROW.fullmatch, PAGE.read_text("utf-8").splitlines()))
    return [Row(line, row["error"], row["test"]) for line, row in result if row]


class Recorder:
    """A pytest plugin that records the errors of each test, in order."""

    def __init__(self) -> None:
        self._errors: dict[str, list[JepaRuntimeError]] = {}
        self.failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        errors = self._errors.setdefault(item.nodeid, [])

        def record(error: JepaRuntimeError, message: str = "", *, code: str | None = None) -> None:
            CodedError.__init__(error, message, code=code)
            errors.append(error)

        JepaRuntimeError.__init__ = record  # type: ignore[method-assign,assignment]
        try:
            return (yield)
        finally:
            del JepaRuntimeError.__init__

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome not in ("passed", "rerun"):
            self.failed.append(f"{report.nodeid}: {report.outcome}: {report.longreprtext[-500:]}")

    def last(self, row: Row) -> str:
        """Return code and text of the last error of a row's class, from the first variant that has one."""
        test = os.path.normpath(f"tests/ota/{row.test}")
        for nodeid, errors in self._errors.items():
            if test in (nodeid, nodeid.partition("[")[0]):
                for error in reversed(errors):
                    if type(error).__name__ == row.error:
                        return f"`{error.code}`: {error}"
        return ""


def rewrite(lines: Sequence[str], errors: Mapping[Row, str], folder: str) -> str:
    """Return the page with the recorded errors, without text that differs from run to run.

    Args:
        lines: The lines of the page.
        errors: The code and text of the error by row.
        folder: The folder of the tests' temporary files.
    """
    lines = list(lines)
    for row, text in errors.items():
        for pattern, normalized in ((rf"{re.escape(folder)}[^\s:,]*/", ".../"), *_NORMALIZED):
            text = re.sub(pattern, normalized, text)
        match = _ROW.fullmatch(lines[row.line])
        assert match is not None
        lines[row.line] = f"| {match['fault']} | {row.error} {text} | {match['reaction']} | `{row.test}` |"
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    recorder, all_rows = Recorder(), rows()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        tests = dict.fromkeys(f"{TESTS}/{row.test}" for row in all_rows)
        code = pytest.main(
            ["-q", "-m", "", "--reruns", "1", "-p", "no:cacheprovider", f"--basetemp={folder}/t", *tests],
            plugins=[recorder],
        )
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return 1
    errors = {row: recorder.last(row) for row in all_rows if row.error != "none"}
    missing = [f"{row.test}: no {row.error} was raised" for row in errors if not errors[row]]
    if problems := [*recorder.failed, *missing]:
        print("\n".join(problems))
        return 1
    before = PAGE.read_text("utf-8")
    page = rewrite(before.splitlines(), errors, folder)
    if arguments == ["--check"]:
        changed = [line for line in difflib.ndiff(before.splitlines(), page.splitlines()) if line[0] in "+-"]
        print("\n".join(changed))
        return int(bool(changed))
    PAGE.write_text(page, "utf-8")
    print(f"{PAGE}: {len(all_rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
