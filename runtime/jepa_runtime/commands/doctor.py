"""``jepa-runtime doctor``: check whether this machine can run a model in real time."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.text import Text

from jepa_runtime.commands.arguments import open_console, writes_to_stdout
from jepa_runtime.commands.exit_status import ExitStatus
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
from jepa_runtime.recording import check_outputs
from jepa_runtime.util.output_files import file_paths, write_text

_STYLES = {
    Severity.ERROR: "bold red",
    Severity.WARNING: "yellow",
    Severity.UNKNOWN: "magenta",
    Severity.INFO: "cyan",
    Severity.OK: "green",
}


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        DoctorError: The root or its recorded facts cannot be read.
        JepaRuntimeError: The bundle is invalid, or a file cannot be written.
    """
    is_quiet = writes_to_stdout(args, "fix_script", "json")
    facts = LiveFacts() if args.root == Path("/") else RecordedFacts(args.root)
    read = file_paths(args.bundle, facts.path if isinstance(facts, RecordedFacts) else None)
    check_outputs(file_paths(args.fix_script, args.json), *read)
    requirements = None if args.bundle is None else Requirements.from_bundle(args.bundle)
    diagnosis = examine(System(args.root, facts), requirements)
    if args.fix_script is not None:
        write_text(args.fix_script, fix_script(diagnosis).rstrip("\n"))
    if args.json is not None:
        write_text(args.json, as_json(diagnosis))
    if not is_quiet:
        _show(diagnosis, verbose=bool(args.verbose))
    return ExitStatus.NEGATIVE if diagnosis.problems else ExitStatus.OK


def _show(diagnosis: Diagnosis, *, verbose: bool) -> None:
    console = open_console()
    # A string from a file may contain markup; Text is literal.
    console.print(Text(f"{diagnosis.machine.name} ({diagnosis.machine.architecture})", style="bold"))
    shown = [
        finding for finding in diagnosis.findings if verbose or finding.verdict.severity <= Severity.UNKNOWN
    ]
    for finding in shown:
        console.print(_finding_text(finding, verbose=verbose), soft_wrap=True, end="")
    counts = {level: 0 for level in Severity}
    for finding in diagnosis.findings:
        counts[finding.verdict.severity] += 1
    console.print(
        "\n" + ", ".join(f"{count} {level.name.lower()}" for level, count in counts.items() if count)
    )


def _finding_text(finding: Finding, *, verbose: bool) -> Text:
    """Return one line each for the finding, for its evidence, and for the commands that fix it."""
    verdict = finding.verdict
    text = Text("\n").append(f"{verdict.severity.name.lower()} {finding.check}", _STYLES[verdict.severity])
    text.append(f": {verdict.summary}\n")
    if verbose or verdict.severity <= Severity.WARNING:
        for evidence in verdict.evidence:
            text.append(f"  {evidence.source}: {evidence.value}\n", "dim")
    for step in verdict.remedy:
        text.append(f"  {step}\n" if step.startswith("#") else f"  $ {step}\n", "bold")
    return text
