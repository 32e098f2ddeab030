"""Text shared by several tables: percentiles, intervals, machines, models."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).resolve().parent.parent / "results"


def spread(summary: dict[str, Any]) -> str:
    """Return percentiles of times in ms."""
    return ", ".join(f"{name} {summary[name]:.1f}" for name in ("p50", "p95", "p99")) + " ms"


def span(interval: list[float]) -> str:
    """Return an interval of proportions."""
    low, high = interval
    return f"{low:.1%} to {high:.1%}"


def model(report: dict[str, Any]) -> str:
    """Return the measured model and its configuration."""
    width, height = report["model_frame"]
    futures = f"{report['candidates']} futures of {report['horizon']} steps"
    return f"{report['bundle']['id']} with random weights at {width}x{height}, {futures}"


def machine(environment: dict[str, Any]) -> str:
    """Return processor and versions of a profile's environment."""
    versions = environment["versions"]
    named = ("python", "openvino", "onnxruntime", "torch")
    software = ", ".join(f"{name} {versions[name]}" for name in named if name in versions)
    return f"{environment['cpu']}, {environment['cores']} shared cores; {software}."


def cpu(report: dict[str, Any]) -> dict[str, Any]:
    """Return the processor of a report with a profile's environment, as in reports with a machine."""
    return {"model": report["environment"]["cpu"], "cores": report["environment"]["cores"]}


def processor(cpu: dict[str, Any]) -> str:
    """Return the name and cores of a processor."""
    return f"{cpu['model']}, {cpu['cores']} core{'' if cpu['cores'] == 1 else 's'}"


def where(measured: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line per machine with the measurements made on it."""
    places: dict[str, dict[str, None]] = {}
    for name, place in measured:
        places.setdefault(place, {})[name] = None
    return [f"{', '.join(names)}: {place}." for place, names in places.items()]


def verdicts(limits: Iterable[dict[str, Any]]) -> list[str]:
    """Return a table of measured values and their limits."""
    lines = ["| | measured | limit | | samples |", "|---|---|---|---|---|"]
    for limit in limits:
        bound = "" if limit["limit"] is None else f"{limit['limit']:.4g} {limit['unit']}"
        verdict = "" if limit["limit"] is None else "met" if limit["met"] else "**missed**"
        value = f"{round(limit['value'], 6) + 0.0:.3g} {limit['unit']}"
        lines.append(
            f"| {limit['check']}: {limit['metric']} | {value} | {bound} | {verdict} | {limit['samples']} |"
        )
    return lines


def read_by_processor(name: str) -> list[dict[str, Any]]:
    """Return the committed results of a benchmark, one per processor."""
    return _read_each(name)


def read_by_world(name: str) -> list[dict[str, Any]]:
    """Return the committed results of a benchmark in worlds other than Two Rooms."""
    return _read_each(name)


def _read_each(name: str) -> list[dict[str, Any]]:
    paths = sorted(_RESULTS.glob(f"{name}.*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def read(name: str) -> dict[str, Any]:
    """Return a committed result."""
    report: dict[str, Any] = json.loads((_RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return report
