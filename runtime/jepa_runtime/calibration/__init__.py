"""Reliability of predicted futures, learned from the latents that then arrive: bounds, coverage, surprise.

No clock and no file is used: stamps and numbers in, numbers out.
"""

from jepa_runtime.calibration.alarms import Alarm, Alarms
from jepa_runtime.calibration.conformal import FIRST_RATE, MIN_RATE, Bounds, conformal_quantile
from jepa_runtime.calibration.coverage import Coverage, CoverageRate, clearly_below
from jepa_runtime.calibration.monitor import (
    Calibration,
    CalibrationMonitor,
    ErrorSample,
    create_monitor,
    score_of,
)
from jepa_runtime.calibration.surprise import (
    ChangeDetector,
    Event,
    EventDetector,
    Score,
    Threshold,
    block_maxima,
    is_correlated,
    score,
    threshold_of,
)

__all__ = [
    "FIRST_RATE",
    "MIN_RATE",
    "Alarm",
    "Alarms",
    "Bounds",
    "Calibration",
    "CalibrationMonitor",
    "ChangeDetector",
    "Coverage",
    "CoverageRate",
    "ErrorSample",
    "Event",
    "EventDetector",
    "Score",
    "Threshold",
    "block_maxima",
    "clearly_below",
    "conformal_quantile",
    "create_monitor",
    "is_correlated",
    "score",
    "score_of",
    "threshold_of",
]
