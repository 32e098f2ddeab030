"""How often errors of predictions lie within the bounds that were stated for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.calibration import CoverageRate

Floats = NDArray[np.float64]
# By which coverage may be off.
MOST_POINTS = 2.0


def coverage(errors: Floats, stated: Floats, start: Floats) -> list[dict[str, Any]]:
    """Coverage of each horizon.

    Args:
        errors: [n, H]; NaN: none arrived.
        stated: [n, H] bounds; NaN: none was stated.
        start: [H] bounds of the bundle, for the same errors.
    """
    found = []
    for row in range(errors.shape[1]):
        came = ~np.isnan(errors[:, row]) & ~np.isnan(stated[:, row])
        count, held = int(came.sum()), int((errors[came, row] <= stated[came, row]).sum())
        fixed = int((errors[came, row] <= start[row]).sum())
        found.append(
            {
                "horizon": row + 1,
                "errors": count,
                "coverage": held / count,
                "interval": CoverageRate(held, count).interval(),
                "coverage_of_the_bundle": fixed / count,
                "median_bound": float(np.median(stated[came, row])),
            }
        )
    return found


def farthest(rows: list[dict[str, Any]], probability: float) -> float:
    """The largest difference between coverage and what is stated, over all horizons, in points."""
    return max(abs(row["coverage"] - probability) for row in rows) * 100
