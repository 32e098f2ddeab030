"""An update that is watched while it can still be stopped, and what its gate measured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jepa_runtime.errors import StorageError
from jepa_runtime.ota import robot, state
from jepa_runtime.ota.audit_log import AuditLog
from jepa_runtime.ota.client import Client
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.state_machine import SWITCHED

Opened = Callable[..., AbstractContextManager[Client]]
_GATE = ("probed", "compared", "not compared")
_TRIED = f"{Phase.STAGE} -> {Phase.PROBE}"
_AFTER_STAGE = {Phase.PROBE, Phase.SHADOW, Phase.ARMED, *SWITCHED}


class Leave(KeyboardInterrupt):
    """The update in work is left as it is: the server has something else to say, or is to be waited for."""


@dataclass(frozen=True)
class Run:
    """A state in which an update ended or was left.

    Attributes:
        asked: whether the repository had answered.
        tried: whether the gate had begun.
    """

    state: State
    asked: bool = False
    tried: bool = False


def updated(
    root: Path,
    opened: Opened,
    alive: Callable[[], None],
    *,
    version: str,
    begin: bool,
    watch: Callable[[State, int | None], None],
) -> Run:
    """Update a robot.

    Args:
        version: that may be installed.
        begin: whether to begin an update if none is in work.
        watch: is told the state at every sign of life, and how many per cent of a release are fetched; may
            raise :class:`Leave`.

    Raises:
        UpdateError: it cannot be done now.
        KeyboardInterrupt: ``alive`` did.
    """
    latest, percent = state.load(root / robot.STATE), 0
    through: set[Phase] = set()

    def tell(after: State, _: str) -> None:
        nonlocal latest
        latest = after
        through.add(after.phase)

    def progress(done: int, total: int) -> None:
        nonlocal percent
        percent = 10 * (10 * done // max(total, 1))

    def going_on() -> None:
        alive()
        watch(latest, percent if latest.phase is Phase.DOWNLOAD else None)

    with (
        suppress(Leave),
        opened(alive=going_on, tell=tell, progress=progress, only_version=version) as client,
    ):
        client.update(begin=begin)
    return Run(
        state.load(root / robot.STATE),
        asked=bool(through - {Phase.IDLE, Phase.CHECK}),
        tried=bool(through & _AFTER_STAGE),
    )


def measured(root: Path, now: Callable[[], datetime]) -> list[str]:
    """What the gate did in the last update, in sentences, as far as the log can be read."""
    found: list[str] = []
    with suppress(StorageError):
        for entry in AuditLog(root / robot.AUDIT, now).entries():
            if entry.event == _TRIED:
                found = []
            elif entry.event in _GATE:
                facts = ", ".join(f"{key} {value}" for key, value in entry.facts.items())
                found.append(f"{entry.event}: {facts}")
    return found
