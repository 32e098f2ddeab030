"""Decides whether a candidate meets its latency budget on a robot that is busy with other work. Pure.

Cost. A probe runs at the lowest priority next to a working robot, so its frames often wait for a processor.
On a CPU with one thread the cost of a frame is therefore its processor time, which waiting does not change.
Elsewhere (GPU, NPU, several threads) it is the wall-clock time.

Load. Processor time grows under load as well, up to twice where hyperthreads or caches are shared. A
candidate over its budget is rejected at once only if load cannot be the reason: its fastest frame is over the
budget too, or other processes left the processors idle. Otherwise it is compared with the active model.

Comparison. Both models are timed in one process, in alternating blocks of frames, so that load affects both
alike. The ratio of their costs is the median of the ratios of neighboring blocks. Its interval consists of
order statistics (Conover, "Practical nonparametric statistics", 1999, section 3.2) and needs no assumption on
the distribution of the load. A candidate that is not slower than the active model passes. One that is slower,
while the active model meets the budget in the same minutes, is rejected. Everything else is undecided.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

# Other processes use less than this proportion of the processors: load does not explain a slow frame.
QUIET = 0.1
# A candidate whose cost is at most this many times that of the active model is not slower.
NOT_SLOWER = 1.1
CONFIDENCE = 0.99

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of frames, in milliseconds.

    Attributes:
        p99_ms: 99th percentile of the quietest round.
        least_ms: Cost of the fastest frame of all rounds.
    """

    p99_ms: float
    least_ms: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A candidate and the active model, timed in the same minutes.

    Attributes:
        candidate: Cost of the candidate's frames.
        active: Cost of the active model's frames.
        ratio: Cost of the candidate divided by that of the active model.
        low: Lower end of the interval of the ratio, at :data:`CONFIDENCE`.
        high: Upper end of that interval.
    """

    candidate: Cost
    active: Cost
    ratio: float
    low: float
    high: float


def cost_of(frames: Floats) -> Cost:
    """Return the cost of the frames of one model [rounds, blocks, frames], in milliseconds."""
    rounds = frames.reshape(len(frames), -1)
    # The cost of an actual frame, exceeded by at least one of a hundred.
    p99 = np.quantile(rounds, 0.99, axis=1, method="inverted_cdf")
    return Cost(p99_ms=float(p99.min()), least_ms=float(rounds.min()))


def compare(candidate: Floats, active: Floats) -> Comparison:
    """Compare the frames of two models [rounds, blocks, frames] whose blocks alternated."""
    ratios = np.sort((np.median(candidate, axis=-1) / np.median(active, axis=-1)).ravel())
    outside = _outside(len(ratios))
    return Comparison(
        candidate=cost_of(candidate),
        active=cost_of(active),
        ratio=float(np.median(ratios)),
        low=float(ratios[outside]),
        high=float(ratios[-1 - outside]),
    )


def is_within(
    budget_ms: float, cost: Cost, *, others: float | None, comparison: Comparison | None
) -> bool | None:
    """Return whether a candidate meets its budget; None: undecided.

    Args:
        budget_ms: The latency budget.
        cost: Cost of its frames, measured alone.
        others: Proportion of the processors that other processes used meanwhile; None: unknown.
        comparison: The comparison with the active model; None: there is none.
    """
    if cost.p99_ms <= budget_ms:
        return True
    if cost.least_ms > budget_ms or (others is not None and others < QUIET):
        return False
    if comparison is None:
        return None
    if comparison.candidate.p99_ms <= budget_ms or comparison.high <= NOT_SLOWER:
        return True
    if comparison.low > 1 and comparison.active.p99_ms <= budget_ms:
        return False
    return None


def _outside(count: int) -> int:
    """Return how many of ``count`` ordered values lie outside each end of the interval of their median."""
    at_most = np.cumsum([comb(count, few) / 2**count for few in range(count)])
    return max(0, int((at_most <= (1 - CONFIDENCE) / 2).sum()) - 1)
