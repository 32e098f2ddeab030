"""Values from profiles for comparison with limits: an unknown value is an error, never zero."""

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
    """Return a percentile of a distribution; None: it was not measured.

    Raises:
        ProfileError: There are too few samples for it.
    """
    value = measured.quantiles()[name].value if measured else None
    if value is None:
        count = measured.n if measured else 0
        raise ProfileError(f"{name} of {what} is not known: {count} samples are too few; measure longer")
    return value


def reading(readings: Sequence[Reading], name: str) -> Reading:
    """Return the reading ``name`` of the node.

    Raises:
        ProfileError: It has no values.
    """
    named = next(each for each in readings if each.name == name)
    if not named.values:
        raise ProfileError(f"{name} of the node is not known: {named.absent}")
    return named


def growth(times: Sequence[float], values: Sequence[float] | np.ndarray) -> float:
    """Return the rise of a line through ``values`` over ``times``, without the first tenth."""
    first = len(times) // 10
    x, y = np.array(times[first:]), np.array(values[first:])
    return float(np.polyfit(x, y, 1)[0] * np.ptp(x)) if len(x) > 2 else 0.0


def round_by_round(ours: Mapping[str, Any], theirs: Mapping[str, Any], stage: str) -> float:
    """Return the ratio of a stage's median in two rows, as the median of the ratios of each round.

    In a round both run one after the other. Rounds in which the machine is slower for both, or moments in
    which it is for one, would dominate a ratio over all rounds.
    """
    rounds = (row["stages_ms"][stage]["rounds_p50"] for row in (ours, theirs))
    return median(one / other for one, other in zip(*rounds, strict=True))
