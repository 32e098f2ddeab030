"""Terminal output of the profiler: a panel during the run, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from jepa_ros.profiler.frame_ledger import FrameLedger
from jepa_runtime.profiling import Profile, device_times, late_frames, stage_order, stage_times
from jepa_runtime.util import format_ms, summarize

_PERIOD_S = 1.0
_LONGEST_S = 5.0


class View:
    """Show the progress of a run, only on a terminal.

    Redrawing takes milliseconds in the measuring process, so it waits until no image is in progress. If one
    always is, the model is overloaded, and an occasional redraw makes no difference.
    """

    def __init__(self, title: str, duration_s: float, console: Console) -> None:
        self._title = title
        self._duration_s = duration_s
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )
        self._drawn_at = time.monotonic()

    def show(self, ledger: FrameLedger, warning: str) -> None:
        """Redraw if the period has passed and no image is in progress."""
        since_s = time.monotonic() - self._drawn_at
        if self._live is None or since_s < (_PERIOD_S if ledger.idle else _LONGEST_S):
            return
        self._drawn_at = time.monotonic()
        latency = summarize(ledger.recent_ms)
        grid = Table.grid(padding=(0, 2))
        grid.add_row("time", f"{ledger.sent / ledger.rate_hz:.0f} of {self._duration_s:g} s")
        grid.add_row("images", f"{ledger.processed} of {ledger.sent} processed")
        grid.add_row(
            "end to end",
            f"p50 {format_ms(latency.p50)} · p99 {format_ms(latency.p99)} · max {format_ms(latency.max)} ms"
            f" (last {latency.n})",
        )
        if warning:
            grid.add_row("world_model", Text(warning, style="bold red"))
        self._live.update(Panel(grid, title=Text(self._title), expand=False), refresh=True)

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()


def summary(profile: Profile) -> Panel:
    """Return a summary of the profile."""
    run = profile.run
    facts = Table.grid(padding=(0, 2))
    frames = len(run.scheduled_s) + len(run.dropped_s) + len(run.failed_s)
    facts.add_row("images", f"{len(run.scheduled_s)} of {frames} processed")
    facts.add_row("dropped, failed", f"{len(run.dropped_s)}, {len(run.failed_s)}")
    if (late := late_frames(run)) is not None:
        facts.add_row(f"deadline misses ({run.deadline_ms:.4g} ms)", str(late.sum()))
    subject = profile.subject
    engine = f"{subject.precision} on {subject.engine} ({subject.device})"
    facts.add_row("model", f"{subject.model_id} {subject.model_version}, {engine}")
    if profile.sweep is not None:
        knee_hz = profile.sweep.knee_hz
        facts.add_row("highest sustained rate", "none" if knee_hz is None else f"{knee_hz:g} Hz")
    parts: list[RenderableType] = [
        facts,
        _stages(profile),
        *(Text(f"note: {note}") for note in profile.notes),
    ]
    return Panel(Group(*parts), title="from scheduled image to futures received", expand=False)


def _stages(profile: Profile) -> Table:
    run = profile.run
    rows = {"end to end": summarize(run.latency_ms)}
    for name in stage_order(run.stages_ms):
        rows[name] = summarize(stage_times(run, name))
        if name in run.device_ms:
            rows[f"{name}, device clock"] = summarize(device_times(run, name))
    rows["residual"] = summarize(_residual(run.latency_ms, list(run.stages_ms.values())))
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("ms")
    for column in ("p50", "p95", "p99", "max", "n"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *row.cells())
    return table


def _residual(latency_ms: Sequence[float], stages_ms: Sequence[Sequence[float]]) -> list[float]:
    return [total - sum(parts) for total, *parts in zip(latency_ms, *stages_ms, strict=True)]
