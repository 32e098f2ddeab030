"""A latency profile as one self-contained HTML page that a customer can be shown.

The headline is the response: it counts every frame that was due, dropped ones too. What a profile does not
hold is left out; what it tells to be absent stands there with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator

from jepa_runtime.profiling.profile import Parity, Profile, Subject, stage_order
from jepa_runtime.profiling.run_statistics import Distribution, Quantile, RunStatistics, describe, responses
from jepa_runtime.reports.html import (
    Html,
    block,
    bullets,
    card,
    facts,
    figure,
    join,
    ms,
    note,
    numbers,
    page,
    section,
    with_unit,
)
from jepa_runtime.reports.latency_charts import histogram, tail, timeline
from jepa_runtime.reports.profile_charts import Bar, waterfall
from jepa_runtime.reports.profile_sections import cold_start, layers, machine, throughput
from jepa_runtime.telemetry.measurements import UNKNOWN, Environment
from jepa_runtime.util.bootstrap import METHOD as INTERVALS
from jepa_runtime.util.statistics import METHOD as PERCENTILE_METHOD
from jepa_runtime.util.statistics import PERCENTILES

_HEAD = ["p50", "p90", "p95", "p99", "p99.9", "max", "n"]
_KINDS = {
    "pipeline": "the pipeline, in its own process, by {tool}",
    "ros": "the running ROS 2 graph, from another process, by {tool}",
    "trtexec": "imported from trtexec",
    "benchmark_app": "imported from benchmark_app",
}


def render_profile(profile: Profile) -> str:
    """``profile`` as an HTML page that needs nothing else."""
    run = describe(profile.run)
    model = " ".join(filter(None, (profile.subject.model_id, profile.subject.model_version)))
    sections = [
        _headline(profile, run),
        section("What was measured, on what", facts(_subject(profile))),
        section("Notes", bullets(profile.notes)) if profile.notes else None,
        *_samples(profile, run),
        _stages(profile, run),
        throughput(profile),
        cold_start(profile),
        machine(profile),
        layers(profile.layers),
        section("Environment", facts(_environment(profile))),
        note(f"Times in milliseconds. Percentiles: {PERCENTILE_METHOD}; a dash: too few. {INTERVALS}."),
    ]
    return page(f"Latency of {model or 'a model'}", _subtitle(profile), [part for part in sections if part])


def _subtitle(profile: Profile) -> str:
    subject = profile.subject
    engine = f"{subject.engine} on {subject.device}"
    parts = (subject.precision, engine, profile.environment.cpu, profile.created)
    return " · ".join(part for part in parts if part and part != UNKNOWN)


def _headline(profile: Profile, run: RunStatistics) -> Html:
    name, main = _main(run)
    told = profile.run.told is not None
    without = "not told" if told else f"{main.n} frames do not carry it"
    shown = (("p50", main.p50, "main"), ("p99", main.p99, "main"), ("p99.9", main.p999, ""))
    cards = [
        *(_percentile_card(f"{name.capitalize()} {at}", value, without, kind) for at, value, kind in shown),
        *_counts(profile, run),
        _parity_card(profile.parity),
    ]
    rows = [["latency, processed frames", *_cells(run.latency)]]
    if run.rate_hz is not None:
        rows.insert(0, ["response, every frame that was due", *_cells(run.response)])
    tables = [numbers(["ms", *_HEAD], rows), _parity(profile.parity), facts(_regularity(run))]
    loop = note(_loop(run, profile.run.duration_s))
    return join([block("cards", cards), loop, section("Latency and parity", *tables)])


def _loop(run: RunStatistics, duration_s: float) -> str:
    if run.rate_hz is None:
        return (
            f"Closed loop: {run.frames} frames in {duration_s:.1f} s, as fast as it went. Nothing was due, "
            "so nothing could be late: these are not latencies at a rate."
        )
    return (
        f"Open loop: {run.frames} frames were due in {duration_s:.1f} s, at {run.rate_hz:g} Hz whatever "
        "became of those before. Response counts every one of them, dropped and failed ones too: from the "
        "moment it was due to the first result of a frame at least as new."
    )


def _percentile_card(label: str, quantile: Quantile, without: str, kind: str) -> Html:
    if quantile.value is None:
        return card(label, "-", without, kind=kind)
    interval = _interval(quantile)
    return card(label, with_unit(quantile.value), f"95 %: {interval}" if interval else "", kind=kind)


def _counts(profile: Profile, run: RunStatistics) -> Iterator[Html]:
    if run.misses is not None:
        limit = f"later than {profile.run.deadline_ms:.4g} ms, or never"
        remark = f"{limit}; at most {run.longest_miss_run} in a row"
        kind = "alert" if run.misses else ""
        yield card("Deadline missed", f"{run.misses} of {run.frames}", remark, kind=kind)
    if run.rate_hz is not None:
        failed = f"and {run.failed} failed" if run.failed else "none failed"
        kind = "alert" if run.dropped + run.failed else ""
        yield card("Frames dropped", f"{run.dropped} of {run.frames}", failed, kind=kind)
    if run.achieved_hz is not None:
        due = "as fast as it went" if run.rate_hz is None else f"{run.rate_hz:g} Hz were due"
        yield card("Results", f"{run.achieved_hz:.4g} Hz", due)


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
    kind, words = ("good", "within tolerance") if good else ("alert", "outside tolerance")
    return Html(f"<span class='{kind}'>{words}</span>")


def _regularity(run: RunStatistics) -> dict[str, str]:
    """How evenly results came, and how old they got; nothing for a closed loop, which has no schedule."""
    told: dict[str, str] = {}
    if run.rate_hz is None:
        return told
    if run.slack is not None and run.slack.p99.value is not None:
        told["Slack"] = f"{with_unit(run.slack.p99.value)} or more for 99 % of the processed frames"
    if run.period_jitter_rms is not None:
        jitter = f"p99 {with_unit(run.period_jitter.p99.value)}"
        told["Jitter of the period"] = f"{with_unit(run.period_jitter_rms)} rms, {jitter}"
    if run.peak_age.n:
        age = {"p50": run.peak_age.p50.value, "p99": run.peak_age.p99.value, "max": run.peak_age.max}
        spread = ", ".join(f"{name} {with_unit(value)}" for name, value in age.items())
        over = f"{run.over_two_periods} times above two periods"
        told["Age of the newest result, just before the next"] = f"{spread}; {over}"
    return told


def _samples(profile: Profile, run: RunStatistics) -> list[Html]:
    if profile.run.told is not None:
        return [note(f"{profile.tool} told a summary without samples: no distribution, no time line.")]
    return [_distribution(profile, run), _over_time(profile, run)]


def _distribution(profile: Profile, run: RunStatistics) -> Html:
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
    often = figure(
        histogram(series[name], deadline_ms),
        f"The {main.n} frames{' that were due' if name == 'response' else ''}, by their {name}.",
        title="How often",
    )
    stretched = figure(
        tail(series, deadline_ms, intervals),
        "Share of frames that were faster, up to the slowest; the last 1 % has as much room as the last "
        f"10 %. Whiskers: 95 % intervals of the {name}.",
        title="The tail",
        legend=list(series),
    )
    return section("Distribution", block("columns", [often, stretched]))


def _main(run: RunStatistics) -> tuple[str, Distribution]:
    """What stands in the headline. In a closed loop nothing is due, and a response means nothing."""
    return ("latency", run.latency) if run.rate_hz is None else ("response", run.response)


def _over_time(profile: Profile, run: RunStatistics) -> Html:
    measured = profile.run
    lost = {"dropped": measured.dropped_s, "failed": measured.failed_s}
    chart = timeline(measured.scheduled_s, measured.latency_ms, measured.deadline_ms, lost)
    return section(
        "Over time",
        figure(
            chart,
            f"Latency of the {run.processed} processed frames, by the moment they were due. Where several "
            "share a column, it spans from their least to their greatest, so that no outlier is lost.",
            wide=True,
        ),
    )


def _stages(profile: Profile, run: RunStatistics) -> Html | None:
    absent = [f"{name}: {reason}" for name, reason in profile.run.absent.items()]
    told = [note("Not measured:"), bullets(absent)] if absent else []
    if not run.stages:
        return section("Stages", *told) if told else None
    names = stage_order(run.stages)
    bars, start = [], 0.0
    for name in names:
        stage = run.stages[name]
        bars.append(Bar(name, start, stage.p50.value, stage.p99.value, 0))
        start += stage.p50.value or 0.0
    bars.append(Bar("residual", start, run.residual.p50.value, run.residual.p99.value, 5))
    start += run.residual.p50.value or 0.0
    bars.append(Bar("end to end", 0.0, run.latency.p50.value, run.latency.p99.value, 1))
    rows = []
    for name in names:
        rows.append([name, *_cells(run.stages[name])])
        if name in run.device:
            rows.append([f"{name}, by the device's clock", *_cells(run.device[name])])
    rows += [["residual", *_cells(run.residual)], ["end to end", *_cells(run.latency)]]
    share = run.residual_share
    told_share = "" if share is None else f" It is {100 * share:.1f} % of the mean latency."
    whole = run.latency.p50.value
    sums = "" if whole is None else f": these give {with_unit(start)} of {with_unit(whole)}"
    return section(
        "Stages",
        figure(
            waterfall(bars),
            "Bars: p50, each from where the one before ends; whiskers: to p99. Residual: what the stages do "
            f"not account for.{told_share} Medians do not add up to the median of the whole{sums}.",
            wide=True,
        ),
        numbers(["ms", *_HEAD], rows),
        *told,
    )


def _cells(measured: Distribution) -> list[str]:
    cells: list[str] = []
    for quantile in measured.quantiles().values():
        interval = _interval(quantile)
        cells.append(Html(ms(quantile.value) + (f"<small>{interval}</small>" if interval else "")))
    return [*cells, ms(measured.max), str(measured.n)]


def _interval(quantile: Quantile) -> str:
    """The 95 % interval in words; empty where there is none."""
    if quantile.low is None:
        return ""
    low = ms(quantile.low)
    return f"above {low}" if quantile.high is None else f"{low} to {ms(quantile.high)}"


def _subject(profile: Profile) -> dict[str, str]:
    subject = profile.subject
    return {
        name: value
        for name, value in {
            "Measured": _KINDS[profile.kind].format(tool=profile.tool),
            "Model": " ".join(filter(None, (subject.model_id, subject.model_version, subject.precision))),
            "Manifest SHA-256": subject.sha256,
            "Engine": _engine(subject),
            "Work per frame": _work(subject),
            "Frames": _frames(subject),
            "Processor": _processor(profile.environment),
            "Taken": profile.created,
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
