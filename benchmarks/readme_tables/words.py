"""What several tables say: percentiles, intervals, machines, models."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).resolve().parent.parent / "results"


def spread(summary: dict[str, Any]) -> str:
    """Percentiles of times in ms."""
    return ", ".join(f"{name} {summary[name]:.1f}" for name in ("p50", "p95", "p99")) + " ms"


def span(found: list[float]) -> str:
    """An interval of shares."""
    low, high = found
    return f"{low:.1%} to {high:.1%}"


def model(report: dict[str, Any]) -> str:
    """The model that was measured, and what it was asked for."""
    width, height = report["model_frame"]
    futures = f"{report['candidates']} futures of {report['horizon']} steps"
    return f"{report['bundle']['id']} with random weights at {width}x{height}, {futures}"


def machine(environment: dict[str, Any]) -> str:
    """Processor and versions of a profile's environment."""
    versions = environment["versions"]
    named = ("python", "openvino", "onnxruntime", "torch")
    software = ", ".join(f"{name} {versions[name]}" for name in named if name in versions)
    return f"{environment['cpu']}, {environment['cores']} cores that others share; {software}."


def cpu(report: dict[str, Any]) -> dict[str, Any]:
    """The processor of a report that has a profile's environment, as reports with a machine have it."""
    return {"model": report["environment"]["cpu"], "cores": report["environment"]["cores"]}


def processor(cpu: dict[str, Any]) -> str:
    """Its name and cores."""
    return f"{cpu['model']}, {cpu['cores']} core{'' if cpu['cores'] == 1 else 's'}"


def where(measured: Iterable[tuple[str, str]]) -> list[str]:
    """What was measured where, a line for each place."""
    places: dict[str, dict[str, None]] = {}
    for what, place in measured:
        places.setdefault(place, {})[what] = None
    return [f"{', '.join(names)}: {place}." for place, names in places.items()]


def verdicts(limits: Iterable[dict[str, Any]]) -> list[str]:
    """A table of what was found, and what it is held to."""
    lines = ["| | found | limit | | of |", "|---|---|---|---|---|"]
    for limit in limits:
        asked = "" if limit["limit"] is None else f"{limit['limit']:.4g} {limit['unit']}"
        verdict = "" if limit["limit"] is None else "met" if limit["met"] else "**missed**"
        found = f"{round(limit['value'], 6) + 0.0:.3g} {limit['unit']}"
        lines.append(f"| {limit['check']}: {limit['what']} | {found} | {asked} | {verdict} | {limit['of']} |")
    return lines


def read_kinds(name: str) -> list[dict[str, Any]]:
    """The committed results of a benchmark, one for each kind of processor."""
    paths = sorted(_RESULTS.glob(f"{name}.*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def read(name: str) -> dict[str, Any]:
    """A committed result."""
    found: dict[str, Any] = json.loads((_RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found
