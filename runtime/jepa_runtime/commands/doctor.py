"""``jepa-runtime doctor``: what does this machine lack to run a model in real time?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.text import Text

from jepa_runtime.commands.arguments import add_json_argument, open_console
from jepa_runtime.doctor import (
    Diagnosis,
    Finding,
    LiveFacts,
    RecordedFacts,
    Requirements,
    Severity,
    System,
    as_json,
    examine,
    fix_script,
)
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.recording import check_outputs
from jepa_runtime.util.output_files import STDOUT, file_paths, write, write_text

_FAILED = 2
_STYLES = {
    Severity.ERROR: "bold red",
    Severity.WARNING: "yellow",
    Severity.UNKNOWN: "magenta",
    Severity.INFO: "cyan",
    Severity.OK: "green",
}


def add_parser(subparsers: Any) -> None:
    """Add ``doctor`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "doctor",
        help="tell what this machine lacks to run a model in real time, and how to mend it",
        description="Tell what this machine lacks to run a model in real time: driver, firmware, devices, "
        "libraries, power mode, clocks, heat, DDS buffers, limits, room, clock. Each finding has its "
        "evidence and the command that mends it; nothing is changed. What cannot be told is unknown, not "
        "wrong. Run it as the account that will run the model. Exit status 0: nothing is wrong, 1: there is "
        "an error or a warning, 2: the doctor could not run.",
    )
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="judge the machine for this bundle")
    add_json_argument(parser, "the findings")
    parser.add_argument(
        "--fix-script",
        type=Path,
        metavar="FILE",
        help="write a shell script with all remedies, for you to read and run; it is not run",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="examine the files of another machine below DIR, such as its mounted disk; DIR.json may tell "
        "what no file does (docs/doctor.md)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    try:
        facts = LiveFacts() if args.root == Path("/") else RecordedFacts(args.root)
        read = file_paths(args.bundle, facts.path if isinstance(facts, RecordedFacts) else None)
        check_outputs(file_paths(args.fix_script, args.json), *read)
        requirements = None if args.bundle is None else Requirements.from_bundle(args.bundle)
        diagnosis = examine(System(args.root, facts), requirements)
        if args.fix_script is not None:
            write(args.fix_script, fix_script(diagnosis))
        if args.json is not None:
            write_text(args.json, as_json(diagnosis))
    except JepaRuntimeError as error:
        print(f"jepa-runtime doctor: {error}", file=sys.stderr)
        return _FAILED
    if args.json != STDOUT:
        _show(diagnosis, verbose=args.verbose)
    return 1 if diagnosis.problems else 0


def _show(diagnosis: Diagnosis, *, verbose: bool) -> None:
    console = open_console()
    # Text takes what a machine's files say literally; a string might be markup.
    console.print(Text(f"{diagnosis.machine.name} ({diagnosis.machine.architecture})", style="bold"))
    shown = [
        finding for finding in diagnosis.findings if verbose or finding.verdict.severity <= Severity.UNKNOWN
    ]
    for finding in shown:
        console.print(_told(finding, verbose=verbose), soft_wrap=True, end="")
    counts = {level: 0 for level in Severity}
    for finding in diagnosis.findings:
        counts[finding.verdict.severity] += 1
    console.print(
        "\n" + ", ".join(f"{count} {level.name.lower()}" for level, count in counts.items() if count)
    )


def _told(finding: Finding, *, verbose: bool) -> Text:
    """One line each for what was found, for what tells it, and for what mends it, to be copied."""
    verdict = finding.verdict
    text = Text("\n").append(f"{verdict.severity.name.lower()} {finding.check}", _STYLES[verdict.severity])
    text.append(f": {verdict.summary}\n")
    if verbose or verdict.severity <= Severity.WARNING:
        for seen in verdict.evidence:
            text.append(f"  {seen.source}: {seen.value}\n", "dim")
    for step in verdict.remedy:
        text.append(f"  {step}\n" if step.startswith("#") else f"  $ {step}\n", "bold")
    return text
