"""Summaries of samples that claim no more than the samples carry.

Method: nearest rank. A percentile is always one of the samples: of n sorted samples, the p-th percentile is
number ceil(n * p / 100), counted from 1. The (100 - 1/n)-th and higher percentiles would all be the maximum,
so a percentile is
given only if at least one sample may be expected beyond it: p50 from 2 samples on, p95 from 20, p99 from 100.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction

import numpy as np

METHOD = "nearest rank; a percentile is given from 1 / (1 - p) samples on"


@dataclass(frozen=True)
class Summary:
    """Percentiles, maximum and number of samples; None: the samples do not carry it."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    n: int

    def as_dict(self, digits: int = 3) -> dict[str, float | int | None]:
        """For JSON, rounded to ``digits`` decimals."""
        return {
            key: round(value, digits) if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


def summarize(samples: Iterable[float]) -> Summary:
    """Summary of ``samples`` by nearest rank.

    Raises:
        ValueError: a sample is NaN: a summary would hide it.
    """
    ordered = np.sort(np.fromiter(samples, np.float64))
    if len(ordered) and np.isnan(ordered[-1]):
        raise ValueError(f"{int(np.isnan(ordered).sum())} of {len(ordered)} samples are NaN")

    def percentile(percent: int) -> float | None:
        beyond = Fraction(100 - percent, 100)
        if len(ordered) * beyond < 1:
            return None
        rank = -(-len(ordered) * percent // 100)
        return float(ordered[rank - 1])

    largest = float(ordered[-1]) if len(ordered) else None
    return Summary(percentile(50), percentile(95), percentile(99), largest, len(ordered))


def format_ms(value: float | None) -> str:
    """A time in milliseconds for tables; a dash where there is none."""
    return "-" if value is None else f"{value:.2f}"
