"""The table of a comparison of profiles: its cells, and the table as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.profiling.comparison import Change, Comparison, Measure, measured
from jepa_runtime.profiling.profile import Profile
from jepa_runtime.profiling.run_statistics import Distribution, Quantile, RunStatistics
from jepa_runtime.util.bootstrap import INTERVAL_METHOD
from jepa_runtime.util.percentiles import label
from jepa_runtime.util.statistics import PERCENTILE_METHOD, format_ms

_TEXT = ("file", "model", "engine", "precision", "change", "verdict")


@dataclass(frozen=True)
class Entry:
    """One profile of a comparison; ``comparison`` is None for the baseline."""

    name: str
    profile: Profile
    statistics: RunStatistics
    comparison: Comparison | None

    def times(self, measure: Measure) -> Distribution:
        """Return the distribution that is compared."""
        return self.statistics.response if measure == "response" else self.statistics.latency

    def samples(self, measure: Measure) -> NDArray[np.float64]:
        """Return the samples of that distribution [ms]."""
        return measured(self.profile, measure)


def cells(entry: Entry, measure: Measure) -> dict[str, str]:
    """Return the cells of a profile by column. Times are in ms; a dash stands for a missing value."""
    subject, statistics, times = entry.profile.subject, entry.statistics, entry.times(measure)
    changes = {} if entry.comparison is None else entry.comparison.times
    sha = subject.sha256 and f"({subject.sha256[:8]})"
    return {
        "file": entry.name,
        "model": _words(subject.model_id, subject.model_version, sha),
        "engine": _words(subject.engine, subject.engine_version, subject.device),
        "precision": subject.precision or "-",
        "n": str(times.n),
        **{label(name): _quantile(quantile) for name, quantile in times.quantiles().items()},
        "max": format_ms(times.max),
        "misses": _proportion(statistics.misses, statistics.frames),
        "drops": _proportion(statistics.dropped + statistics.failed, statistics.frames),
        "parity": _parity(entry.profile),
        "change": "; ".join(f"{label(name)} {_change(change)}" for name, change in changes.items()) or "-",
        "verdict": "baseline" if entry.comparison is None else entry.comparison.verdict,
    }


def remarks(entries: Sequence[Entry], measure: Measure) -> list[str]:
    """Return the remarks below the table: reasons, differences, methods."""
    lines = []
    for entry in entries:
        if entry.comparison is not None:
            lines += [f"{entry.name}: {reason}" for reason in entry.comparison.reasons]
            lines += [
                f"{entry.name}: differs from the baseline: {item}" for item in entry.comparison.differences
            ]
    definition = (
        "response in ms: from the scheduled time of each frame to the first result of it or a newer one"
        if measure == "response"
        else "latency in ms, of processed frames"
    )
    return [
        *lines,
        definition,
        f"percentiles: {PERCENTILE_METHOD}",
        f"in brackets: {INTERVAL_METHOD}; an open end is unbounded",
    ]


def markdown(entries: Sequence[Entry], measure: Measure) -> str:
    """Return a table in GitHub-flavored Markdown, with one row per profile, and the remarks."""
    rows = [cells(entry, measure) for entry in entries]
    header = list(rows[0])
    lines = [
        _line(header),
        _line(["---" if name in _TEXT else "---:" for name in header]),
        *(_line([_escape(cell) for cell in row.values()]) for row in rows),
        "",
        *(f"- {_escape(remark)}" for remark in remarks(entries, measure)),
    ]
    return "\n".join(lines) + "\n"


def as_dict(entries: Sequence[Entry], measure: Measure, max_regression: float) -> dict[str, Any]:
    """Return the comparison for JSON."""
    return {
        "measure": measure,
        "max_regression": max_regression,
        "profiles": [
            {
                "file": entry.name,
                "subject": entry.profile.subject.model_dump(),
                "environment": entry.profile.environment.model_dump(),
                "parity": [parity.model_dump() for parity in entry.profile.parity],
                "statistics": asdict(entry.statistics),
                "comparison": None if entry.comparison is None else asdict(entry.comparison),
            }
            for entry in entries
        ],
    }


def _change(change: Change) -> str:
    return f"{change.point:+.1%} [{change.low:+.1%}, {change.high:+.1%}]"


def _words(*parts: str | None) -> str:
    return " ".join(part for part in parts if part) or "-"


def _quantile(quantile: Quantile) -> str:
    if quantile.value is None or quantile.low is None:
        return format_ms(quantile.value)
    high = "…" if quantile.high is None else format_ms(quantile.high)
    return f"{format_ms(quantile.value)} [{format_ms(quantile.low)}, {high}]"


def _proportion(count: int | None, frames: int) -> str:
    if count is None:
        return "-"
    return f"{count} ({count / frames:.2%})" if count else "0"


def _parity(profile: Profile) -> str:
    if not profile.parity:
        return "-"
    failed = [parity.graph for parity in profile.parity if not parity.ok]
    worst = min(parity.worst_cosine for parity in profile.parity)
    return f"not ok: {', '.join(failed)}" if failed else f"ok, worst cosine {worst:.4f}"


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _escape(text: str) -> str:
    """Escape text from a file, so that it neither ends a cell nor starts markup."""
    for character in "\\`*_<>|[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
