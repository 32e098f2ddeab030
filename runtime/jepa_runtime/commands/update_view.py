"""The output of ``jepa-runtime update``; text from a repository or a fleet cannot control the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from jepa_runtime.errors import printable
from jepa_runtime.ota.audit_log import Entry
from jepa_runtime.ota.state import RESULT_NAMES, Installed, Phase, State

_STEPS = {
    Phase.CHECK: "checking the repository",
    Phase.DOWNLOAD: "downloading",
    Phase.VERIFY: "verifying every file",
    Phase.PROBE: "probing the candidate",
    Phase.SHADOW: "comparing the candidate with the active model",
    Phase.ARMED: "waiting for a moment to switch",
    Phase.SWITCH: "switching",
    Phase.OBSERVE: "observing the new model",
    Phase.ROLLBACK: "rolling back",
}


class Transfer:
    """Shows phases as lines, and a progress bar for downloads.

    Args:
        console: The console.
        has_frames: Whether the robot has a source of frames for shadow tests.
    """

    def __init__(self, console: Console, *, has_frames: bool) -> None:
        self._has_frames = has_frames
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._phase: Phase | None = None

    def __enter__(self) -> Transfer:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def progress(self, done: int, total: int) -> None:
        """Show the number of bytes present, and the total."""
        if self._task is None:
            self._task = self._bar.add_task("downloading", total=total)
        self._bar.update(self._task, completed=done, total=total)

    def on_state(self, state: State, reason: str) -> None:
        """Show a new state, and its reason."""
        step = _STEPS.get(state.phase)
        if state.phase is Phase.SHADOW and (state.current is None or not self._has_frames):
            step = None
        if reason and state.phase is not Phase.IDLE:
            self._bar.console.print(printable(reason), style="yellow", markup=False)
        if step is not None and state.phase is not self._phase:
            self._bar.console.print(f"{step} …", style="dim")
        self._phase = state.phase


def summary(state: State) -> str:
    """Return the result of the last update in one line."""
    active = "no model" if state.current is None else _name(state.current)
    reason = f" ({state.reason})" if state.reason else ""
    return printable(f"{RESULT_NAMES[state.result]}; active model: {active}{reason}")


def status_table(state: State, alarms: Sequence[str], hawkbit: str) -> Table:
    """Return a table of the models, the updates, and the alarms.

    Args:
        state: The stored state.
        alarms: The active alarms.
        hawkbit: When the hawkBit server last responded; empty: none is configured.
    """
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = {
        "active": _name(state.current),
        "last known good": _name(state.good),
        "previous": _name(state.previous),
        "last update": summary(state) if state.phase is Phase.IDLE else "",
        "in progress": "" if state.phase is Phase.IDLE else _in_progress(state),
        "pinned": "yes" if state.pinned else "",
        "last repository check": moment(state.checked_at),
        "last hawkBit response": hawkbit,
        "ALARM": "; ".join(alarms),
    }
    for key, value in rows.items():
        if value:
            # Text is literal; a string from a bundle or a message could contain markup.
            table.add_row(key, Text(printable(value), style="red" if key == "ALARM" else ""))
    for sha256, refusal in state.rejections.items():
        until = "permanently" if refusal.not_before is None else f"until {moment(refusal.not_before)}"
        times = "once" if refusal.times == 1 else f"{refusal.times} times"
        if refusal.undecided:
            times = "once" if refusal.undecided == 1 else f"{refusal.undecided} times"
        how = "undecided" if refusal.undecided else "rejected"
        table.add_row(f"{how} {sha256[:12]}", Text(printable(f"{times}, {until}: {refusal.reason}")))
    return table


def moment(at: datetime | None) -> str:
    """Return a time to the minute."""
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def history_table(entries: Sequence[Entry]) -> Table:
    """Return a table of log entries, the oldest first."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("time (UTC)", "event"):
        table.add_column(column)
    table.add_column("details", overflow="fold")
    for entry in entries:
        more = ", ".join(
            f"{key} {_plain(value)}" for key, value in entry.facts.items() if value not in ("", None)
        )
        table.add_row(entry.at[:19], Text(entry.event), Text(printable(more)))
    return table


def _name(installed: Installed | None) -> str:
    if installed is None:
        return "none"
    name = f"{installed.model_id} {installed.version}"
    return (
        f"{name}, release {installed.release_seq} of {installed.channel}" if installed.release_seq else name
    )


def _in_progress(state: State) -> str:
    release = "" if state.candidate is None else f" {_name(state.candidate.installed)}"
    return f"{state.phase}{release}" + (f" ({state.reason})" if state.reason else "")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
