"""Figures out of profiles, as limits judge them: what is not known is an error, never a zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling import Distribution
from jepa_runtime.telemetry import Reading
from jepa_runtime.util import PercentileName


def known(measured: Distribution | None, name: PercentileName, what: str) -> float:
    """A percentile; of None, what was not measured at all.

    Raises:
        ProfileError: there are too few samples for it.
    """
    value = measured.quantiles()[name].value if measured else None
    if value is None:
        count = measured.n if measured else 0
        raise ProfileError(f"{name} of {what} is not known: {count} samples do not carry it; measure longer")
    return value


def reading(readings: Sequence[Reading], name: str) -> Reading:
    """What was read of the node.

    Raises:
        ProfileError: nothing was.
    """
    found = next(each for each in readings if each.name == name)
    if not found.values:
        raise ProfileError(f"{name} of the node is not known: {found.absent}")
    return found


def growth(times: Sequence[float], values: Sequence[float] | np.ndarray) -> float:
    """How much a line through ``values`` rises over ``times``, without the first tenth."""
    first = len(times) // 10
    x, y = np.array(times[first:]), np.array(values[first:])
    return float(np.polyfit(x, y, 1)[0] * np.ptp(x)) if len(x) > 2 else 0.0


def round_by_round(ours: Mapping[str, Any], theirs: Mapping[str, Any], stage: str) -> float:
    """A stage's median in one row over that in another: the median of the ratios of each round.

    In a round the two follow one another; whole rounds in which the machine is slower for both, or the
    moments in which it is for one, would decide the ratio of what all rounds come to."""
    rounds = (row["stages_ms"][stage]["rounds_p50"] for row in (ours, theirs))
    return median(one / other for one, other in zip(*rounds, strict=True))
