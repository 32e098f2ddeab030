"""How far predicted futures can be trusted, learnt from what then came: bounds, coverage, surprise.

Pure: no clock is read, no file touched. Stamps and numbers come in, numbers go out.
"""

from jepa_runtime.calibration.bounds import Bounds, BoundsState
from jepa_runtime.calibration.coverage import Coverage, Share
from jepa_runtime.calibration.ledger import Errors, Ledger
from jepa_runtime.calibration.surprise import (
    ChangeDetector,
    Event,
    EventDetector,
    Score,
    Threshold,
    normal_threshold,
    score,
)

__all__ = [
    "Bounds",
    "BoundsState",
    "ChangeDetector",
    "Coverage",
    "Errors",
    "Event",
    "EventDetector",
    "Ledger",
    "Score",
    "Share",
    "Threshold",
    "normal_threshold",
    "score",
]
