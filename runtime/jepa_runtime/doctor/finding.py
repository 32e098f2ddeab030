"""Checks, their verdicts, and the commands that remedies share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from jepa_runtime.doctor.machine import Machine
from jepa_runtime.doctor.requirements import Requirements
from jepa_runtime.doctor.system import System


class Severity(IntEnum):
    """How severe a finding is; lower values are worse.

    ``ERROR``: a model cannot run on this machine, or not on its accelerator.
    ``WARNING``: a model runs, but with high or irregular latency, or not for long.
    ``UNKNOWN``: the check could not be decided.
    """

    ERROR = 0
    WARNING = 1
    UNKNOWN = 2
    INFO = 3
    OK = 4


@dataclass(frozen=True)
class Evidence:
    """A value and the path it was read from, or a command that shows it."""

    source: str
    value: str


@dataclass(frozen=True)
class Verdict:
    """The result of a check.

    Attributes:
        summary: What was found and why it matters, in one sentence.
        remedy: Shell commands that fix it, and comments (``# ...``) for steps that no command performs.
    """

    severity: Severity
    summary: str
    evidence: tuple[Evidence, ...] = ()
    remedy: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """The input of a check. ``requirements`` is None if no bundle was given."""

    system: System
    machine: Machine
    requirements: Requirements | None


@dataclass(frozen=True)
class Check:
    """One check and its documentation.

    Attributes:
        id: A stable name; programs that read the report rely on it.
        condition: What must be true.
        sources: Where the values are read.
        remedy: A short form of the proposed fix.
        run: Returns the verdict. An UndeterminedError becomes a verdict of severity ``UNKNOWN``.
        applies: Whether the check is relevant on this machine.
    """

    id: str
    condition: str
    sources: str
    remedy: str
    run: Callable[[Context], Verdict]
    applies: Callable[[Context], bool] = lambda context: True


@dataclass(frozen=True)
class Finding:
    """The verdict of a check."""

    check: str
    verdict: Verdict


def ok(summary: str, *evidence: Evidence) -> Verdict:
    """Return a verdict that requires no action."""
    return Verdict(Severity.OK, summary, evidence)


def info(summary: str, *evidence: Evidence) -> Verdict:
    """Return a verdict that is worth knowing but is not a problem."""
    return Verdict(Severity.INFO, summary, evidence)


def apply_system_files(context: Context, device: str) -> str:
    """Return the command that installs the system files for ``device``.

    It has an absolute path because sudo replaces ``PATH``.
    """
    return f"sudo {context.system.facts.program('jepa-runtime')} configs apply --device {device}"


def enable_jetson_service(context: Context, name: str) -> tuple[str, ...]:
    """Return the commands that install and start a service of the Jetson system files, also at boot."""
    return (
        apply_system_files(context, "jetson"),
        "sudo systemctl daemon-reload",
        f"sudo systemctl enable --now {name}.service",
    )


def pip_install(context: Context, requirement: str, prefix: str = "") -> str:
    """Return the command that installs a Python package into the examined environment.

    Args:
        context: The examined machine.
        requirement: The requirement specifier, quoted for a shell.
        prefix: Inserted before the interpreter and after sudo, such as ``"env NAME=value "``.
    """
    facts = context.system.facts
    sudo = "sudo " if facts.needs_root_to_install() else ""
    return f"{sudo}{prefix}{facts.program('python3')} -m pip install --upgrade {requirement}"
