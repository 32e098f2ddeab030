"""Error bounds that hold with a stated probability for any sequence of errors: online conformal prediction.

Each horizon has a bound q of its own. Each error that arrives is compared with the bound that was stated with
its prediction, and q moves::

    log q  <-  log q + rate(n) * (missed - alpha)
    rate(n) = max(0.05, 0.5 / n^0.6)        n: errors of this horizon so far, this one included

This is quantile tracking, the proportional part of conformal PID control (Angelopoulos, Candes & Tibshirani,
"Conformal PID control for time series prediction", 2023, equation 3), of the logarithm of the error: a step
is a factor, the same for every model, and no bound is negative. The rate decays as in Angelopoulos, Barber &
Bates, "Online conformal prediction with decaying step sizes", 2024: the first errors correct a bound that
starts from other conditions (four misses in a row widen it 3.2 times), later ones change it little. It
stops decaying at 0.05, because a robot's conditions change and the bound has to follow.

If the first bound and all errors lie within a factor e^b of one another, and arrive up to ``delay``
predictions after their bound was stated, the proportion of misses in the first T errors exceeds alpha by at
most::

    (b + rate(1) * (1 + delay)) / (rate(T) * T)

for every rate that does not increase (their theorem 1, with the overshoot of delayed errors added). No
distribution is assumed, nor that errors are independent. The guarantee is one over time, not for each error.

Why this method: ``benchmarks/conformal.py`` compares it with a fixed rate of 0.05, adaptive conformal
inference (ACI; Gibbs & Candes 2021), its aggregated form DtACI (Gibbs & Candes 2024) and conformal PID as
published. Where errors are independent and arrive at once, all five cover what they state. But predictions
overlap: the error of a long horizon arrives long after its bound was stated, and neighbors are alike. With
autocorrelated errors that arrive 48 predictions late, ACI states infinite bounds a quarter of the time, DtACI
covers 73 % instead of 90 %, because its experts are judged by what they would say now, and PID, whose step is
a proportion of the largest error, states four times what is needed. All three store a window of errors, this
method stores one number. From a bound that starts at a third of what is needed, eight steps ahead, it covers
79 to 81 % of the first 100 errors (fixed rate: 69 to 71 %, ACI: 79 to 85 %). Its price: once the rate has
decayed, of errors that become three times as large at once, eight steps ahead, it covers 78 to 79 % of the
first 200 (ACI: 82 to 85 %); these are 40 s with a step of 0.2 s.

The rate is limited so that a bound grows by at most a factor e while it waits for the first error that was
stated with it: a loop that is faster than its own delay swings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FIRST_RATE = 0.5
LEAST_RATE = 0.05
# Between 1/2 and 1: fast enough that the rates add up to any correction, and that noise averages out.
DECAY = 0.6
# Bounds fall no further below where they started: a robot that stood all night must not need long to recover.
_LEAST_OF_START = 1e-3
_LEAST = 1e-12


class Bounds:
    """One error bound a horizon.

    Args:
        start: [H] bounds to begin with, those of the bundle. Zero: none is known, and the bound is infinite
            until the first error arrives.
        probability: that an error lies within its bound.
        delays: [H] how many predictions are made until the error of the first arrives (>= 0): for h + 1
            steps, ``(h + 1) * step_s * rate_hz``.
        latent_space: see :attr:`jepa_runtime.model.world_model.WorldModel.latent_space`.

    Raises:
        ValueError: an argument is out of range, or numbers of horizons differ.
    """

    def __init__(
        self, start: Sequence[float], *, probability: float, delays: Sequence[int], latent_space: str
    ) -> None:
        first = np.asarray(start, np.float64)
        waits = np.asarray(delays, np.float64)
        if first.ndim != 1 or not len(first) or not (np.isfinite(first) & (first >= 0)).all():
            raise ValueError(f"start must be one finite bound >= 0 a horizon, got {list(start)}")
        if waits.shape != first.shape or not (np.isfinite(waits) & (waits >= 0)).all():
            raise ValueError(f"delays must be {len(first)} numbers >= 0, got {list(delays)}")
        if not 0 < probability < 1:
            raise ValueError(f"probability must lie between 0 and 1, got {probability}")
        self.probability = probability
        self.latent_space = latent_space
        known = first > 0
        self._log = np.full(len(first), math.inf)
        self._log[known] = np.log(first[known])
        self._floor = np.log(np.maximum(first * _LEAST_OF_START, _LEAST))
        self._seen = np.zeros(len(first), np.int64)
        self._most_rate = 1 / np.maximum(waits, 1)

    def stated(self) -> Floats:
        """The bounds [H] in force now, to be kept with the prediction that is made now. Never negative;
        infinite where no error was ever seen.
        """
        bounds: Floats = np.exp(self._log)
        return bounds

    def update(self, errors: Floats, stated: Floats) -> None:
        """Learn from errors that arrived.

        Args:
            errors: [H], NaN where none arrived.
            stated: [H] the bounds that were stated with these predictions; ignored where no error arrived.

        Raises:
            ValueError: a shape is another, or an error is negative or infinite.
        """
        if errors.shape != self._log.shape or stated.shape != self._log.shape:
            raise ValueError(
                f"errors and stated must be [{len(self._log)}], got {list(errors.shape)} and "
                f"{list(stated.shape)}"
            )
        came = ~np.isnan(errors)
        if (errors[came] < 0).any() or np.isinf(errors[came]).any() or np.isnan(stated[came]).any():
            raise ValueError(
                f"errors must be finite and not negative, their bounds numbers, got {errors.tolist()} and "
                f"{stated.tolist()}"
            )
        first = came & np.isinf(self._log) & (errors > 0)
        self._log[first] = np.log(errors[first])
        # Of a prediction without a bound, nothing can be judged.
        judged = came & np.isfinite(stated)
        missed = errors[judged] > stated[judged]
        self._seen[judged] += 1
        self._log[judged] += self._rates()[judged] * (missed - (1 - self.probability))
        np.maximum(self._log, self._floor, out=self._log)

    def _rates(self) -> Floats:
        """The rate [H] of the newest error of each horizon."""
        decayed = FIRST_RATE * np.maximum(self._seen, 1.0) ** -DECAY
        rates: Floats = np.minimum(np.maximum(decayed, LEAST_RATE), self._most_rate)
        return rates

    def adopt_state(self, other: Bounds) -> None:
        """Go on from what ``other`` has learnt, if it was in the same latent space, with the same probability
        and over as many horizons; else nothing changes.
        """
        ours, theirs = ((each.latent_space, each.probability, each._log.shape) for each in (self, other))
        if ours == theirs:
            self._log = np.maximum(other._log, self._floor)
