"""What a check says, and what a check is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from jepa_runtime.doctor.machine import Machine
from jepa_runtime.doctor.requirements import Requirements
from jepa_runtime.doctor.system import System


class Severity(IntEnum):
    """The worst first. ``ERROR``: a model for this machine cannot run, or not on its accelerator;
    ``WARNING``: it runs, but late, unevenly or not for long; ``UNKNOWN``: it could not be told."""

    ERROR = 0
    WARNING = 1
    UNKNOWN = 2
    INFO = 3
    OK = 4


@dataclass(frozen=True)
class Evidence:
    """Where it was read (a path, or a command that shows it), and what stood there."""

    source: str
    value: str


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        summary: one sentence.
        remedy: shell commands that mend it, and comments (``# ...``) on what no command does.
    """

    severity: Severity
    summary: str
    evidence: tuple[Evidence, ...] = ()
    remedy: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """What a check may look at. ``needs`` is None if no bundle was named."""

    system: System
    machine: Machine
    needs: Requirements | None


@dataclass(frozen=True)
class Check:
    """One question to a machine.

    Attributes:
        id: its name, for good: programs that read the report go by it.
        what: what must hold.
        reads: where it looks.
        remedy: what it proposes.
        run: gives the verdict; an UndeterminedError becomes one.
        applies: whether it makes sense on this machine.
    """

    id: str
    what: str
    reads: str
    remedy: str
    run: Callable[[Context], Verdict]
    applies: Callable[[Context], bool] = lambda context: True


@dataclass(frozen=True)
class Finding:
    """The verdict of a check."""

    check: str
    verdict: Verdict


def ok(summary: str, *evidence: Evidence) -> Verdict:
    """All is well."""
    return Verdict(Severity.OK, summary, evidence)


def info(summary: str, *evidence: Evidence) -> Verdict:
    """Worth knowing; nothing is wrong."""
    return Verdict(Severity.INFO, summary, evidence)


def configs(context: Context, device: str) -> str:
    """The command that installs our system files. sudo looks for programs in places of its own."""
    return f"sudo {context.system.facts.program('jepa-runtime')} configs apply --device {device}"


def service(context: Context, name: str) -> tuple[str, ...]:
    """The commands that have a service of a Jetson's system files run, now and at each start."""
    return (
        configs(context, "jetson"),
        "sudo systemctl daemon-reload",
        f"sudo systemctl enable --now {name}.service",
    )


def install(context: Context, what: str, under: str = "") -> str:
    """The command that installs a Python package, named for a shell, where it was looked for.

    Args:
        under: what comes before it, behind sudo.
    """
    facts = context.system.facts
    sudo = "sudo " if facts.needs_root_to_install() else ""
    return f"{sudo}{under}{facts.program('python3')} -m pip install --upgrade {what}"
