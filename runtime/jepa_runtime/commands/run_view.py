"""The output of ``jepa-runtime run``: a live panel during the run, and a table at its end."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Group
from rich.panel import Panel
from rich.table import Table

from jepa_runtime.profiling.collector import STAGE_DESCRIPTIONS, Collector
from jepa_runtime.serving.pipeline import Result, Stats
from jepa_runtime.util.statistics import Summary


def live_view(title: str, collector: Collector, stats: Stats, deadline_ms: float) -> Panel:
    """Return the panel of the current state; times are those of the last frames."""
    summaries, rate_hz = collector.recent()
    result = collector.latest
    facts = Table.grid(padding=(0, 2))
    facts.add_row(
        "rate",
        "-" if rate_hz is None else f"{rate_hz:.1f} Hz",
        "frames",
        f"{stats.processed} of {stats.received}",
    )
    facts.add_row("dropped", str(stats.dropped), "failed", str(stats.failed))
    facts.add_row(
        "deadline misses",
        f"{stats.deadline_misses} ({deadline_ms:.4g} ms)",
        "history resets",
        _resets(stats.resets),
    )
    if result is not None:
        facts.add_row("surprise", _surprise(result), "energy", _energy(result))
    return Panel(Group(facts, _stage_table(summaries)), title=title, expand=False)


def final_table(title: str, summary: dict[str, Any]) -> Panel:
    """Return the table at the end, from the summary that ``--json`` writes."""
    stages = {
        name: Summary(**summary[f"{name}_ms"]) for name in STAGE_DESCRIPTIONS if f"{name}_ms" in summary
    }
    facts = Table.grid(padding=(0, 2))
    rate_hz = summary["rate_hz"]
    facts.add_row("frames", f"{summary['frames_processed']} of {summary['frames_published']}")
    facts.add_row("dropped, failed", f"{summary['frames_dropped']}, {summary['frames_failed']}")
    facts.add_row("rate", "-" if rate_hz is None else f"{rate_hz:.2f} Hz")
    facts.add_row(
        f"deadline misses ({summary['deadline_ms']:g} ms)",
        f"{summary['deadline_misses']} (longest sequence {summary['longest_miss_run']})",
    )
    facts.add_row("history resets", _resets(summary["resets"]))
    surprise = summary["surprise"]
    if surprise["n"]:
        facts.add_row(
            "surprise",
            f"{surprise['surprising']} of {surprise['n']} frames above {surprise['threshold']:.4g}",
        )
    model = summary["model"]
    facts.add_row(
        "model",
        f"{model['id']} {model['version']}, {model['precision']} on {model['engine']} ({model['device']})",
    )
    return Panel(Group(facts, _stage_table(stages)), title=title, expand=False)


def _stage_table(summaries: dict[str, Summary]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("ms")
    for column in ("p50", "p95", "p99", "max", "n"):
        table.add_column(column, justify="right")
    for name, description in STAGE_DESCRIPTIONS.items():
        if name in summaries:
            table.add_row(description, *summaries[name].cells())
    return table


def _resets(resets: dict[str, int]) -> str:
    counts = [
        f"{reason.replace('_', ' ')} {count}"
        for reason, count in resets.items()
        if count and reason != "first"
    ]
    return ", ".join(counts) or "none"


def _surprise(result: Result) -> str:
    if result.surprise is None:
        return "-"
    return f"[bold red]{result.surprise:.3f} ![/]" if result.surprising else f"{result.surprise:.3f}"


def _energy(result: Result) -> str:
    if result.current_energy is None:
        return "no goal"
    if result.futures is None or result.futures.energies is None:
        return f"{result.current_energy:.3f}"
    return f"{result.current_energy:.3f}, best future {float(np.min(result.futures.energies)):.3f}"
