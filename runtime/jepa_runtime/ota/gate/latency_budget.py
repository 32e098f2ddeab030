"""Does a candidate meet its latency budget, on a robot that is busy with other work? Pure.

Cost. A probe runs at the lowest priority next to a robot that works, so by the clock its frames often wait
for a processor. On a CPU with one thread the cost of a frame is therefore its processor time, which waiting
does not change. Elsewhere (GPU, NPU, several threads) it is the time by the clock.

Load. Processor time grows under load as well, up to twice where hyperthreads or caches are shared. So a
candidate over its budget is refused at once only if load cannot be the reason: its fastest frame is over the
budget too, or others left the processors idle. Otherwise it is compared with the active model.

Comparison. Both models are timed in one process, in blocks of frames that alternate, so that load meets both
alike. The ratio of their costs is the median of the ratios of neighboring blocks; its interval consists of
order statistics (Conover, "Practical nonparametric statistics", 1999, section 3.2) and needs no assumption
on how load is distributed. A candidate that is not slower than the active model passes; one that is slower,
where the active model meets the budget in the same minutes, is refused. All else is undecided.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

# Others use less of the processors than this: load is no reason for a slow frame.
QUIET = 0.1
# A candidate whose cost is at most this many times that of the active model is not slower.
NOT_SLOWER = 1.1
CONFIDENCE = 0.99

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What frames cost, in milliseconds.

    Attributes:
        p99_ms: 99th percentile of the quietest round.
        least_ms: of the fastest frame of all rounds.
    """

    p99_ms: float
    least_ms: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A candidate and the active model, timed in the same minutes.

    Attributes:
        candidate, active: what frames of each cost.
        ratio: cost of the candidate over that of the active model.
        low, high: interval of the ratio, at :data:`CONFIDENCE`.
    """

    candidate: Cost
    active: Cost
    ratio: float
    low: float
    high: float


def cost_of(frames: Floats) -> Cost:
    """The cost of the frames of one model [rounds, blocks, frames], in milliseconds."""
    rounds = frames.reshape(len(frames), -1)
    # An actual frame, with at least one of a hundred beyond it.
    p99 = np.quantile(rounds, 0.99, axis=1, method="inverted_cdf")
    return Cost(p99_ms=float(p99.min()), least_ms=float(rounds.min()))


def compare(candidate: Floats, active: Floats) -> Comparison:
    """Compare frames of two models [rounds, blocks, frames], whose blocks alternated."""
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
    """Whether a candidate meets its budget; None: that cannot be told now.

    Args:
        cost: of its frames, measured alone.
        others: proportion of the processors that other processes used meanwhile; None: unknown.
        comparison: with the active model; None: there is none.
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
    """The number of the ``count`` ordered values at each end that the interval of their median leaves out."""
    at_most = np.cumsum([comb(count, few) / 2**count for few in range(count)])
    return max(0, int((at_most <= (1 - CONFIDENCE) / 2).sum()) - 1)
