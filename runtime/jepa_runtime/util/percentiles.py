"""The percentiles that are reported."""

from __future__ import annotations

from typing import Literal

PercentileName = Literal["p50", "p90", "p95", "p99", "p999"]
"""The name of a percentile: ``p999`` is the 99.9th."""

# In thousandths: integers, so that ranks are exact.
PERCENTILES: dict[PercentileName, int] = {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p999": 999}


def label(name: PercentileName) -> str:
    """Return the usual notation of a percentile, such as ``p99.9``."""
    return "p99.9" if name == "p999" else name
