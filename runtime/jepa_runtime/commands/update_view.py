"""What ``jepa-runtime update`` shows. What a repository or a fleet says steers no terminal."""

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
from jepa_runtime.ota.state import Installed, Phase, State

_DOING = {
    Phase.CHECK: "asking the repository",
    Phase.DOWNLOAD: "fetching",
    Phase.VERIFY: "checking every file",
    Phase.PROBE: "trying it in a process of its own",
    Phase.SHADOW: "comparing it with what serves",
    Phase.ARMED: "waiting for a moment to switch",
    Phase.SWITCH: "switching",
    Phase.OBSERVE: "watching how it serves",
    Phase.ROLLBACK: "going back",
}


class Transfer:
    """Phases as lines, and a bar for bytes while they come.

    Args:
        compares: whether the robot names a source on which candidates are compared with what serves.
    """

    def __init__(self, console: Console, *, compares: bool) -> None:
        self._compares = compares
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
        """Show how many bytes are there, and of how many."""
        if self._task is None:
            self._task = self._bar.add_task("fetching", total=total)
        self._bar.update(self._task, completed=done, total=total)

    def tell(self, state: State, why: str) -> None:
        """Show a new state, and why it came to it."""
        doing = _DOING.get(state.phase)
        if state.phase is Phase.SHADOW and (state.current is None or not self._compares):
            doing = None
        if why and state.phase is not Phase.IDLE:
            self._bar.console.print(printable(why), style="yellow", markup=False)
        if doing is not None and state.phase is not self._phase:
            self._bar.console.print(f"{doing} …", style="dim")
        self._phase = state.phase


def summary(state: State) -> str:
    """How the last update ended, in one line."""
    serves = "nothing serves" if state.current is None else f"{_name(state.current)} serves"
    how = {
        "none": "no update was looked for",
        "updated": "updated",
        "unchanged": "nothing installed",
        "refused": "refused",
        "undecided": "undecided",
        "failed": "failed",
        "reverted": "gone back",
    }[state.result]
    return printable(f"{how}: {serves}" + (f" ({state.reason})" if state.reason else ""))


def status_table(state: State, alarms: Sequence[str], hawkbit: str) -> Table:
    """What serves, how updates stand, what needs a person, and when hawkBit answered last; empty: it is not
    asked."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = {
        "serves": _name(state.current),
        "good": _name(state.good),
        "before": _name(state.previous),
        "last update": summary(state) if state.phase is Phase.IDLE else "",
        "in work": "" if state.phase is Phase.IDLE else _in_work(state),
        "pinned": "yes" if state.pinned else "",
        "repository asked": moment(state.checked_at),
        "hawkBit asked": hawkbit,
        "ALARM": "; ".join(alarms),
    }
    for key, value in rows.items():
        if value:
            # Text takes what a bundle or a message says literally; a string might be markup.
            table.add_row(key, Text(printable(value), style="red" if key == "ALARM" else ""))
    for sha256, refusal in state.refused.items():
        until = "for good" if refusal.not_before is None else f"until {moment(refusal.not_before)}"
        times = "once" if refusal.times == 1 else f"{refusal.times} times"
        if refusal.undecided:
            times = "once" if refusal.undecided == 1 else f"{refusal.undecided} times"
        how = "undecided" if refusal.undecided else "refused"
        table.add_row(f"{how} {sha256[:12]}", Text(printable(f"{times}, {until}: {refusal.reason}")))
    return table


def moment(at: datetime | None) -> str:
    """When something was last, to the minute."""
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def history_table(entries: Sequence[Entry]) -> Table:
    """Entries of the log, the oldest first."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("at (UTC)", "what"):
        table.add_column(column)
    table.add_column("more", overflow="fold")
    for entry in entries:
        more = ", ".join(
            f"{key} {_plain(value)}" for key, value in entry.facts.items() if value not in ("", None)
        )
        table.add_row(entry.at[:19], Text(entry.event), Text(printable(more)))
    return table


def _name(installed: Installed | None) -> str:
    if installed is None:
        return "nothing"
    name = f"{installed.model_id} {installed.version}"
    return (
        f"{name}, release {installed.release_seq} of {installed.channel}" if installed.release_seq else name
    )


def _in_work(state: State) -> str:
    release = "" if state.work is None else f" {_name(state.work.installed)}"
    return f"{state.phase}{release}" + (f" ({state.reason})" if state.reason else "")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
