"""Diagnostics of the error bounds, the engines that were not used, and the black box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa_runtime.calibration import Calibration
from jepa_runtime.recording import BlackBox


def calibration_values(calibration: Calibration) -> dict[str, Any]:
    """Return the error bound of each horizon and its observed coverage, for the diagnostics."""
    values: dict[str, Any] = {"error_bounds/probability": calibration.probability}
    rows = zip(calibration.bounds, calibration.recent, calibration.overall, strict=True)
    for step, (bound, recent, overall) in enumerate(rows, start=1):
        if recent.value is None:
            values[f"error_bounds/step_{step}"] = f"{bound:.4g}, no errors observed yet"
            continue
        values[f"error_bounds/step_{step}"] = (
            f"{bound:.4g}, coverage {recent.value:.3f} over the last {recent.errors} errors,"
            f" {overall.value:.3f} over {overall.errors}"
        )
    return values


def calibration_report(calibration: Calibration) -> dict[str, Any]:
    """Return the bounds (None: no errors yet) and the number of errors within them, by horizon in steps."""
    return {
        "probability": calibration.probability,
        "bounds": [float(f"{bound:.6g}") if np.isfinite(bound) else None for bound in calibration.bounds],
        "within": [coverage.within for coverage in calibration.overall],
        "errors": [coverage.errors for coverage in calibration.overall],
    }


def degradation_warnings(
    calibration: Calibration | None,
    box: BlackBox | None,
    skipped_engines: Sequence[str] = (),
    alarms_disabled_reason: str = "",
) -> list[str]:
    """Return a warning for each degraded function.

    Args:
        calibration: Current error bounds.
        box: Black box.
        skipped_engines: Why each preferred engine is not used.
        alarms_disabled_reason: Why alarms are disabled, or an empty string.
    """
    warnings = [f"preferred engine not used: {reason}" for reason in skipped_engines]
    if calibration is not None and calibration.undercovered:
        steps = ", ".join(map(str, calibration.undercovered))
        warnings.append(
            f"prediction error bounds are below their {calibration.probability:.4g} coverage at steps"
            f" {steps}: the robot sees conditions it was not calibrated for"
        )
    if box is not None and alarms_disabled_reason:
        warnings.append(f"black box: disabled, since no alarm can be raised: {alarms_disabled_reason}")
    if box is not None and box.fault:
        warnings.append(f"black box: {box.fault}")
    return warnings


def black_box_values(box: BlackBox | None) -> dict[str, Any]:
    """Return the counters of the black box."""
    return {} if box is None else {"black_box/written": box.written, "black_box/dropped": box.dropped}
