"""How surprising what came is, with a stated rate of false alarms.

Scores that follow one another are alike. So the unit of everything here is a block of scores, longer than
they remember; a block is judged by its highest score. Blocks of normal data are taken to be exchangeable with
those to come while nothing is wrong, and those that do not touch to be independent: nothing else is assumed
of how scores are distributed.

What passes (a push, a thing that moved by itself) raises a few scores far: :class:`EventDetector`. What lasts
may raise all of them a little: :class:`ChangeDetector`. Bounds that adapt take a lasting change in; for the
second, scale errors by bounds that stand still, those of the bundle.
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

# The share of high blocks after a change that the detector bets on.
_CHANGED = 0.5
# Memory shows in how high blocks follow one another: the share of high ones, and of chance findings.
_HIGH, _CHANCE = 0.1, 0.01


@dataclass(frozen=True)
class Score:
    """How surprising what came is.

    Attributes:
        value: mean of the errors, in units of their bounds.
        horizon: how many steps before was foreseen what lay furthest off (>= 1).
    """

    value: float
    horizon: int


def score(errors: Floats, bounds: Floats) -> Score | None:
    """Over all horizons at which something had been foreseen.

    Args:
        errors: [H] norms; NaN where nothing was foreseen.
        bounds: [H] the scale of each; horizons without a finite, positive one are left out.

    Returns:
        None where nothing is left.
    """
    usable = np.isfinite(errors) & np.isfinite(bounds) & (bounds > 0)
    if not usable.any():
        return None
    ratios = np.divide(errors, bounds, out=np.zeros(len(errors)), where=usable)
    return Score(float(ratios[usable].mean()), int(ratios.argmax()) + 1)


@dataclass(frozen=True)
class Threshold:
    """What normal scores exceed seldom.

    Attributes:
        value: the threshold.
        block: scores in a block.
        every: with ``confidence``, on average at most one block in so many scores holds one above ``value``.
        confidence: how sure that is, over normal data that might have been drawn.
        blocks: of normal data, it rests on.
    """

    value: float
    block: int
    every: int
    confidence: float
    blocks: int

    @property
    def share(self) -> float:
        """Of normal blocks, at most so many hold a score above :attr:`value`."""
        return self.block / self.every


def highest_of_blocks(normal: Floats, block: int) -> Floats:
    """Of scores [n] in the order they came, the highest of each ``block``; an incomplete last one is left
    out.

    Raises:
        ValueError: they are not finite numbers, or a block is none.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    if normal.ndim != 1 or not np.isfinite(normal).all():
        raise ValueError(f"normal must be [n] finite scores, got {list(normal.shape)}")
    blocks = len(normal) // block
    highest: Floats = normal[: blocks * block].reshape(blocks, block).max(axis=1)
    return highest


def remembered(runs: Sequence[Floats], block: int) -> bool:
    """Whether scores remember for longer than a ``block``: high blocks come two blocks after high ones more
    often than by chance, a tenth being high. In data in which nothing is remembered, one in a hundred times.

    Args:
        runs: scores [n] in the order they came, run by run.
    """
    highest = [highest_of_blocks(run, block) for run in runs]
    level = np.quantile(np.concatenate(highest), 1 - _HIGH)
    high = [each > level for each in highest]
    share = float(np.concatenate(high).mean())
    pairs = sum(max(0, len(each) - 2) for each in high)
    both = sum(int((each[2:] & each[:-2]).sum()) for each in high)
    return binomial_tail(both, pairs, share * share) < _CHANCE


