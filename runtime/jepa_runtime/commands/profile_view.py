"""The output of ``jepa-runtime profile``: progress, and the results at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from jepa_runtime.commands.arguments import progress_on
from jepa_runtime.profiling.load_generator import Snapshot
from jepa_runtime.profiling.profile import Profile
from jepa_runtime.profiling.run_statistics import Distribution, RunStatistics, describe
from jepa_runtime.reports.html import ms
from jepa_runtime.telemetry.measurements import Energy, Reading
from jepa_runtime.util.percentiles import label
from jepa_runtime.util.statistics import format_ms


class Steps:
    """The progress of a profile on a terminal; silent elsewhere."""

    def __init__(self, console: Console) -> None:
        self._progress = progress_on(console)
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, title: str) -> None:
        """Show the current step, of unknown length."""
        self._progress.reset(self._task, description=title, total=None)

    def counter(self, title: str, total: int) -> Callable[[], None]:
        """Show the current step; the returned function counts one of its ``total`` parts."""
        self._progress.reset(self._task, description=title, total=total)
        return lambda: self._progress.advance(self._task)

    def live(self, snapshot: Snapshot) -> None:
        """Show the state of the main pass."""
        recent = snapshot.recent
        p50, p99, longest = (format_ms(value) for value in (recent.p50, recent.p99, recent.max))
        title = f"open loop: p50 {p50}, p99 {p99}, max {longest} ms"
        self._progress.update(self._task, description=title, completed=snapshot.sent, total=snapshot.of)


def show(profile: Profile, console: Console, *, verbose: bool = False) -> None:
    """Print the results of a profile.

    Args:
        profile: The profile.
        console: Where to print.
        verbose: Print why each sensor or stage is missing, not only which.
    """
    run = describe(profile.run)
    subject = profile.subject
    console.print(_latencies(profile, run))
    console.print(_intervals(run.response))
    console.print(_counts(profile, run))
    for parity in profile.parity:
        verdict = "[green]ok[/]" if parity.ok else "[bold red]NOT within the bundle's tolerance[/]"
        console.print(
            f"parity of the {parity.graph}: cosine mean {parity.mean_cosine:.6f}, "
            f"worst {parity.worst_cosine:.6f}: {verdict}"
        )
    _show_passes(profile, console)
    _show_machine(profile.readings, profile.energy, console, verbose=verbose)
    _show_absent("not measured", profile.run.absent, console, verbose=verbose)
    for note in profile.notes:
        console.print(f"[dim]{escape(note)}[/]")
    console.print(
        f"[dim]{escape(profile.environment.cpu)}, {profile.environment.cores} cores; {subject.engine} "
        f"{escape(subject.engine_version or '')}[/]"
    )


def _latencies(profile: Profile, run: RunStatistics) -> Group:
    subject = profile.subject
    rate = "closed loop" if run.rate_hz is None else f"{run.rate_hz:g} Hz, open loop"
    model = f"{subject.model_id} {subject.model_version} {subject.precision}"
    work = f"{subject.futures} futures x {subject.horizon} steps"
    if subject.threads is not None:
        work += f", {subject.threads} thread{'s' * (subject.threads > 1)}"
    title = escape(f"{model} on {subject.engine} ({subject.device}), {work}; {rate}")
    caption = (
        "response: from the scheduled time of each frame to the first result of it or a newer one; latency: "
        "of processed frames; peak age: of a result when the next one replaces it"
    )
    table = Table()
    table.add_column("ms", no_wrap=True)
    for column in ("p50", "p90", "p95", "p99", "p99.9", "max", "n"):
        table.add_column(column, justify="right")
    _add(table, "[bold]response[/]", run.response)
    _add(table, "latency", run.latency)
    table.add_section()
    for name, measured in run.stages.items():
        _add(table, f"  {name}", measured)
        if name in run.device:
            _add(table, "    device clock", run.device[name])
    _add(table, "  residual", run.residual)
    table.add_section()
    _add(table, "peak age", run.peak_age)
    _add(table, "period jitter", run.period_jitter)
    # A table wraps its own title and caption at its width, also in a pipe.
    return Group(f"[italic]{title}[/]", table, f"[dim]{caption}[/]")


def _add(table: Table, name: str, measured: Distribution) -> None:
    quantiles = [format_ms(quantile.value) for quantile in measured.quantiles().values()]
    table.add_row(name, *quantiles, format_ms(measured.max), str(measured.n))


def _intervals(measured: Distribution) -> str:
    intervals = [
        f"{label(name)} above {quantile.low:.2f}"
        if quantile.high is None
        else f"{label(name)} {quantile.low:.2f} to {quantile.high:.2f}"
        for name, quantile in measured.quantiles().items()
        if quantile.low is not None
    ]
    return f"95 % confidence intervals of the response: {', '.join(intervals) or 'too few samples'}"


def _counts(profile: Profile, run: RunStatistics) -> str:
    counts = [f"{run.processed} of {run.frames} frames processed, {run.dropped} dropped, {run.failed} failed"]
    if run.misses is not None:
        counts.append(f"{run.misses} missed the deadline of {profile.run.deadline_ms:.4g} ms")
        counts.append(f"at most {run.longest_miss_run} in a row")
    if run.slack is not None and run.slack.p99.value is not None:
        counts.append(f"slack at p99 {run.slack.p99.value:.2f} ms")
    if run.achieved_hz is not None:
        counts.append(f"{run.achieved_hz:.2f} results per second")
    return "; ".join(counts)


def _show_passes(profile: Profile, console: Console) -> None:
    if profile.closed_loop is not None:
        closed = describe(profile.closed_loop)
        highest, p50 = closed.achieved_hz or 0, format_ms(closed.latency.p50.value)
        console.print(f"closed loop: {highest:.1f} Hz, p50 {p50} ms ({closed.frames} frames)")
    if profile.sweep is not None:
        points = ", ".join(
            f"{point.rate_hz:g} Hz {format_ms(point.p99_ms)}" for point in profile.sweep.points
        )
        knee_hz = profile.sweep.knee_hz
        knee = "no sustained rate" if knee_hz is None else f"highest sustained rate {knee_hz:g} Hz"
        console.print(f"sweep: {knee} (p99 by rate: {points})")
    for start in profile.cold_starts:
        phases = ", ".join(
            f"{name} {median(values):.0f}"
            for name, values in start.phases_ms.items()
            if not name.startswith("steady")
        )
        count, total = len(start.total_ms), median(start.total_ms)
        console.print(f"cold start, cache {start.cache}, medians of {count}: {total:.0f} ms ({phases})")
    for gap in profile.idle_gaps:
        console.print(
            f"after {gap.gap_s:g} s idle: {min(gap.latency_ms):.2f} to {max(gap.latency_ms):.2f} ms "
            f"({len(gap.latency_ms)} times)"
        )
    for graph in dict.fromkeys(layer.graph for layer in profile.layers):
        layers = [layer for layer in profile.layers if layer.graph == graph]
        slowest = max(layers, key=lambda layer: layer.mean_ms)
        console.print(
            f"{graph}: {len(layers)} operations; slowest: {escape(slowest.name)} ({slowest.kind}) "
            f"{slowest.mean_ms:.3f} ms of {sum(layer.mean_ms for layer in layers):.3f} ms"
        )


def _show_machine(readings: list[Reading], energy: Energy | None, console: Console, *, verbose: bool) -> None:
    counts = [reading for reading in readings if reading.values and reading.unit == "count"]
    others = [reading for reading in readings if reading.values and reading.unit != "count"]
    means = [f"{each.name} {ms(sum(each.values) / len(each.values))} {each.unit}" for each in others]
    console.print(escape("machine, mean values: " + ", ".join(means)))
    console.print(
        escape("machine, final counts: " + ", ".join(f"{each.name} {each.values[-1]:g}" for each in counts))
    )
    absent = {reading.name: reading.absent for reading in readings if reading.absent is not None}
    if energy is not None and energy.per_frame_j is None:
        absent["energy per frame"] = energy.absent or "unknown"
    _show_absent("not available", absent, console, verbose=verbose)
    if energy is not None and energy.per_frame_j is not None:
        console.print(f"energy per frame: {energy.per_frame_j * 1e3:.1f} mJ above idle")


def _show_absent(title: str, absent: Mapping[str, str], console: Console, *, verbose: bool) -> None:
    """Print one line with what is missing, or with ``verbose`` one line for each reason."""
    if absent and not verbose:
        console.print(f"[dim]{title}: {', '.join(absent)} (-v: why)[/]")
        return
    for reason in dict.fromkeys(absent.values()):
        names = ", ".join(name for name, why in absent.items() if why == reason)
        console.print(f"[dim]{names}: {title}: {escape(reason)}[/]")
