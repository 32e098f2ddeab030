"""The parts of a profile's report beyond its run: rates, cold start, machine, layers. None: not measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from statistics import fmean, median

from jepa_runtime.profiling.profile import ColdStart, Layer, Profile, Run, Sweep
from jepa_runtime.profiling.run_statistics import describe
from jepa_runtime.reports import profile_charts as charts
from jepa_runtime.reports.html import (
    Html,
    block,
    bullets,
    card,
    facts,
    figure,
    html,
    ms,
    note,
    numbers,
    section,
    with_unit,
    words,
)
from jepa_runtime.telemetry.measurements import Energy, Reading

_TOP_LAYERS = 20


def throughput(profile: Profile) -> Html | None:
    """The sweep over rates and the closed loop."""
    parts = []
    if profile.closed_loop is not None:
        parts.append(_closed_loop(profile.closed_loop))
    if profile.sweep is not None:
        parts.append(_sweep(profile.sweep))
    return section("How fast it can go", *parts) if parts else None


def _closed_loop(run: Run) -> Html:
    told = describe(run)
    rate = "-" if told.achieved_hz is None else f"{told.achieved_hz:.4g} Hz"
    return block(
        "cards",
        [
            card("Highest rate, closed loop", rate, f"{told.frames} frames, as fast as it went"),
            card("Time per frame, p50", with_unit(told.latency.p50.value)),
            card("Time per frame, p99", with_unit(told.latency.p99.value)),
        ],
    )


def _sweep(measured: Sweep) -> Html:
    limit = f"{100 * measured.max_late:g} %"
    knee = (
        f"No rate was kept up with: more than {limit} of the frames were dropped or later than one period."
        if measured.knee_hz is None
        else f"The knee, {measured.knee_hz:g} Hz, is the highest rate at which at most {limit} of the frames "
        "were dropped or later than one period."
    )
    rows = [
        [
            f"{point.rate_hz:g} Hz",
            str(point.frames),
            str(point.dropped),
            str(point.misses),
            ms(point.p50_ms),
            ms(point.p99_ms),
            ms(point.max_ms),
        ]
        for point in measured.points
    ]
    chart = figure(charts.sweep(measured), knee, title="Latency over rate, open loop", legend=["p50", "p99"])
    table = numbers(["rate", "frames", "dropped", "missed", "p50", "p99", "max"], rows)
    return block("columns", [chart, table])


def cold_start(profile: Profile) -> Html | None:
    """From nothing to steady, and after standing idle."""
    figures = []
    if profile.cold_starts:
        figures.append(_cold_chart(profile.cold_starts))
    if profile.idle_gaps:
        figures.append(
            figure(
                charts.idle_gaps(profile.idle_gaps),
                "The first frame after the pipeline stood idle, from submitting it to its result; bars: the "
                "median.",
                title="After standing idle",
            )
        )
    if not figures:
        return None
    table = [_cold_table(profile.cold_starts)] if profile.cold_starts else []
    return section("Cold start and idle", block("columns", figures), *table)


def _cold_chart(starts: Sequence[ColdStart]) -> Html:
    phases = [phase for phase in _phases(starts) if not phase.startswith("steady")]
    return figure(
        charts.cold_start(starts, phases),
        "Medians of the repetitions, each in a fresh process; cache: of compiled models.",
        title="From process start to the first futures",
        legend=[words(phase) for phase in phases],
    )


def _cold_table(starts: Sequence[ColdStart]) -> Html:
    rows = [
        [words(phase), *(_spread(start.phases_ms.get(phase, [])) for start in starts)]
        for phase in _phases(starts)
    ]
    rows.append(["total", *(_spread(start.total_ms) for start in starts)])
    head = ["ms", *(f"{charts.CACHES[start.cache]}, n = {len(start.total_ms)}" for start in starts)]
    return numbers(head, rows)


def _phases(starts: Sequence[ColdStart]) -> list[str]:
    return list(dict.fromkeys(phase for start in starts for phase in start.phases_ms))


def _spread(times: Sequence[float]) -> Html:
    """Median, least and greatest."""
    if not times:
        return Html("-")
    return Html(f"{ms(median(times))}<small>{ms(min(times))} to {ms(max(times))}</small>")


def machine(profile: Profile) -> Html | None:
    """What the machine did meanwhile, and the energy that a frame took."""
    present = [measured for measured in profile.readings if measured.values]
    absent = [
        f"{measured.name}: {measured.absent or 'no readings'}"
        for measured in profile.readings
        if not measured.values
    ]
    parts: list[Html] = []
    if present:
        parts.append(block("readings", map(_reading, present)))
    if profile.energy is not None:
        parts.append(_energy(profile.energy))
    if absent:
        parts += [note("Not told by this machine:"), bullets(absent)]
    return section("What the machine did", *parts) if parts else None


def _reading(measured: Reading) -> Html:
    low, high, mean = min(measured.values), max(measured.values), fmean(measured.values)
    told = f"mean {mean:.4g} {measured.unit}, {low:.4g} to {high:.4g}"
    return Html(f"<div class='reading'>{figure(charts.reading(measured), told, title=measured.name)}</div>")


def _energy(energy: Energy) -> Html:
    if energy.absent is not None:
        return note(f"Energy per frame: not measured: {energy.absent}")
    told = {"Energy per frame": energy.per_frame_j, "Idle": energy.idle_w, "During the run": energy.busy_w}
    units = {"Energy per frame": "J above idle", "Idle": "W", "During the run": "W"}
    return facts({name: f"{value:.3g} {units[name]}" for name, value in told.items() if value is not None})


def layers(measured: Sequence[Layer]) -> Html | None:
    """Operations by time, a table for each graph; all but the slowest are folded away."""
    if not measured:
        return None
    graph_of = attrgetter("graph")
    grouped = groupby(sorted(measured, key=graph_of), key=graph_of)
    tables = [_graph(graph, list(group)) for graph, group in grouped]
    warning = "From a pass of its own: counting slows the graph down, so shares matter more than times."
    return section("Layers", note(warning), *tables)


def _graph(graph: str, group: list[Layer]) -> Html:
    total = sum(layer.mean_ms for layer in group)
    group.sort(key=lambda layer: -layer.mean_ms)
    top, rest = group[:_TOP_LAYERS], group[_TOP_LAYERS:]
    folded = ""
    if rest:
        summary = f"{len(rest)} more, {ms(sum(layer.mean_ms for layer in rest))} ms"
        folded = f"<details><summary>{summary}</summary>{_layer_table(rest, total, top[0].mean_ms)}</details>"
    told = f"{graph}: {len(group)} operation{'s' * (len(group) != 1)}, {ms(total)} ms"
    return Html(f"<h3>{html(told)}</h3>{_layer_table(top, total, top[0].mean_ms)}{folded}")


def _layer_table(group: Sequence[Layer], total: float, most: float) -> Html:
    rows = [
        [layer.name, layer.kind, layer.implementation, ms(layer.mean_ms), _share(layer.mean_ms, total, most)]
        for layer in group
    ]
    return numbers(["operation", "kind", "implementation", "ms", "share"], rows, text_columns=3)


def _share(took: float, total: float, most: float) -> Html:
    """Share of the graph in figures, and as a bar against the slowest operation."""
    share, length = (100 * max(took, 0.0) / whole if whole > 0 else 0.0 for whole in (total, most))
    return Html(f"{share:.1f} %<i class='share' style='width:{min(length, 100):.0f}%'></i>")
