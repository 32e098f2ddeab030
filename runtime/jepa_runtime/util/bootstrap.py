"""How far a statistic of a run can be trusted: by bootstrap. Of a share, :mod:`jepa_runtime.util.proportions`
tells.

Frames that follow one another are alike (a stall delays many), so samples must not be taken for independent:

- Of a percentile: n samples are worth m independent ones, by how much more than chance has it their number
  below it, and below the median, varies between batches of the run (Kish, "Survey sampling", 1965, on the
  design effect; Asmussen & Glynn, "Stochastic simulation", 2007, on batch means). Resampled are m out of n
  (Bickel, Goetze & van Zwet, "Resampling fewer than n observations", 1997): the rank of the percentile of
  such a resample has a beta distribution, from which it is drawn. Blocks would give too narrow an interval
  here: a tail consists of few bursts, and of what those did not show they have nothing to draw from.
- Of a mean: a circular block bootstrap, with blocks of sqrt(n) neighbours that start at every quarter of a
  block (Politis & Romano, "A circular block-resampling procedure for stationary data", 1992): longer than
  the n^(1/3) that suits short dependence, because stalls last.

Intervals hold the middle of what was drawn (Efron & Tibshirani, "An introduction to the bootstrap", 1993,
chapter 13). The seed is fixed: the same samples give the same interval.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util.statistics import PERCENTILES, nearest_rank

RESAMPLES = 1000
CONFIDENCE = 0.95
METHOD = (
    f"{CONFIDENCE:.0%} intervals by bootstrap: of percentiles m out of n (m: the independent samples that "
    "n are worth), of shares circular blocks of sqrt(n)"
)

# Intervals of fewer samples than this would be too narrow to be honest.
MIN_SAMPLES = 20

_BATCHES = 20
_CELLS_PER_BLOCK = 4

Floats = NDArray[np.float64]


def drawn_quantiles(samples: Floats, permille: int, *, seed: int) -> Floats:
    """What the quantile of other such runs may be, [:data:`RESAMPLES`]; always one of the samples.

    Args:
        samples: [n], at least :data:`MIN_SAMPLES`, in the order they were taken.
        seed: of what is drawn; two series with different seeds are drawn independently.
    """
    ordered = np.sort(samples)
    # A burst shows whole with four times as many samples beyond.
    levels = {PERCENTILES["p50"], max(PERCENTILES["p50"], 4 * permille - 3000), permille}
    worth = len(samples) / max(1.0, *(_excess(samples <= nearest_rank(ordered, each)) for each in levels))
    below = worth * permille / 1000
    shares = np.random.default_rng(seed).beta(below + 0.5, worth - below + 0.5, RESAMPLES)
    ranks = np.minimum((shares * len(samples)).astype(int), len(samples) - 1)
    return np.asarray(ordered[ranks], np.float64)


def drawn_means(samples: Floats, *, seed: int) -> Floats:
    """What the mean of other such runs may be, as :func:`drawn_quantiles`."""
    count = len(samples)
    blocks = math.isqrt(count)
    cells = _CELLS_PER_BLOCK * blocks
    starts = np.random.default_rng(seed).integers(cells, size=(RESAMPLES, blocks))
    starts += cells * np.arange(RESAMPLES)[:, None]
    chosen = np.bincount(starts.ravel(), minlength=RESAMPLES * cells).reshape(RESAMPLES, cells)
    weights = sum(np.roll(chosen, shift, axis=1) for shift in range(_CELLS_PER_BLOCK))
    cell = np.arange(count) * cells // count
    sums, sizes = np.bincount(cell, weights=samples), np.bincount(cell)
    return np.asarray(weights @ sums / (weights @ sizes), np.float64)


def interval(drawn: Floats) -> tuple[float, float]:
    """Lower and upper end, at :data:`CONFIDENCE`, of what was drawn of a statistic [n]."""
    tail = (1 - CONFIDENCE) / 2
    ordered = np.sort(drawn)
    outside = int(len(ordered) * tail)
    return float(ordered[outside]), float(ordered[-1 - outside])


def _excess(below: NDArray[np.bool_]) -> float:
    """How many times as much the number of those flagged varies between batches as that of independent ones:
    Pearson's dispersion."""
    share = float(below.mean())
    if share == 1:
        return 1.0
    batches = min(_BATCHES, math.isqrt(len(below)))
    batch = np.arange(len(below)) * batches // len(below)
    found, sizes = np.bincount(batch, weights=below), np.bincount(batch)
    return float(((found - share * sizes) ** 2 / sizes).sum() / ((batches - 1) * share * (1 - share)))
