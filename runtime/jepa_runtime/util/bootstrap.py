"""Bootstrap confidence intervals of the statistics of a run.

For proportions see :mod:`jepa_runtime.util.proportions`. Consecutive frames are correlated (a stall delays
many), so samples are not independent:

- Percentiles: n samples are worth m independent samples. m follows from how much more than by chance the
  number of samples below the percentile, and below the median, varies between batches of the run (Kish,
  "Survey sampling", 1965, on the design effect; Asmussen & Glynn, "Stochastic simulation", 2007, on batch
  means). The bootstrap draws m out of n (Bickel, Goetze & van Zwet, "Resampling fewer than n observations",
  1997): the rank of the percentile of such a resample has a beta distribution, from which it is drawn. A
  block bootstrap would give too narrow an interval: a tail consists of few bursts, and blocks can only
  repeat the bursts that occurred.
- Means: a circular block bootstrap, with blocks of sqrt(n) samples that start at every quarter of a block
  (Politis & Romano, "A circular block-resampling procedure for stationary data", 1992): longer than the
  n^(1/3) that suits short dependence, because stalls last.

Intervals are the middle of the resampled values (Efron & Tibshirani, "An introduction to the bootstrap",
1993, chapter 13). The seed is fixed: the same samples give the same interval.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util.percentiles import PERCENTILES
from jepa_runtime.util.statistics import nearest_rank

RESAMPLES = 1000
"""The number of resamples."""
CONFIDENCE = 0.95
INTERVAL_METHOD = (
    f"{CONFIDENCE:.0%} bootstrap intervals: m out of n for percentiles (m: effective number of independent "
    "samples), circular blocks of sqrt(n) for proportions"
)
"""How intervals are computed, for reports."""

MIN_SAMPLES = 20
"""Intervals of fewer samples would be too narrow."""

_BATCHES = 20
_CELLS_PER_BLOCK = 4

Floats = NDArray[np.float64]


def resampled_quantiles(samples: Floats, permille: int, *, seed: int) -> Floats:
    """Draw quantiles of comparable runs, [:data:`RESAMPLES`]; each is one of the samples.

    Args:
        samples: [n], at least :data:`MIN_SAMPLES`, in the order in which they were taken.
        permille: The quantile in thousandths.
        seed: The seed of the random draws. Series with different seeds are independent.
    """
    ordered = np.sort(samples)
    # With four times as many samples beyond the level, a burst is covered completely.
    levels = {PERCENTILES["p50"], max(PERCENTILES["p50"], 4 * permille - 3000), permille}
    effective = len(samples) / max(1.0, *(_excess(samples <= nearest_rank(ordered, each)) for each in levels))
    below = effective * permille / 1000
    proportions = np.random.default_rng(seed).beta(below + 0.5, effective - below + 0.5, RESAMPLES)
    ranks = np.minimum((proportions * len(samples)).astype(int), len(samples) - 1)
    return np.asarray(ordered[ranks], np.float64)


def resampled_means(samples: Floats, *, seed: int) -> Floats:
    """Draw means of comparable runs, as :func:`resampled_quantiles`."""
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


def confidence_interval(resampled: Floats) -> tuple[float, float]:
    """Return the interval, at :data:`CONFIDENCE`, of resampled values [n]."""
    tail = (1 - CONFIDENCE) / 2
    ordered = np.sort(resampled)
    outside = int(len(ordered) * tail)
    return float(ordered[outside]), float(ordered[-1 - outside])


def _excess(below: NDArray[np.bool_]) -> float:
    """Return Pearson's dispersion: the variance of counts in batches, relative to independent samples."""
    proportion = float(below.mean())
    if proportion == 1:
        return 1.0
    batches = min(_BATCHES, math.isqrt(len(below)))
    batch = np.arange(len(below)) * batches // len(below)
    found, sizes = np.bincount(batch, weights=below), np.bincount(batch)
    variance = proportion * (1 - proportion)
    return float(((found - proportion * sizes) ** 2 / sizes).sum() / ((batches - 1) * variance))
