"""How far predicted futures can be trusted, learnt from what then came: bounds, coverage.

Pure: no clock is read, no file touched. Stamps and numbers come in, numbers go out.
"""

from jepa_runtime.calibration.bounds import Bounds, BoundsState
from jepa_runtime.calibration.coverage import Coverage, Share
from jepa_runtime.calibration.ledger import Errors, Ledger

__all__ = [
    "Bounds",
    "BoundsState",
    "Coverage",
    "Errors",
    "Ledger",
    "Share",
]
