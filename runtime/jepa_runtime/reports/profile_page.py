"""A latency profile as a self-contained HTML page.

The headline is the response, which counts every scheduled frame, also dropped ones. The page omits what a
profile does not contain, and lists what the profile reports as absent, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from statistics import fmean, median

from jepa_runtime.profiling.profile import ColdStart, Layer, Parity, Profile, Run, Subject, Sweep, stage_order
from jepa_runtime.profiling.run_statistics import Distribution, Quantile, RunStatistics, describe, responses
from jepa_runtime.reports import profile_charts as charts
from jepa_runtime.reports.html import (
    Html,
    Section,
    block,
    bullets,
    card,
    escape,
    facts,
    figure,
    ms,
    note,
    numbers,
    page,
    section,
    with_unit,
    words,
)
from jepa_runtime.reports.latency_charts import histogram, tail, timeline
from jepa_runtime.telemetry.measurements import UNKNOWN, Energy, Environment, Reading
from jepa_runtime.util.bootstrap import INTERVAL_METHOD
from jepa_runtime.util.percentiles import PERCENTILES
from jepa_runtime.util.statistics import PERCENTILE_METHOD

_TOP_LAYERS = 20
_HEAD = ["p50", "p90", "p95", "p99", "p99.9", "max", "n"]
_KINDS = {
    "pipeline": "the pipeline, in the process of {tool}",
    "ros": "a ROS 2 graph, from another process, by {tool}",
    "trtexec": "imported from trtexec",
    "benchmark_app": "imported from benchmark_app",
}


def render_profile(profile: Profile) -> str:
    """Return ``profile`` as a self-contained HTML page."""
    run = describe(profile.run)
    model = " ".join(filter(None, (profile.subject.model_id, profile.subject.model_version)))
    sections = [
        *_headline(profile, run),
        section("Measurement", facts(_subject(profile))),
        section("Notes", bullets(profile.notes)) if profile.notes else None,
        *_samples(profile, run),
        _stages(profile, run),
        _throughput(profile),
        _cold_start(profile),
        _machine(profile),
        _layers(profile.layers),
        section("Environment", facts(_environment(profile))),
        note(
            f"Times in ms. Percentiles: {PERCENTILE_METHOD}; a dash stands for too few samples. "
            f"{INTERVAL_METHOD}."
        ),
    ]
    return page(
        f"Latency of {model or 'a model'}",
        _subtitle(profile),
        [part for part in sections if part],
        {"report": "profile", "profile": profile, "statistics": run},
    )


def _subtitle(profile: Profile) -> str:
    subject = profile.subject
    engine = f"{subject.engine} on {subject.device}"
    parts = (subject.precision, engine, profile.environment.cpu, profile.created)
    return " · ".join(part for part in parts if part and part != UNKNOWN)


def _headline(profile: Profile, run: RunStatistics) -> list[Html | Section]:
    name, main = _main(run)
    without = f"too few frames ({main.n})" if profile.run.reported is None else "not reported"
    shown = (("p50", main.p50, "main"), ("p99", main.p99, "main"), ("p99.9", main.p999, ""))
    cards = [
        *(_percentile_card(f"{name.capitalize()} {at}", value, without, kind) for at, value, kind in shown),
        *_counts(profile, run),
        _parity_card(profile.parity),
    ]
    rows = [["latency, processed frames", *_cells(run.latency)]]
    if run.rate_hz is not None:
        rows.insert(0, ["response, all scheduled frames", *_cells(run.response)])
    tables = [numbers(["ms", *_HEAD], rows), _parity(profile.parity), facts(_regularity(run))]
    loop = note(_loop(run, profile.run.duration_s))
    return [block("cards", cards), loop, section("Latency and parity", *tables)]


def _loop(run: RunStatistics, duration_s: float) -> str:
    if run.rate_hz is None:
        return (
            f"Closed loop: {run.frames} frames in {duration_s:.1f} s, at the highest rate. Without a "
            "schedule, no frame can be late: these are not latencies at a fixed rate."
        )
    return (
        f"Open loop: {run.frames} frames in {duration_s:.1f} s, scheduled at {run.rate_hz:g} Hz "
        "independently of the results. Response counts all of them, also dropped and failed ones: from the "
        "scheduled time to the first result of the frame or a newer one."
    )


def _percentile_card(label: str, quantile: Quantile, without: str, kind: str) -> Html:
    if quantile.value is None:
        return card(label, "-", without, kind=kind)
    interval = _interval(quantile)
    return card(label, with_unit(quantile.value), f"95 %: {interval}" if interval else "", kind=kind)


def _counts(profile: Profile, run: RunStatistics) -> Iterator[Html]:
    if run.misses is not None:
        limit = f"no result within {profile.run.deadline_ms:.4g} ms"
        remark = f"{limit}; at most {run.longest_miss_run} in a row"
        kind = "alert" if run.misses else ""
        yield card("Deadline misses", f"{run.misses} of {run.frames}", remark, kind=kind)
    if run.rate_hz is not None:
        failed = f"and {run.failed} failed" if run.failed else "none failed"
        kind = "alert" if run.dropped + run.failed else ""
        yield card("Frames dropped", f"{run.dropped} of {run.frames}", failed, kind=kind)
    if run.achieved_hz is not None:
        target = "closed loop" if run.rate_hz is None else f"scheduled: {run.rate_hz:g} Hz"
        yield card("Results", f"{run.achieved_hz:.4g} Hz", target)


def _parity_card(parity: list[Parity]) -> Html:
    if not parity:
        return card("Parity", "-", "not measured")
    good = all(graph.ok for graph in parity)
    worst = min(graph.worst_cosine for graph in parity)
    remark = "worst cosine; within tolerance" if good else "worst cosine; outside tolerance"
    return card("Parity", f"{worst:.5f}", remark, kind="" if good else "alert")


def _parity(parity: list[Parity]) -> Html:
    if not parity:
        return note("Parity with the golden outputs was not measured.")
    rows = [
        [
            graph.graph,
            _verdict(graph.ok),
            f"{graph.mean_cosine:.6f}",
            f"{graph.worst_cosine:.6f}",
            f"{graph.max_abs:.3g}",
        ]
        for graph in parity
    ]
    head = ["parity with the golden outputs", "", "mean cosine", "worst cosine", "largest difference"]
    return numbers(head, rows, text_columns=2)


def _verdict(good: bool) -> Html:
    kind, verdict = ("good", "within tolerance") if good else ("alert", "outside tolerance")
    return Html(f"<span class='{kind}'>{verdict}</span>")


def _regularity(run: RunStatistics) -> dict[str, str]:
    """Return jitter and age of the results; empty in closed loop, which has no schedule."""
    found: dict[str, str] = {}
    if run.rate_hz is None:
        return found
    if run.slack is not None and run.slack.p99.value is not None:
        found["Slack"] = f"{with_unit(run.slack.p99.value)} or more for 99 % of the processed frames"
    if run.period_jitter_rms is not None:
        jitter = f"p99 {with_unit(run.period_jitter.p99.value)}"
        found["Period jitter"] = f"{with_unit(run.period_jitter_rms)} rms, {jitter}"
    if run.peak_age.n:
        age = {"p50": run.peak_age.p50.value, "p99": run.peak_age.p99.value, "max": run.peak_age.max}
        spread = ", ".join(f"{name} {with_unit(value)}" for name, value in age.items())
        over = f"{run.over_two_periods} times above two periods"
        found["Peak age of a result"] = f"{spread}; {over}"
    return found


def _samples(profile: Profile, run: RunStatistics) -> list[Html | Section]:
    if profile.run.reported is not None:
        return [note(f"{profile.tool} reported a summary without samples: no distribution, no timeline.")]
    return [_distribution(profile, run), _over_time(profile, run)]


def _distribution(profile: Profile, run: RunStatistics) -> Section:
    name, main = _main(run)
    deadline_ms = profile.run.deadline_ms
    series = {"latency": profile.run.latency_ms}
    if run.rate_hz is not None:
        series = {"response": responses(profile.run).tolist(), **series}
    intervals = [
        (PERCENTILES[key] / 1000, quantile.low, quantile.high)
        for key, quantile in main.quantiles().items()
        if quantile.low is not None and quantile.high is not None
    ]
    frequencies = figure(
        histogram(series[name], deadline_ms),
        f"Number of {'scheduled' if name == 'response' else 'processed'} frames by {name}; {main.n} in "
        "total.",
        title="Histogram",
    )
    stretched = figure(
        tail(series, deadline_ms, intervals),
        "Proportion of faster frames, up to the slowest; the last 1 % is as wide as the last 10 %. Whiskers: "
        f"95 % intervals of the {name}.",
        title="Tail",
        legend=list(series),
    )
    return section("Distribution", block("columns", [frequencies, stretched]))


def _main(run: RunStatistics) -> tuple[str, Distribution]:
    """Return the distribution of the headline: the response, or the latency in closed loop."""
    return ("latency", run.latency) if run.rate_hz is None else ("response", run.response)


def _over_time(profile: Profile, run: RunStatistics) -> Section:
    measured = profile.run
    lost = {"dropped": measured.dropped_s, "failed": measured.failed_s}
    chart = timeline(measured.scheduled_s, measured.latency_ms, measured.deadline_ms, lost)
    return section(
        "Over time",
        figure(
            chart,
            f"Latency of the {run.processed} processed frames over their scheduled times. A column with "
            "several frames spans from their minimum to their maximum, so that no outlier is lost.",
            wide=True,
        ),
    )


def _stages(profile: Profile, run: RunStatistics) -> Section | None:
    absent = [f"{name}: {reason}" for name, reason in profile.run.absent.items()]
    missing = [note("Not measured:"), bullets(absent)] if absent else []
    if not run.stages:
        return section("Stages", *missing) if missing else None
    names = stage_order(run.stages)
    bars, start = [], 0.0
    for name in names:
        stage = run.stages[name]
        bars.append(charts.Bar(name, start, stage.p50.value, stage.p99.value, 0))
        start += stage.p50.value or 0.0
    bars.append(charts.Bar("residual", start, run.residual.p50.value, run.residual.p99.value, 5))
    start += run.residual.p50.value or 0.0
    bars.append(charts.Bar("end to end", 0.0, run.latency.p50.value, run.latency.p99.value, 1))
    rows = []
    for name in names:
        rows.append([name, *_cells(run.stages[name])])
        if name in run.device:
            rows.append([f"{name}, device clock", *_cells(run.device[name])])
    rows += [["residual", *_cells(run.residual)], ["end to end", *_cells(run.latency)]]
    share = run.residual_share
    proportion = "" if share is None else f" It is {100 * share:.1f} % of the mean latency."
    whole = run.latency.p50.value
    sums = "" if whole is None else f": their sum is {with_unit(start)}, the median {with_unit(whole)}"
    return section(
        "Stages",
        figure(
            charts.waterfall(bars),
            "Bars: p50, each from the end of the previous one; whiskers: to p99. Residual: latency minus "
            f"the sum of the stages.{proportion} Medians do not add up to the median of the whole{sums}.",
            wide=True,
        ),
        numbers(["ms", *_HEAD], rows),
        *missing,
    )


def _cells(measured: Distribution) -> list[str]:
    cells: list[str] = []
    for quantile in measured.quantiles().values():
        interval = _interval(quantile)
        cells.append(Html(ms(quantile.value) + (f"<small>{interval}</small>" if interval else "")))
    return [*cells, ms(measured.max), str(measured.n)]


def _interval(quantile: Quantile) -> str:
    """Return the 95 % interval in words, or an empty string."""
    if quantile.low is None:
        return ""
    low = ms(quantile.low)
    return f"above {low}" if quantile.high is None else f"{low} to {ms(quantile.high)}"


def _throughput(profile: Profile) -> Section | None:
    """Return the sweep over rates and the closed loop."""
    parts = []
    if profile.closed_loop is not None:
        parts.append(_closed_loop(profile.closed_loop))
    if profile.sweep is not None:
        parts.append(_sweep(profile.sweep))
    return section("Throughput", *parts) if parts else None


def _closed_loop(run: Run) -> Html:
    statistics = describe(run)
    rate = "-" if statistics.achieved_hz is None else f"{statistics.achieved_hz:.4g} Hz"
    return block(
        "cards",
        [
            card("Highest rate, closed loop", rate, f"{statistics.frames} frames"),
            card("Time per frame, p50", with_unit(statistics.latency.p50.value)),
            card("Time per frame, p99", with_unit(statistics.latency.p99.value)),
        ],
    )


def _sweep(measured: Sweep) -> Html:
    limit = f"{100 * measured.max_late:g} %"
    knee = (
        f"No sustained rate: more than {limit} of the frames were dropped or later than one period."
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


def _cold_start(profile: Profile) -> Section | None:
    """Return cold starts and idle gaps."""
    figures = []
    if profile.cold_starts:
        figures.append(_cold_chart(profile.cold_starts))
    if profile.idle_gaps:
        figures.append(
            figure(
                charts.idle_gaps(profile.idle_gaps),
                "The first frame after an idle gap, from submission to result; bars: the median.",
                title="After an idle gap",
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
        "Medians of the repetitions, each in a new process; cache: that of compiled models.",
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
    """Return median, minimum and maximum."""
    if not times:
        return Html("-")
    return Html(f"{ms(median(times))}<small>{ms(min(times))} to {ms(max(times))}</small>")


def _machine(profile: Profile) -> Section | None:
    """Return sensor readings and energy per frame."""
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
        parts += [note("Not available on this machine:"), bullets(absent)]
    return section("Machine", *parts) if parts else None


def _reading(measured: Reading) -> Html:
    low, high, mean = min(measured.values), max(measured.values), fmean(measured.values)
    summary = f"mean {mean:.4g} {measured.unit}, {low:.4g} to {high:.4g}"
    return Html(
        f"<div class='reading'>{figure(charts.reading(measured), summary, title=measured.name)}</div>"
    )


def _energy(energy: Energy) -> Html:
    if energy.absent is not None:
        return note(f"Energy per frame: not measured: {energy.absent}")
    values = {"Energy per frame": energy.per_frame_j, "Idle": energy.idle_w, "During the run": energy.busy_w}
    units = {"Energy per frame": "J above idle", "Idle": "W", "During the run": "W"}
    return facts({name: f"{value:.3g} {units[name]}" for name, value in values.items() if value is not None})


def _layers(measured: Sequence[Layer]) -> Section | None:
    """Return the operations by duration, one table per graph; all but the slowest are folded."""
    if not measured:
        return None
    graph_of = attrgetter("graph")
    grouped = groupby(sorted(measured, key=graph_of), key=graph_of)
    tables = [_graph(graph, list(group)) for graph, group in grouped]
    warning = (
        "From a separate pass: profiling slows the graph down, so proportions are more reliable than times."
    )
    return section("Layers", note(warning), *tables)


def _graph(graph: str, group: list[Layer]) -> Html:
    total = sum(layer.mean_ms for layer in group)
    group.sort(key=lambda layer: -layer.mean_ms)
    top, rest = group[:_TOP_LAYERS], group[_TOP_LAYERS:]
    folded = ""
    if rest:
        summary = f"{len(rest)} more, {ms(sum(layer.mean_ms for layer in rest))} ms"
        folded = f"<details><summary>{summary}</summary>{_layer_table(rest, total, top[0].mean_ms)}</details>"
    heading = f"{graph}: {len(group)} operation{'s' * (len(group) != 1)}, {ms(total)} ms"
    return Html(f"<h3>{escape(heading)}</h3>{_layer_table(top, total, top[0].mean_ms)}{folded}")


def _layer_table(group: Sequence[Layer], total: float, longest: float) -> Html:
    rows = [
        [
            layer.name,
            layer.kind,
            layer.implementation,
            ms(layer.mean_ms),
            _proportion(layer.mean_ms, total, longest),
        ]
        for layer in group
    ]
    return numbers(["operation", "kind", "implementation", "ms", "proportion"], rows, text_columns=3)


def _proportion(duration: float, total: float, longest: float) -> Html:
    """Return the proportion of the graph's time, with a bar relative to the slowest operation."""
    percent, length = (100 * max(duration, 0.0) / whole if whole > 0 else 0.0 for whole in (total, longest))
    return Html(f"{percent:.1f} %<i class='share' style='width:{min(length, 100):.0f}%'></i>")