def threshold_of(highest: Floats, *, block: int, every: int, confidence: float = 0.95) -> Threshold:
    """The lowest threshold that normal data allow: an order statistic of the highest scores of their blocks.

    Above the j-th highest of m blocks lies a share of all normal blocks that is distributed as Beta(j, m + 1
    - j), however scores are (Wilks, "Determination of sample sizes for setting tolerance limits", 1941).
    The largest j is taken for which this is at most ``block / every`` with ``confidence``. Nothing is
    extrapolated beyond what was seen.

    Args:
        highest: [m] see :func:`highest_of_blocks`, while nothing was wrong.
        block: longer than scores remember what was before: at least the horizon, because predictions that
            overlap err together.
        every: at most one false alarm in so many scores: 18000 is one in 10 minutes at 30 Hz.
        confidence: that the rate holds.

    Raises:
        ValueError: an argument is out of range.
        JepaRuntimeError: so rare an alarm cannot be stated from so little data.
    """
    if block < 1 or every <= block:
        raise ValueError(f"block must be at least 1 and every above it, got {block} and {every}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    blocks, share = len(highest), block / every
    least = math.ceil(math.log(1 - confidence) / math.log1p(-share))
    if blocks < least:
        raise JepaRuntimeError(
            f"{blocks * block} normal scores are too few to state one false alarm in {every} with a "
            f"confidence of {confidence:.0%}: record at least {least * block}, or allow alarms more often"
        )
    ranks = range(1, blocks + 1)
    rank = bisect_left(ranks, True, key=lambda rank: binomial_tail(rank, blocks, share) < confidence)
    return Threshold(float(np.sort(highest)[-rank]), block, every, confidence, blocks)


@dataclass(frozen=True)
class Event:
    """A stretch of surprising latents.

    Attributes:
        start_ns: stamp of the first.
        peak_ns: stamp of the most surprising.
        horizon: how many steps before was foreseen what lay furthest off then.
        score: how surprising that one was.
    """

    start_ns: int
    peak_ns: int
    horizon: int
    score: float


class EventDetector:
    """Joins scores above a threshold to events, one event where less than a block lies between them: so there
    are no more events than blocks with a score above it, and their rate is the threshold's.
    """

    def __init__(self, threshold: Threshold) -> None:
        self.threshold = threshold
        self._quiet = 0
        self._current: Event | None = None

    @property
    def current(self) -> Event | None:
        """What goes on now."""
        return self._current

    def update(self, stamp_ns: int, score: Score | None) -> Event | None:
        """The next score; None where there was nothing to compare with.

        Returns:
            The event that is over with it, if one is.
        """
        if score is not None and score.value > self.threshold.value:
            self._quiet = 0
            if self._current is None:
                self._current = Event(stamp_ns, stamp_ns, score.horizon, score.value)
            elif score.value > self._current.score:
                self._current = replace(
                    self._current, peak_ns=stamp_ns, horizon=score.horizon, score=score.value
                )
            return None
        self._quiet += 1
        return self.close() if self._quiet >= self.threshold.block else None

    def close(self) -> Event | None:
        """End what goes on, because what comes is not its continuation; it is returned."""
        over, self._current = self._current, None
        return over


class ChangeDetector:
    """Whether high scores have become more frequent: the Shiryaev-Roberts procedure on bets.

    Each block that holds a score above ``threshold`` multiplies a stake by 0.5 / p, each other by 0.5 / (1 -
    p), where p is the threshold's share; before each, a new stake of one is added. While a block is high with
    a chance of at most p, whatever came before, the factor is one on average or less, and stakes of n alarm
    after n blocks on average or more (Shin, Ramdas & Rinaldo, "E-detectors", 2024; Roberts, "A comparison of
    some control chart procedures", 1966). Every second block is left out: neighbours are alike at their
    border, which would make alarms more frequent than stated.

    Args:
        threshold: one that normal blocks exceed now and then, such as every tenth.
        average_run: scores, on average, until a false alarm; at least.

    Raises:
        ValueError: half of normal blocks may exceed the threshold, or ``average_run`` is below two blocks.
    """

    def __init__(self, threshold: Threshold, *, average_run: int) -> None:
        if threshold.share >= _CHANGED:
            raise ValueError(
                f"normal blocks must exceed the threshold in less than {_CHANGED:.0%}, may in "
                f"{threshold.share:.0%}"
            )
        if average_run < 2 * threshold.block:
            raise ValueError(
                f"average_run must be at least two blocks ({2 * threshold.block} scores), got {average_run}"
            )
        self.threshold = threshold
        self._limit = average_run / (2 * threshold.block)
        self._statistic = 0.0
        self._seen = 0
        self._high = False

    def update(self, score: Score | None) -> bool:
        """The next score; None where there was nothing to compare with, which counts for nothing.

        Returns:
            Whether a change shows; the detector then starts anew.
        """
        if score is None:
            return False
        block, share = self.threshold.block, self.threshold.share
        if self._seen >= block:
            self._high = self._high or score.value > self.threshold.value
        self._seen += 1
        if self._seen < 2 * block:
            return False
        factor = _CHANGED / share if self._high else (1 - _CHANGED) / (1 - share)
        self._statistic = (self._statistic + 1) * factor
        self._seen, self._high = 0, False
        changed = self._statistic >= self._limit
        if changed:
            self._statistic = 0.0
        return changed
