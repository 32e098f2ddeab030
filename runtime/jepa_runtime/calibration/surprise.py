"""Surprise detection with a stated rate of false alarms.

Consecutive scores are correlated. So the unit of everything here is a block of scores, longer than their
correlation, represented by its maximum. Blocks of normal data are assumed to be exchangeable with future ones
while nothing is wrong, and blocks that are not adjacent to be independent; the distribution of scores is
arbitrary.

A transient event (a push, an object that moves by itself) raises a few scores far: :class:`EventDetector`. A
lasting change may raise all of them slightly: :class:`ChangeDetector`. Adaptive bounds absorb a lasting
change; for the change detector, scale errors by fixed bounds, those of the bundle.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.util.proportions import binomial_tail

Floats = NDArray[np.float64]

# Proportion of high blocks after a change that the detector bets on.
_CHANGED = 0.5
# Test for correlation of blocks: the proportion of blocks that count as high, and the significance level.
_HIGH, _SIGNIFICANCE = 0.1, 0.01


@dataclass(frozen=True)
class Score:
    """Surprise score of a latent.

    Attributes:
        value: Mean of the errors, in units of their bounds.
        horizon: Horizon of the largest error, in steps (>= 1).
    """

    value: float
    horizon: int


def score(errors: Floats, bounds: Floats) -> Score | None:
    """Return the score over all horizons with a prediction.

    Args:
        errors: Norms [H]; NaN where there was no prediction.
        bounds: Scale [H] of each; horizons without a finite, positive one are excluded.

    Returns:
        None if no horizon is left.
    """
    usable = np.isfinite(errors) & np.isfinite(bounds) & (bounds > 0)
    if not usable.any():
        return None
    ratios = np.divide(errors, bounds, out=np.zeros(len(errors)), where=usable)
    return Score(float(ratios[usable].mean()), int(ratios.argmax()) + 1)


@dataclass(frozen=True)
class Threshold:
    """A threshold that normal scores rarely exceed.

    Attributes:
        value: The threshold.
        block: Scores in a block.
        every: Number of scores in which, with ``confidence``, at most one block exceeds ``value`` on average.
        confidence: Confidence level over possible samples of normal data.
        blocks: Number of blocks of normal data behind it.
    """

    value: float
    block: int
    every: int
    confidence: float
    blocks: int

    @property
    def rate(self) -> float:
        """Maximum proportion of normal blocks that exceed :attr:`value`."""
        return self.block / self.every


def block_maxima(normal: Floats, block: int) -> Floats:
    """Return the maximum of each ``block`` of consecutive scores [n]; an incomplete last block is dropped.

    Raises:
        ValueError: The scores are not finite, or ``block`` is less than 1.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    if normal.ndim != 1 or not np.isfinite(normal).all():
        raise ValueError(f"normal must be [n] finite scores, got {list(normal.shape)}")
    blocks = len(normal) // block
    maxima: Floats = normal[: blocks * block].reshape(blocks, block).max(axis=1)
    return maxima


def is_correlated(runs: Sequence[Floats], block: int) -> bool:
    """Return whether scores are correlated over more than a ``block``.

    They are if high blocks (the highest tenth) follow two blocks after high ones more often than by chance,
    with a false positive rate of 1 %.

    Args:
        runs: Consecutive scores [n] of each run.
        block: Scores in a block.
    """
    maxima = [block_maxima(run, block) for run in runs]
    level = np.quantile(np.concatenate(maxima), 1 - _HIGH)
    high = [each > level for each in maxima]
    rate = float(np.concatenate(high).mean())
    pairs = sum(max(0, len(each) - 2) for each in high)
    both = sum(int((each[2:] & each[:-2]).sum()) for each in high)
    return binomial_tail(both, pairs, rate * rate) < _SIGNIFICANCE


