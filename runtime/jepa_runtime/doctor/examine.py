"""Runs every check that applies."""

from __future__ import annotations

from dataclasses import dataclass

from jepa_runtime.doctor.checks import CHECKS
from jepa_runtime.doctor.finding import Check, Context, Finding, Severity, Verdict
from jepa_runtime.doctor.machine import Machine, detect
from jepa_runtime.doctor.requirements import Requirements
from jepa_runtime.doctor.system import System
from jepa_runtime.errors import UndeterminedError


@dataclass(frozen=True)
class Diagnosis:
    """What was found on a machine; the worst first, and checks of one severity in their documented order."""

    machine: Machine
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """Errors and warnings."""
        return tuple(finding for finding in self.findings if finding.verdict.severity <= Severity.WARNING)


def examine(system: System, needs: Requirements | None = None) -> Diagnosis:
    """Examine a machine, for a bundle if its needs are given. What cannot be told is a finding too."""
    machine = detect(system)
    context = Context(system, machine, needs)
    findings = [Finding(check.id, _verdict(check, context)) for check in CHECKS if check.applies(context)]
    if machine.doubt:
        doubt = Verdict(Severity.UNKNOWN, f"which machine this is cannot be told for sure: {machine.doubt}")
        findings.insert(0, Finding("machine", doubt))
    return Diagnosis(machine, tuple(sorted(findings, key=lambda finding: finding.verdict.severity)))


def _verdict(check: Check, context: Context) -> Verdict:
    try:
        return check.run(context)
    except UndeterminedError as error:
        return Verdict(Severity.UNKNOWN, f"cannot be told: {error}")