def _subject(profile: Profile) -> dict[str, str]:
    subject = profile.subject
    return {
        name: value
        for name, value in {
            "Method": _KINDS[profile.kind].format(tool=profile.tool),
            "Model": " ".join(filter(None, (subject.model_id, subject.model_version, subject.precision))),
            "Manifest SHA-256": subject.sha256,
            "Engine": _engine(subject),
            "Work per frame": _work(subject),
            "Frames": _frames(subject),
            "Processor": _processor(profile.environment),
            "Created": profile.created,
        }.items()
        if value
    }


def _processor(environment: Environment) -> str:
    return environment.cpu + (f", {environment.cores} cores" if environment.cores else "")


def _engine(subject: Subject) -> str:
    threads = "" if subject.threads is None else f", {subject.threads} thread" + "s" * (subject.threads != 1)
    return f"{' '.join(filter(None, (subject.engine, subject.engine_version)))} on {subject.device}{threads}"


def _work(subject: Subject) -> str:
    if subject.futures is None:
        return ""
    steps = "" if subject.horizon is None else f" of {subject.horizon} steps"
    return f"one encoding and {subject.futures} futures{steps}"


def _frames(subject: Subject) -> str:
    size = "" if subject.frame_size is None else f"{subject.frame_size[0]} x {subject.frame_size[1]}"
    return ", ".join(filter(None, (subject.source, size)))


def _environment(profile: Profile) -> dict[str, str]:
    environment = profile.environment
    return {
        "Processor": _processor(environment),
        "Architecture": environment.architecture,
        **environment.settings,
        **environment.versions,
    }
