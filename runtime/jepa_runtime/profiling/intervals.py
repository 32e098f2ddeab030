"""How far a statistic of a run can be trusted: by circular block bootstrap. Of a share,
:mod:`jepa_runtime.shares` tells.

Frames that follow one another are alike (a stall delays many), so single samples must not be resampled as if
they were independent. Blocks of neighbours are, round the end of the run (Politis & Romano, "A circular
block-resampling procedure for stationary data", 1992). Blocks are sqrt(n) samples long: longer than the
n^(1/3) that suits short dependence, because stalls last. They start at every quarter of a block: then a
resample is a matrix of how often each quarter came, and a quantile of all resamples is one matrix product.
Intervals are those of the percentile bootstrap (Efron & Tibshirani, "An introduction to the bootstrap",
1993, chapter 13). The seed is fixed: the same samples give the same interval.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
CONFIDENCE = 0.95
METHOD = f"{CONFIDENCE:.0%} intervals by circular block bootstrap, blocks of sqrt(n), {RESAMPLES} resamples"

# Bootstrap intervals of fewer samples than this would be too narrow to be honest.
MIN_SAMPLES = 20

_CELLS_PER_BLOCK = 4
_GRID = 256
_REACH = 8.0  # standard deviations of a resampled rank that the grid of candidate values spans

Floats = NDArray[np.float64]


class BlockBootstrap:
    """Resamples of one series of samples, given in the order they were taken.

    Args:
        samples: [n], at least :data:`MIN_SAMPLES`.
        seed: of the resamples; two series with different seeds are resampled independently.
    """

    def __init__(self, samples: Floats, *, seed: int) -> None:
        count = len(samples)
        blocks = math.isqrt(count)
        cells = _CELLS_PER_BLOCK * blocks
        starts = np.random.default_rng(seed).integers(cells, size=(RESAMPLES, blocks))
        starts += cells * np.arange(RESAMPLES)[:, None]
        chosen = np.bincount(starts.ravel(), minlength=RESAMPLES * cells).reshape(RESAMPLES, cells)
        covered = sum(np.roll(chosen, shift, axis=1) for shift in range(_CELLS_PER_BLOCK))
        self._samples = samples
        self._ordered = np.sort(samples)
        self._cells = cells
        self._cell = np.arange(count) * cells // count
        self._weights: Floats = np.asarray(covered, np.float64)
        self._sizes = self._weights @ np.bincount(self._cell, minlength=cells).astype(np.float64)

    def quantile(self, permille: int) -> float:
        """The quantile (nearest rank) of the samples themselves."""
        return float(self._ordered[-(-len(self._ordered) * permille // 1000) - 1])

    def quantiles(self, permille: int) -> Floats:
        """The quantile (nearest rank) of every resample, [:data:`RESAMPLES`]."""
        count = len(self._ordered)
        rank = -(-count * permille // 1000)
        below = np.bincount(self._cell[self._samples <= self.quantile(permille)], minlength=self._cells)
        reach = _REACH * max(float((self._weights @ below).std()), 1.0)
        first, last = max(rank - 1 - reach, 0), min(rank - 1 + reach, count - 1)
        candidates = np.unique(self._ordered[np.unique(np.linspace(first, last, _GRID).round().astype(int))])
        upto = np.searchsorted(candidates, self._samples)
        width = len(candidates) + 1
        table = np.bincount(self._cell * width + upto, minlength=self._cells * width)
        counts = self._weights @ table.reshape(self._cells, width)[:, :-1].cumsum(axis=1).astype(np.float64)
        ranks = np.ceil(self._sizes * permille / 1000)
        found = (counts < ranks[:, None]).sum(axis=1)
        return np.asarray(candidates[np.minimum(found, len(candidates) - 1)], np.float64)

    def means(self) -> Floats:
        """The mean of every resample, [:data:`RESAMPLES`]."""
        sums = np.bincount(self._cell, weights=self._samples, minlength=self._cells)
        return np.asarray(self._weights @ sums / self._sizes, np.float64)


def interval(resampled: Floats) -> tuple[float, float]:
    """Lower and upper end, at :data:`CONFIDENCE`, of a resampled statistic [n]."""
    tail = (1 - CONFIDENCE) / 2
    ordered = np.sort(resampled)
    outside = int(len(ordered) * tail)
    return float(ordered[outside]), float(ordered[-1 - outside])
