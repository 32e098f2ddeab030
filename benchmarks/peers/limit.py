"""One thing that was asked, and what was found."""

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
    """What was asked and what was found, ``of`` how many samples; ``limit`` None: for information."""

    check: str
    what: str
    value: float
    limit: float | None
    unit: str
    of: str

    @property
    def met(self) -> bool:
        """Whether the limit was kept."""
        return self.limit is None or self.value <= self.limit


def rows(found: Sequence[Limit], report: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """What was found, for the file ``path``, with when and on which processor; before it, what that file has
    of other checks of the same model and settings: they may have been run elsewhere."""
    made = {"created": report["created"], "cpu": report["environment"]["cpu"]}
    new = [asdict(limit) | {"met": limit.met} | made for limit in found]
    if not path.is_file():
        return new
    before = json.loads(path.read_text(encoding="utf-8"))
    # The weights are random, and not the same ones everywhere.
    model = {key: report["bundle"][key] for key in ("id", "version")}
    settings = json.loads(json.dumps(report | {"bundle": before["bundle"] | model}))
    if any(before.get(name) != settings[name] for name in report.keys() - _NOT_SETTINGS):
        return new
    again = {limit.check for limit in found}
    return [row for row in before["limits"] if row["check"] not in again] + new


def show(found: Sequence[Limit], report: dict[str, Any], console: Console) -> None:
    """What was found, as a table."""
    title = (
        f"{report['bundle']['id']} at {report['model_frame'][0]} px, {report['candidates']} futures of "
        f"{report['horizon']} steps, {report['threads']} thread(s), {report['rate_hz']:g} Hz"
    )
    table = Table("check", "what", "found", "limit", "", "of", title=title, title_justify="left")
    for limit in found:
        asked = "" if limit.limit is None else f"{limit.limit:.4g} {limit.unit}"
        verdict = "" if limit.limit is None else "[green]met[/]" if limit.met else "[red]missed[/]"
        table.add_row(limit.check, limit.what, f"{limit.value:.4g} {limit.unit}", asked, verdict, limit.of)
    console.print(table)
    console.print(f"{report['environment']['cpu']}, {report['environment']['cores']} cores", highlight=False)
