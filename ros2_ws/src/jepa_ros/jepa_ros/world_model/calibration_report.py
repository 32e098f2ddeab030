"""How far futures can be trusted, which engines do not serve, and what the black box does, in the words of
the diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa_runtime.calibration import Calibration
from jepa_runtime.recording.black_box import BlackBox


def figures_of(calibration: Calibration) -> dict[str, Any]:
    """Of each horizon its bound, and how often bounds held."""
    found: dict[str, Any] = {"error_bounds/probability": calibration.probability}
    rows = zip(calibration.bounds, calibration.recent, calibration.overall, strict=True)
    for step, (bound, recent, overall) in enumerate(rows, start=1):
        if recent.value is None:
            found[f"error_bounds/step_{step}"] = f"{bound:.4g}, not judged yet"
            continue
        found[f"error_bounds/step_{step}"] = (
            f"{bound:.4g}, held for {recent.value:.3f} of the last {recent.errors} errors and for"
            f" {overall.value:.3f} of {overall.errors}"
        )
    return found


def report_of(calibration: Calibration) -> dict[str, Any]:
    """For each horizon, from one step on: the bound (None: no error is known), and how many of the errors lay
    within the bounds stated for them."""
    return {
        "probability": calibration.probability,
        "bounds": [float(f"{bound:.6g}") if np.isfinite(bound) else None for bound in calibration.bounds],
        "within": [share.within for share in calibration.overall],
        "errors": [share.errors for share in calibration.overall],
    }


def complaints_about(
    calibration: Calibration | None,
    box: BlackBox | None,
    passed_over: Sequence[str] = (),
    alarms_disabled_reason: str = "",
) -> list[str]:
    """What is not as it should be.

    Args:
        passed_over: why each engine that was preferred does not serve.
        alarms_disabled_reason: why no alarm can be given; empty: they can.
    """
    found = [f"a preferred engine does not serve: {reason}" for reason in passed_over]
    if calibration is not None and calibration.undercovered:
        steps = ", ".join(map(str, calibration.undercovered))
        found.append(
            f"error bounds hold less often than with {calibration.probability:g} at steps {steps}: what comes"
            " is not what it was"
        )
    if box is not None and alarms_disabled_reason:
        found.append(
            f"black box: nothing will be written, as no alarm can be given: {alarms_disabled_reason}"
        )
    if box is not None and box.fault:
        found.append(f"black box: {box.fault}")
    return found


def figures_of_box(box: BlackBox | None) -> dict[str, Any]:
    """What the black box has done."""
    return {} if box is None else {"black_box/written": box.written, "black_box/dropped": box.dropped}
