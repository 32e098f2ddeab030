"""How far predicted futures can be trusted, learnt from what then came: bounds, coverage, surprise.

Pure: no clock is read, no file touched. Stamps and numbers come in, numbers go out.
"""

from jepa_runtime.calibration.alarms import Alarm, Alarms
from jepa_runtime.calibration.conformal import Bounds
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
    highest_of_blocks,
    remembered,
    score,
    threshold_of,
)

__all__ = [
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
    "clearly_below",
    "create_monitor",
    "highest_of_blocks",
    "remembered",
    "score",
    "score_of",
    "threshold_of",
]
