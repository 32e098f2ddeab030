"""A diagnosis for programs, and as a script that mends what it found."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from jepa_runtime.doctor.examine import Diagnosis

SCHEMA = 1


def as_json(diagnosis: Diagnosis) -> str:
    """The diagnosis as docs/doctor.md describes it. New keys may come; one that changes raises ``schema``."""
    machine = diagnosis.machine
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "machine": {
            "kind": machine.kind,
            "name": machine.name,
            "architecture": machine.architecture,
            "npu_platform": machine.npu.platform if machine.npu else None,
        },
        "findings": [
            {
                "check": finding.check,
                "severity": finding.verdict.severity.name.lower(),
                "summary": finding.verdict.summary,
                "evidence": [asdict(seen) for seen in finding.verdict.evidence],
                "remedy": list(finding.verdict.remedy),
            }
            for finding in diagnosis.findings
        ],
    }
    return json.dumps(content, indent=2)


def fix_script(diagnosis: Diagnosis) -> str:
    """A POSIX shell script with the remedies of all errors and warnings, for a person to read and to run."""
    lines = [
        "#!/bin/sh",
        f"# Made by jepa-runtime doctor for: {_line(diagnosis.machine.name)}",
        "# Read it before you run it, and leave out what you do not want. The first step that fails ends it.",
        "set -eu",
    ]
    for finding in diagnosis.wrong:
        verdict = finding.verdict
        lines += ["", f"# {verdict.severity.name.lower()} {finding.check}: {_line(verdict.summary)}"]
        for step in verdict.remedy:
            again = step in lines and not step.startswith("#")
            lines.append(f"# done above: {step}" if again else step)
    return "\n".join([*lines, *([] if diagnosis.wrong else ["", "# There is nothing to mend."])]) + "\n"


def _line(text: str) -> str:
    """What a file of the machine says must not begin a line of a script."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