def threshold_of(highest: Floats, *, block: int, every: int, confidence: float = 0.95) -> Threshold:
    """Return the lowest threshold that normal data permit: an order statistic of their block maxima.

    The proportion of normal blocks above the j-th highest of m blocks is distributed as Beta(j, m + 1 - j)
    for any distribution of scores (Wilks, "Determination of sample sizes for setting tolerance limits",
    1941). The largest j is used for which it is at most ``block / every`` with ``confidence``. Nothing is
    extrapolated beyond the data.

    Args:
        highest: Block maxima [m] of normal data, see :func:`block_maxima`.
        block: Scores in a block, longer than their correlation: at least the horizon, because errors of
            overlapping predictions are correlated.
        every: Number of scores in which there is at most one false alarm on average: 18000 is one in 10
            minutes at 30 Hz.
        confidence: Confidence level of the rate.

    Raises:
        ValueError: An argument is out of range.
        JepaRuntimeError: There are too few normal data for this rate.
    """
    if block < 1 or every <= block:
        raise ValueError(f"block must be at least 1 and every above it, got {block} and {every}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    blocks, rate = len(highest), block / every
    needed = math.ceil(math.log(1 - confidence) / math.log1p(-rate))
    if blocks < needed:
        raise JepaRuntimeError(
            f"{blocks * block} normal scores are too few for one false alarm in {every} with a confidence of "
            f"{confidence:.0%}: record at least {needed * block}, or allow more frequent false alarms",
            code="calibration.too_few_scores",
        )
    ranks = range(1, blocks + 1)
    rank = bisect_left(ranks, True, key=lambda rank: binomial_tail(rank, blocks, rate) < confidence)
    return Threshold(float(np.sort(highest)[-rank]), block, every, confidence, blocks)


@dataclass(frozen=True)
class Event:
    """A period of surprising latents.

    Attributes:
        start_ns: Stamp of the first one.
        peak_ns: Stamp of the one with the highest score.
        horizon: Horizon of its largest error, in steps.
        score: Its score.
    """

    start_ns: int
    peak_ns: int
    horizon: int
    score: float


class EventDetector:
    """Groups scores above a threshold into events.

    Scores less than a block apart belong to one event. So there are no more events than blocks above the
    threshold, and their rate is at most that of the threshold.
    """

    def __init__(self, threshold: Threshold) -> None:
        self.threshold = threshold
        self._below = 0
        self._current: Event | None = None

    @property
    def current(self) -> Event | None:
        """The event in progress, or None."""
        return self._current

    def update(self, stamp_ns: int, score: Score | None) -> Event | None:
        """Add the next score; None if there is nothing to compare.

        Returns:
            The event that ends with it, or None.
        """
        if score is not None and score.value > self.threshold.value:
            self._below = 0
            if self._current is None:
                self._current = Event(stamp_ns, stamp_ns, score.horizon, score.value)
            elif score.value > self._current.score:
                self._current = replace(
                    self._current, peak_ns=stamp_ns, horizon=score.horizon, score=score.value
                )
            return None
        self._below += 1
        return self.close() if self._below >= self.threshold.block else None

    def close(self) -> Event | None:
        """End the event in progress, because the next scores do not continue it, and return it."""
        ended, self._current = self._current, None
        return ended


class ChangeDetector:
    """Detects that high scores have become more frequent: the Shiryaev-Roberts procedure on bets.

    Each block with a score above ``threshold`` multiplies a stake by 0.5 / p, each other block by 0.5 / (1 -
    p), where p is the threshold's rate; before each block, a new stake of one is added. While a block is high
    with a probability of at most p, given its past, the factor is at most one on average, and a limit of n
    raises an alarm after at least n blocks on average (Shin, Ramdas & Rinaldo, "E-detectors", 2024; Roberts,
    "A comparison of some control chart procedures", 1966). Every second block is skipped: adjacent blocks are
    correlated at their border, which would make alarms more frequent than stated.

    Args:
        threshold: A threshold that normal blocks exceed occasionally, such as every tenth.
        average_run: Minimum mean number of scores until a false alarm.

    Raises:
        ValueError: Half of the normal blocks may exceed the threshold, or ``average_run`` is below two
            blocks.
    """

    def __init__(self, threshold: Threshold, *, average_run: int) -> None:
        if threshold.rate >= _CHANGED:
            raise ValueError(
                f"less than {_CHANGED:.0%} of the normal blocks may exceed the threshold, got "
                f"{threshold.rate:.0%}"
            )
        if average_run < 2 * threshold.block:
            raise ValueError(
                f"average_run must be at least two blocks ({2 * threshold.block} scores), got {average_run}"
            )
        self.threshold = threshold
        self._limit = average_run / (2 * threshold.block)
        self._statistic = 0.0
        self._count = 0
        self._is_high = False

    def update(self, score: Score | None) -> bool:
        """Add the next score; None, if there is nothing to compare, has no effect.

        Returns:
            Whether a change is detected; the detector then restarts.
        """
        if score is None:
            return False
        block, rate = self.threshold.block, self.threshold.rate
        if self._count >= block:
            self._is_high = self._is_high or score.value > self.threshold.value
        self._count += 1
        if self._count < 2 * block:
            return False
        factor = _CHANGED / rate if self._is_high else (1 - _CHANGED) / (1 - rate)
        self._statistic = (self._statistic + 1) * factor
        self._count, self._is_high = 0, False
        is_detected = self._statistic >= self._limit
        if is_detected:
            self._statistic = 0.0
        return is_detected
