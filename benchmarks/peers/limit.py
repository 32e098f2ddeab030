"""A limit and the measured value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_NOT_SETTINGS = {"created", "environment", "limits"}


@dataclass(frozen=True)
class Limit:
    """A measured value with its limit.

    Attributes:
        check: Name of the check.
        metric: What was measured.
        value: Measured value.
        limit: Upper limit; None: for information.
        unit: Unit of both.
        samples: Description of the samples.
    """

    check: str
    metric: str
    value: float
    limit: float | None
    unit: str
    samples: str

    @property
    def met(self) -> bool:
        """Return whether the limit is met."""
        return self.limit is None or self.value <= self.limit


def rows(measured: Sequence[Limit], report: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Return the rows of the result file ``path``, each with time and processor.

    Rows of other checks in that file are retained if model and settings are the same; they may have been
    measured on another machine.
    """
    origin = {"created": report["created"], "cpu": report["environment"]["cpu"]}
    new = [asdict(limit) | {"met": limit.met} | origin for limit in measured]
    if not path.is_file():
        return new
    before = json.loads(path.read_text(encoding="utf-8"))
    # The weights are random and differ between machines.
    model = {key: report["bundle"][key] for key in ("id", "version")}
    settings = json.loads(json.dumps(report | {"bundle": before["bundle"] | model}))
    if any(before.get(name) != settings[name] for name in report.keys() - _NOT_SETTINGS):
        return new
    repeated = {limit.check for limit in measured}
    return [row for row in before["limits"] if row["check"] not in repeated] + new


def show(measured: Sequence[Limit], report: dict[str, Any], console: Console) -> None:
    """Print limits and measured values as a table."""
    title = (
        f"{report['bundle']['id']} at {report['model_frame'][0]} px, {report['candidates']} futures of "
        f"{report['horizon']} steps, {report['threads']} thread(s), {report['rate_hz']:g} Hz"
    )
    table = Table("check", "metric", "measured", "limit", "", "samples", title=title, title_justify="left")
    for limit in measured:
        bound = "" if limit.limit is None else f"{limit.limit:.4g} {limit.unit}"
        verdict = "" if limit.limit is None else "[green]met[/]" if limit.met else "[red]missed[/]"
        value = f"{limit.value:.4g} {limit.unit}"
        table.add_row(limit.check, limit.metric, value, bound, verdict, limit.samples)
    console.print(table)
    console.print(f"{report['environment']['cpu']}, {report['environment']['cores']} cores", highlight=False)
