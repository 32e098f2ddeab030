"""``docs/update-faults.md``: the attacks and faults that updates are held against, each with its test.

    python -m tests.ota.campaigns.faults [--check]

runs the tests that the page names, slow ones too, and writes what their errors say into the page; ``--check``
only prints what would change. A row is added by hand: with the class of the error, a colon and nothing after
it, or ``none``.
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
    r"\| (?P<what>[^|]+) \| (?P<error>\w+)(?P<said>:.*?)? \| (?P<then>[^|]+) \| `(?P<test>[^`]+)` \|"
)
_PLAIN = (
    (r"(127\.0\.0\.1|localhost):\d{4,5}", r"\1:PORT"),
    (r"port=\d+", "port=PORT"),
    (r" \(read timeout=[\d.]+\)", ""),
    (r"\d+ more expected", "N more expected"),
    (r"_ssl\.c:\d+", "_ssl.c:LINE"),
    (r"\b(cosine|difference) -?[\d.e-]+", r"\1 X"),
    (r"[\d.]+ MB are free", "N MB are free"),
    (r"\b[0-9a-f]{64}\b", "SHA256"),
    (r"\([0-9a-f]{12}\)", "(HASH)"),
    (r"\(pid \d+\)", "(pid N)"),
    (r"\d+ bytes per second", "N bytes per second"),
    (r"\b[\d.e+-]+ (ms|MB) (on|of|by)\b", r"X \1 \2"),
    (r"use \d+% of", "use N% of"),
    (r"\|", r"\|"),
    (r"\s+", " "),
)


@dataclass(frozen=True)
class Row:
    """One line of the page.

    Attributes:
        line: its number, from 0.
        error: the class of the error that its test gives; ``none``: no error.
        test: its identifier, relative to ``tests/ota``.
    """

    line: int
    error: str
    test: str


def rows() -> list[Row]:
    """All of the page."""
    found = enumerate(map(_ROW.fullmatch, PAGE.read_text("utf-8").splitlines()))
    return [Row(line, row["error"], row["test"]) for line, row in found if row]


class Recorder:
    """A plugin of pytest that keeps the errors of ours that each test gives, in order."""

    def __init__(self) -> None:
        self._errors: dict[str, list[JepaRuntimeError]] = {}
        self.failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        kept = self._errors.setdefault(item.nodeid, [])

        def keep(error: JepaRuntimeError, message: str = "", *, code: str | None = None) -> None:
            CodedError.__init__(error, message, code=code)
            kept.append(error)

        JepaRuntimeError.__init__ = keep  # type: ignore[method-assign,assignment]
        try:
            return (yield)
        finally:
            del JepaRuntimeError.__init__

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome not in ("passed", "rerun"):
            self.failed.append(f"{report.nodeid}: {report.outcome}: {report.longreprtext[-500:]}")

    def last(self, row: Row) -> str:
        """The last error of its class that a row's test gave, in the first of its variants that gave one."""
        test = os.path.normpath(f"tests/ota/{row.test}")
        for nodeid, errors in self._errors.items():
            if test in (nodeid, nodeid.partition("[")[0]):
                for error in reversed(errors):
                    if type(error).__name__ == row.error:
                        return str(error)
        return ""


def written(lines: Sequence[str], said: Mapping[Row, str], folder: str) -> str:
    """The page with what was said, without what differs from run to run.

    Args:
        folder: where the tests had theirs.
    """
    lines = list(lines)
    for row, text in said.items():
        for pattern, plain in ((rf"{re.escape(folder)}[^\s:,]*/", ".../"), *_PLAIN):
            text = re.sub(pattern, plain, text)
        match = _ROW.fullmatch(lines[row.line])
        assert match is not None
        lines[row.line] = f"| {match['what']} | {row.error}: {text} | {match['then']} | `{row.test}` |"
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
    said = {row: recorder.last(row) for row in all_rows if row.error != "none"}
    if problems := [*recorder.failed, *(f"{row.test}: gave no {row.error}" for row in said if not said[row])]:
        print("\n".join(problems))
        return 1
    stands = PAGE.read_text("utf-8")
    page = written(stands.splitlines(), said, folder)
    if arguments == ["--check"]:
        changed = [line for line in difflib.ndiff(stands.splitlines(), page.splitlines()) if line[0] in "+-"]
        print("\n".join(changed))
        return int(bool(changed))
    PAGE.write_text(page, "utf-8")
    print(f"{PAGE}: {len(all_rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
