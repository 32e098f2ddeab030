"""Summaries of samples that claim no more than the samples carry.

Method: nearest rank. A percentile is always one of the samples: of n sorted samples, the p-th percentile is
number ceil(n * p / 100), counted from 1. The (100 - 1/n)-th and higher percentiles would all be the maximum,
so a percentile is given only if at least one sample may be expected beyond it: p50 from 2 samples on, p95
from 20, p99 from 100, p99.9 from 1000.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

METHOD = "nearest rank; a percentile is given from 1 / (1 - p) samples on"

PercentileName = Literal["p50", "p90", "p95", "p99", "p999"]

# Shares of a thousand: whole numbers, so that ranks are exact.
PERCENTILES: dict[PercentileName, int] = {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p999": 999}


@dataclass(frozen=True)
class Summary:
    """Percentiles, maximum and number of samples; None: the samples do not carry it."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    n: int

    def cells(self) -> list[str]:
        """For a table, times in milliseconds: p50, p95, p99, max, n."""
        return [*map(format_ms, (self.p50, self.p95, self.p99, self.max)), str(self.n)]

    def as_dict(self, digits: int = 6) -> dict[str, float | int | None]:
        """For JSON, to the nanosecond (six decimals of a millisecond), so that tables round only once."""
        return {
            key: round(value, digits) if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


def summarize(samples: Iterable[float]) -> Summary:
    """Summary of ``samples`` by nearest rank.

    Raises:
        ValueError: a sample is NaN: a summary would hide it.
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
    """``samples``, sorted.

    Raises:
        ValueError: a sample is NaN: a summary would hide it.
    """
    ordered = np.sort(np.fromiter(samples, np.float64))
    if len(ordered) and np.isnan(ordered[-1]):
        raise ValueError(f"{int(np.isnan(ordered).sum())} of {len(ordered)} samples are NaN")
    return ordered


def carried(count: int, permille: int) -> bool:
    """Whether so many samples carry the percentile: at least one is expected beyond it."""
    return count * (1000 - permille) >= 1000


def percentile(ordered: NDArray[np.float64], permille: int) -> float | None:
    """The percentile of sorted samples by nearest rank; None: they do not carry it."""
    if not carried(len(ordered), permille):
        return None
    return nearest_rank(ordered, permille)


def nearest_rank(ordered: NDArray[np.float64], permille: int) -> float:
    """The percentile of sorted samples, of which there is one at least, carried or not."""
    return float(ordered[-(-len(ordered) * permille // 1000) - 1])


def format_ms(value: float | None) -> str:
    """A time in milliseconds for tables; a dash where there is none."""
    return "-" if value is None else f"{value:.2f}"
