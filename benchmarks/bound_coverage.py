"""Coverage of prediction error bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.calibration import CoverageRate

Floats = NDArray[np.float64]
# Largest accepted difference between coverage and its target, in percentage points.
MOST_POINTS = 2.0


def coverage(errors: Floats, stated: Floats, start: Floats) -> list[dict[str, Any]]:
    """Return the coverage at each horizon.

    Args:
        errors: [n, H]; NaN: no frame arrived.
        stated: Bounds, [n, H]; NaN: none was stated.
        start: The bundle's bounds for the same errors, [H].
    """
    rows = []
    for row in range(errors.shape[1]):
        arrived = ~np.isnan(errors[:, row]) & ~np.isnan(stated[:, row])
        count, covered = int(arrived.sum()), int((errors[arrived, row] <= stated[arrived, row]).sum())
        fixed = int((errors[arrived, row] <= start[row]).sum())
        rows.append(
            {
                "horizon": row + 1,
                "errors": count,
                "coverage": covered / count,
                "interval": CoverageRate(covered, count).interval(),
                "coverage_of_the_bundle": fixed / count,
                "median_bound": float(np.median(stated[arrived, row])),
            }
        )
    return rows


def farthest(rows: list[dict[str, Any]], probability: float) -> float:
    """Return the largest difference between coverage and target over all horizons, in percentage points."""
    return max(abs(row["coverage"] - probability) for row in rows) * 100
