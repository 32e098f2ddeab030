"""Profiles beside one another: the cells of a table, and that table as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jepa_runtime.profiling.comparison import Change, Comparison, Measure, label
from jepa_runtime.profiling.profile import Profile
from jepa_runtime.profiling.run_statistics import Distribution, Quantile, RunStatistics
from jepa_runtime.util.bootstrap import METHOD as INTERVALS
from jepa_runtime.util.statistics import METHOD as PERCENTILES
from jepa_runtime.util.statistics import format_ms

_TEXT = ("file", "model", "engine", "precision", "change", "verdict")


@dataclass(frozen=True)
class Entry:
    """One file of a comparison. ``comparison`` is None for the baseline."""

    name: str
    profile: Profile
    statistics: RunStatistics
    comparison: Comparison | None

    def times(self, measure: Measure) -> Distribution:
        """What of its times is compared."""
        return self.statistics.response if measure == "response" else self.statistics.latency


def cells(entry: Entry, measure: Measure) -> dict[str, str]:
    """The cells of a file by column; a dash where there is nothing. Times are milliseconds."""
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
        "misses": _share(statistics.misses, statistics.frames),
        "drops": _share(statistics.dropped + statistics.failed, statistics.frames),
        "parity": _parity(entry.profile),
        "change": "; ".join(f"{label(name)} {_change(change)}" for name, change in changes.items()) or "-",
        "verdict": "baseline" if entry.comparison is None else entry.comparison.verdict,
    }


def remarks(entries: Sequence[Entry], measure: Measure) -> list[str]:
    """What must be said below the table: reasons, differences, methods."""
    said = []
    for entry in entries:
        if entry.comparison is not None:
            said += [f"{entry.name}: {reason}" for reason in entry.comparison.reasons]
            said += [f"{entry.name}: unlike the baseline: {what}" for what in entry.comparison.differences]
    what = (
        "response in ms: from the moment a frame was due until a result at least as new, of every frame"
        if measure == "response"
        else "latency in ms, of the frames that were processed"
    )
    return [
        *said,
        what,
        f"percentiles: {PERCENTILES}",
        f"in brackets: {INTERVALS}; an open end is not bounded",
    ]


def markdown(entries: Sequence[Entry], measure: Measure) -> str:
    """A GitHub-flavoured table, one row a file, and the remarks."""
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


def _change(change: Change) -> str:
    return f"{change.point:+.1%} [{change.low:+.1%}, {change.high:+.1%}]"


def _words(*parts: str | None) -> str:
    return " ".join(part for part in parts if part) or "-"


def _quantile(quantile: Quantile) -> str:
    if quantile.value is None or quantile.low is None:
        return format_ms(quantile.value)
    high = "…" if quantile.high is None else format_ms(quantile.high)
    return f"{format_ms(quantile.value)} [{format_ms(quantile.low)}, {high}]"


def _share(count: int | None, frames: int) -> str:
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
    """Text from a file must neither end a cell nor start markup."""
    for character in "\\`*_<>|[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
