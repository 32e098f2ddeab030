"""Error bounds with a stated coverage for any sequence of errors: online conformal prediction.

Each horizon has its own bound q. Each error that arrives is compared with the bound that was stated with
its prediction, and q moves::

    log q  <-  log q + rate(n) * (missed - alpha)
    rate(n) = max(0.05, 0.5 / n^0.6)        n: errors of this horizon so far, including this one

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
published. If errors are independent and arrive at once, all five have the stated coverage. But predictions
overlap: the error of a long horizon arrives long after its bound was stated, and neighboring errors are
correlated. With autocorrelated errors that arrive 48 predictions late, ACI states infinite bounds a quarter
of the time, DtACI covers 73 % instead of 90 %, because its experts are evaluated by their present bounds, and
PID, whose step is a proportion of the largest error, states four times what is needed. All three store a
window of errors, this method stores one number. From a bound that starts at a third of what is needed, eight
steps ahead, it covers 79 to 81 % of the first 100 errors (fixed rate: 69 to 71 %, ACI: 79 to 85 %). Its
price: once the rate has decayed, of errors that become three times as large at once, eight steps ahead, it
covers 78 to 79 % of the first 200 (ACI: 82 to 85 %); these are 40 s with a step of 0.2 s.

The rate is limited so that a bound grows by at most a factor e before the first error stated with it arrives:
a loop that is faster than its own delay oscillates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FIRST_RATE = 0.5
"""The rate of the first error."""
MIN_RATE = 0.05
"""The lowest rate at which bounds are adapted, unless another is set."""
# Between 1/2 and 1: fast enough that the rates add up to any correction, and that noise averages out.
DECAY = 0.6
# Lower limit of a bound relative to its start, so that a robot that stood all night recovers quickly.
_MIN_OF_START = 1e-3
_MIN = 1e-12


def conformal_quantile(errors: Floats, probability: float) -> float:
    """Return the bound of split conformal prediction: an order statistic of recorded errors.

    The next error is at most this with the probability, if it is exchangeable with the ``errors``: the bound
    is the ``ceil((n + 1) * probability)``-th smallest (Vovk, Gammerman & Shafer, "Algorithmic learning in a
    random world", 2005).

    Args:
        errors: Errors [n].
        probability: Probability that the next error is at most the bound.

    Returns:
        The bound; infinite if there are too few errors for this probability.

    Raises:
        ValueError: The errors are not [n] numbers, or the probability is out of range.
    """
    if errors.ndim != 1 or np.isnan(errors).any():
        raise ValueError(f"errors must be [n] numbers, got {list(errors.shape)}")
    if not 0 < probability < 1:
        raise ValueError(f"probability must lie between 0 and 1, got {probability}")
    # The margin is for rounding.
    rank = math.ceil((len(errors) + 1) * probability - 1e-9)
    return float(np.sort(errors)[rank - 1]) if rank <= len(errors) else math.inf


class Bounds:
    """One error bound per horizon.

    Args:
        start: Initial bounds [H], those of the bundle. Zero: unknown; the bound is infinite until the first
            error arrives.
        probability: Target coverage.
        delays: Number of predictions [H] made until the error of the first one arrives (>= 0): for h + 1
            steps, ``(h + 1) * step_s * rate_hz``.
        latent_space: See :attr:`jepa_runtime.model.world_model.WorldModel.latent_space`.
        min_rate: The rate at which the decay stops. Higher for errors that are rare: the bound follows them
            sooner, and varies more.

    Raises:
        ValueError: An argument is out of range, or numbers of horizons differ.
    """

    def __init__(
        self,
        start: Sequence[float],
        *,
        probability: float,
        delays: Sequence[int],
        latent_space: str,
        min_rate: float = MIN_RATE,
    ) -> None:
        first = np.asarray(start, np.float64)
        waits = np.asarray(delays, np.float64)
        if first.ndim != 1 or not len(first) or not (np.isfinite(first) & (first >= 0)).all():
            raise ValueError(f"start must be one finite bound >= 0 per horizon, got {list(start)}")
        if waits.shape != first.shape or not (np.isfinite(waits) & (waits >= 0)).all():
            raise ValueError(f"delays must be {len(first)} numbers >= 0, got {list(delays)}")
        if not 0 < probability < 1:
            raise ValueError(f"probability must lie between 0 and 1, got {probability}")
        if not 0 < min_rate <= FIRST_RATE:
            raise ValueError(f"min_rate must be above 0 and at most {FIRST_RATE}, got {min_rate}")
        self._min_rate = min_rate
        self.probability = probability
        self.latent_space = latent_space
        known = first > 0
        self._log = np.full(len(first), math.inf)
        self._log[known] = np.log(first[known])
        self._floor = np.log(np.maximum(first * _MIN_OF_START, _MIN))
        self._counts = np.zeros(len(first), np.int64)
        self._max_rate = 1 / np.maximum(waits, 1)

    def current(self) -> Floats:
        """Return the bounds [H] in force, to be stored with the predictions made now.

        They are never negative, and infinite where no error has arrived yet.
        """
        bounds: Floats = np.exp(self._log)
        return bounds

    def update(self, errors: Floats, stated: Floats) -> None:
        """Learn from errors that arrived.

        Args:
            errors: Errors [H], NaN where none arrived.
            stated: Bounds [H] that were stated with these predictions; ignored where no error arrived.

        Raises:
            ValueError: A shape differs, or an error is negative or infinite.
        """
        if errors.shape != self._log.shape or stated.shape != self._log.shape:
            raise ValueError(
                f"errors and stated must be [{len(self._log)}], got {list(errors.shape)} and "
                f"{list(stated.shape)}"
            )
        arrived = ~np.isnan(errors)
        if (errors[arrived] < 0).any() or np.isinf(errors[arrived]).any() or np.isnan(stated[arrived]).any():
            raise ValueError(
                f"errors must be finite and not negative, their bounds numbers, got {errors.tolist()} and "
                f"{stated.tolist()}"
            )
        first = arrived & np.isinf(self._log) & (errors > 0)
        self._log[first] = np.log(errors[first])
        # A prediction without a bound does not count.
        counted = arrived & np.isfinite(stated)
        missed = errors[counted] > stated[counted]
        self._counts[counted] += 1
        self._log[counted] += self._rates()[counted] * (missed - (1 - self.probability))
        np.maximum(self._log, self._floor, out=self._log)

    def _rates(self) -> Floats:
        """Return the rate [H] of the newest error of each horizon."""
        decayed = FIRST_RATE * np.maximum(self._counts, 1.0) ** -DECAY
        rates: Floats = np.minimum(np.maximum(decayed, self._min_rate), self._max_rate)
        return rates

    def adopt_state(self, other: Bounds) -> None:
        """Continue with the bounds of ``other`` if latent space, probability and horizons are the same."""
        ours, theirs = ((each.latent_space, each.probability, each._log.shape) for each in (self, other))
        if ours == theirs:
            self._log = np.maximum(other._log, self._floor)
