"""Terminal views of the monitor node: a table that is redrawn in place, or one line per period."""

from __future__ import annotations

import math
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus
from jepa_msgs.msg import EpisodeResult, ModelInfo, PlannerStatus, Surprise

from jepa_runtime.errors import printable
from jepa_runtime.util import format_ms, summarize

_BARS = "▁▂▃▄▅▆▇█"
_LEVELS = ("OK", "WARN", "ERROR", "STALE")
_COLORS = ("green", "yellow", "red", "magenta")
_STATES = ("idle", "seeking", "reached", "stuck", "held")


@dataclass
class GraphSnapshot:
    """Hold the latest state of the graph, and the latencies and energies of the last few seconds."""

    model: str = "no model yet"
    elapsed_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    rates_hz: dict[str, float] = field(default_factory=dict)
    e2e_ms: deque[float] = field(default_factory=lambda: deque(maxlen=300))
    energies: deque[float] = field(default_factory=lambda: deque(maxlen=60))
    state: str = _STATES[0]
    surprise: str = "none yet"
    health: dict[str, tuple[int, str]] = field(default_factory=dict)
    episodes: list[str] = field(default_factory=list)
    recorded: str = ""

    def set_model(self, info: ModelInfo) -> None:
        """Set the active model."""
        self.model = printable(
            f"{info.model_id} {info.version}, {info.precision} on {info.engine}:{info.device}:"
            f" {info.num_samples} futures of {info.horizon} steps, {info.step_s:g} s each"
        )

    def add_planner_status(self, status: PlannerStatus) -> None:
        """Add a status of any planner, including states that this version does not know."""
        known = status.state < len(_STATES)
        self.state = _STATES[status.state] if known else f"state {status.state}"
        for values, value in ((self.e2e_ms, status.e2e_ms), (self.energies, status.energy)):
            if math.isfinite(value):
                values.append(value)

    def set_surprise(self, surprise: Surprise) -> None:
        """Set the latest surprise."""
        mark = "  SURPRISED" if surprise.surprising else ""
        self.surprise = f"{surprise.value:.3f} (threshold {surprise.threshold:.3f}){mark}"

    def add_episode(self, result: EpisodeResult) -> None:
        """Add the result of an episode."""
        ending = f"after {result.duration_s:.1f} s, {result.distance_m:.2f} m from the goal"
        self.episodes.append(printable(f"{result.index}: {result.outcome} {ending}"))

    def set_diagnostics(self, status: DiagnosticStatus) -> None:
        """Set the diagnostics of a node."""
        self.health[printable(status.name)] = min(status.level[0], 3), printable(status.message)

    def line(self) -> str:
        """Return a summary in one line."""
        e2e = summarize(self.e2e_ms)
        worst = max(self.health.items(), key=lambda item: item[1][0], default=("", (0, "no diagnostics yet")))
        reached = sum("reached" in episode for episode in self.episodes)
        rates = f"images {self.rate('image_raw'):.1f} Hz  futures {self.rate('futures'):.1f} Hz"
        latency = f"end to end p50 {format_ms(e2e.p50)} max {format_ms(e2e.max)} ms"
        goals = f"{self.state}  goals {reached}/{len(self.episodes)}"
        return f"[{self.elapsed_s:5.1f} s] {rates}  {latency}  {goals}  {_LEVELS[worst[1][0]]}: {worst[1][1]}"

    def rate(self, ending: str) -> float:
        """Return the message rate [Hz] on the topics whose names end with ``ending``."""
        return sum(rate for topic, rate in self.rates_hz.items() if topic.endswith(ending))


def sparkline(values: deque[float]) -> str:
    """Return ``values`` as a row of bars, scaled from the lowest to the highest."""
    if not values:
        return ""
    low, span = min(values), (max(values) - min(values)) or 1.0
    return "".join(_BARS[min(7, int((value - low) / span * 8))] for value in values)


class Terminal:
    """Redraw the snapshot in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(), auto_refresh=False)
        self._live.start()

    def show(self, picture: GraphSnapshot) -> None:
        """Draw a snapshot."""
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        e2e = summarize(picture.e2e_ms)
        grid.add_row("model", Text(picture.model))
        grid.add_row(
            "rates", f"images {picture.rate('image_raw'):.1f} Hz · futures {picture.rate('futures'):.1f} Hz"
        )
        grid.add_row(
            "end to end", f"p50 {format_ms(e2e.p50)} · p99 {format_ms(e2e.p99)} · max {format_ms(e2e.max)} ms"
        )
        grid.add_row("planner", f"{picture.state}  energy {sparkline(picture.energies)}")
        grid.add_row("surprise", picture.surprise)
        grid.add_row("episodes", Text("\n".join(picture.episodes[-5:]) or "first one in progress"))
        for name, (level, message) in sorted(picture.health.items()):
            grid.add_row(Text(name), Text(f"{_LEVELS[level]} {message}", style=_COLORS[level]))
        if picture.recorded:
            grid.add_row("recording", Text(picture.recorded))
        self._live.update(
            Panel(grid, title=f"jepa-edge · {picture.elapsed_s:.0f} s", width=100), refresh=True
        )

    def close(self) -> None:
        """Leave the last view on the screen. A closed terminal is no error."""
        with suppress(OSError):
            self._live.stop()


class PlainLines:
    """Print the snapshot as one line per period, for logs."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._next_s = period_s

    def show(self, picture: GraphSnapshot) -> None:
        """Print a line if the period has passed."""
        if picture.elapsed_s >= self._next_s:
            self._next_s += self._period_s
            print(picture.line(), flush=True)

    def close(self) -> None:
        """Do nothing: no resource is open."""
