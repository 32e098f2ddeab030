"""Run every check that applies to a machine."""

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
    """The findings for one machine.

    Attributes:
        findings: The most severe first; findings of equal severity in the documented order of their checks.
    """

    machine: Machine
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The errors and warnings."""
        return tuple(finding for finding in self.findings if finding.verdict.severity <= Severity.WARNING)


def examine(system: System, requirements: Requirements | None = None) -> Diagnosis:
    """Run all applicable checks, including those of a bundle if its requirements are given.

    A check that cannot be decided produces a finding of severity ``UNKNOWN``.
    """
    machine = detect(system)
    context = Context(system, machine, requirements)
    findings = [Finding(check.id, _verdict(check, context)) for check in CHECKS if check.applies(context)]
    if machine.uncertainty:
        summary = f"the kind of machine could not be determined reliably: {machine.uncertainty}"
        findings.insert(0, Finding("machine", Verdict(Severity.UNKNOWN, summary)))
    return Diagnosis(machine, tuple(sorted(findings, key=lambda finding: finding.verdict.severity)))


def _verdict(check: Check, context: Context) -> Verdict:
    try:
        return check.run(context)
    except UndeterminedError as error:
        return Verdict(Severity.UNKNOWN, f"could not be determined: {error}")
