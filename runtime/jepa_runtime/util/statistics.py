"""Percentiles and summaries of samples, limited to what the number of samples supports.

Method: nearest rank. A percentile is always one of the samples: of n sorted samples, the p-th percentile is
number ceil(n * p / 100), counted from 1. A percentile is reported only if at least one sample is expected
beyond it: p50 from 2 samples on, p95 from 20, p99 from 100, p99.9 from 1000.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util.percentiles import PERCENTILES

PERCENTILE_METHOD = "nearest rank; a percentile is given from 1 / (1 - p) samples on"
"""How percentiles are computed, for reports."""


@dataclass(frozen=True)
class Summary:
    """Represent the percentiles, maximum and number of samples; None: too few samples."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    n: int

    def cells(self) -> list[str]:
        """Return the cells of a table, times in milliseconds: p50, p95, p99, max, n."""
        return [*map(format_ms, (self.p50, self.p95, self.p99, self.max)), str(self.n)]

    def as_dict(self, digits: int = 6) -> dict[str, float | int | None]:
        """Return the fields for JSON, by default to the nanosecond (six decimals of a millisecond)."""
        return {
            key: round(value, digits) if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


def summarize(samples: Iterable[float]) -> Summary:
    """Summarize ``samples`` by nearest rank.

    Raises:
        ValueError: A sample is NaN, which a summary would hide.
    """
    ordered = sort_samples(samples)
    largest = float(ordered[-1]) if len(ordered) else None
    return Summary(
        p50=percentile(ordered, PERCENTILES["p50"]),
        p95=percentile(ordered, PERCENTILES["p95"]),
        p99=percentile(ordered, PERCENTILES["p99"]),
        max=largest,
        n=len(ordered),
    )


def sort_samples(samples: Iterable[float]) -> NDArray[np.float64]:
    """Sort ``samples``.

    Raises:
        ValueError: A sample is NaN, which a summary would hide.
    """
    ordered = np.sort(np.fromiter(samples, np.float64))
    if len(ordered) and np.isnan(ordered[-1]):
        raise ValueError(f"{int(np.isnan(ordered).sum())} of {len(ordered)} samples are NaN")
    return ordered


def is_supported(count: int, permille: int) -> bool:
    """Return whether ``count`` samples support a percentile: at least one is expected beyond it."""
    return count * (1000 - permille) >= 1000


def percentile(ordered: NDArray[np.float64], permille: int) -> float | None:
    """Return the percentile of sorted samples by nearest rank, or None if there are too few samples."""
    if not is_supported(len(ordered), permille):
        return None
    return nearest_rank(ordered, permille)


def nearest_rank(ordered: NDArray[np.float64], permille: int) -> float:
    """Return the percentile of at least one sorted sample, even if there are too few samples."""
    return float(ordered[-(-len(ordered) * permille // 1000) - 1])


def format_ms(value: float | None) -> str:
    """Format a time in milliseconds for tables; a dash stands for None."""
    return "-" if value is None else f"{value:.2f}"
