"""An update that is supervised while it can still be stopped, and the measurements of its gate."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jepa_runtime.errors import StorageError
from jepa_runtime.ota import robot, state
from jepa_runtime.ota.audit_log import AuditLog
from jepa_runtime.ota.robot import ClientOpener, UpdateCallbacks, UpdateOptions
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.state_machine import SWITCHED

_GATE = ("probed", "compared", "not compared")
_GATE_STARTED = f"{Phase.STAGE} -> {Phase.PROBE}"
_AFTER_STAGE = {Phase.PROBE, Phase.SHADOW, Phase.ARMED, *SWITCHED}


class Suspend(KeyboardInterrupt):
    """Suspends the update in progress: its order has changed, or it waits for the server."""


@dataclass(frozen=True)
class UpdateRun:
    """The state in which an update ended or was suspended.

    Attributes:
        state: The stored state.
        repository_answered: Whether the repository had responded.
        gate_started: Whether the gate had started.
    """

    state: State
    repository_answered: bool = False
    gate_started: bool = False


def run_update(
    root: Path,
    open_client: ClientOpener,
    heartbeat: Callable[[], None],
    *,
    version: str,
    begin: bool,
    watch: Callable[[State, int | None], None],
) -> UpdateRun:
    """Run an update of a robot.

    Args:
        root: The robot's folder.
        open_client: Opens the update client.
        heartbeat: The heartbeat.
        version: The only version that may be installed.
        begin: Whether to begin an update if none is in progress.
        watch: Called at every heartbeat with the state, and with the percentage of the release that is
            downloaded; may raise :class:`Suspend`.

    Raises:
        UpdateError: The update cannot run now.
        KeyboardInterrupt: ``heartbeat`` did.
    """
    latest, percent = state.load(root / robot.STATE), 0
    phases: set[Phase] = set()

    def on_state(after: State, _: str) -> None:
        nonlocal latest
        latest = after
        phases.add(after.phase)

    def progress(done: int, total: int) -> None:
        nonlocal percent
        percent = 10 * (10 * done // max(total, 1))

    def report_progress() -> None:
        heartbeat()
        watch(latest, percent if latest.phase is Phase.DOWNLOAD else None)

    options = UpdateOptions(only_version=version)
    callbacks = UpdateCallbacks(on_state=on_state, on_progress=progress)
    with (
        suppress(Suspend),
        open_client(heartbeat=report_progress, callbacks=callbacks, options=options) as client,
    ):
        client.update(begin=begin)
    return UpdateRun(
        state.load(root / robot.STATE),
        repository_answered=bool(phases - {Phase.IDLE, Phase.CHECK}),
        gate_started=bool(phases & _AFTER_STAGE),
    )


def gate_measurements(root: Path, now: Callable[[], datetime]) -> list[str]:
    """Return the measurements of the gate in the last update as sentences, as far as the log is readable."""
    found: list[str] = []
    with suppress(StorageError):
        for entry in AuditLog(root / robot.AUDIT, now).entries():
            if entry.event == _GATE_STARTED:
                found = []
            elif entry.event in _GATE:
                facts = ", ".join(f"{key} {value}" for key, value in entry.facts.items())
                found.append(f"{entry.event}: {facts}")
    return found
