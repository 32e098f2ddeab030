"""Is a candidate as good as what serves? A paired sequential test on prediction errors. Pure.

Score. On one and the same frame each model predicts the latent that then arrives. Latent spaces differ in
scale and meaning, so an error counts against what the same model would have erred by predicting no change:
``e / (e + c)``, with e = |predicted - arrived| and c = |last - arrived|. It is 0 for a perfect prediction and
1/2 for one that is worth no more than the last latent; scaling or turning a latent space changes nothing, and
no single frame can outweigh many, as it could in e / c where little moves.

Question. With x = candidate - (1 + margin) current, the candidate is too bad if the mean of x is above 0. The
pairing takes away what makes a frame hard for both.

Blocks. Frames that follow one another are alike, so the test sees the means of blocks of frames; what
correlation neighbouring blocks still have (lag 1, if positive) makes the blocks count for fewer:
n (1 - r) / (1 + r), as for an autoregression of first order.

Test. A confidence sequence for a mean at unknown variance: the mixture sequential t-test with a Gaussian
mixture over the effect, of scale one standard deviation (Wang & Ramdas, "Anytime-valid t-tests and confidence
sequences for Gaussian means with unknown variance", arXiv:2310.03722, after Lai 1976). It may be looked at
after every block: that it ever misses the true mean has at most the stated probability, for Gaussian blocks
exactly; means of bounded scores are near to that, and benchmarks/gate_power.py measures what is left. Bets
on bounded differences (Waudby-Smith & Ramdas 2024) need no such assumption, but win no more than the margin
per block and so take ln(1 / alpha) / (margin x error) blocks at best: minutes for what this decides in
seconds.
The price: a fault rarer than once in ``min_frames`` frames may not have been seen when it accepts.

Tries. A candidate may be compared again, for months: it was refused, or the frames ended before it was
decided. Each test that has looked had a chance to err, so later ones have smaller and smaller ones
(:func:`alpha_after`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import UpdateError

ALPHA = 0.01

# Why a test ended.
GOOD = "it was shown to be as good"
WORSE = "it was shown to be worse"
UNSHOWN = "it was not shown to be as good"
NOT_FINITE = "a prediction of it was not finite"
UNRELATED = "its latents change as much from one step to the next as over many, so they tell of little"

Floats = NDArray[np.float64]


class Verdict(Enum):
    """What is known so far. At the last frame a candidate that was not accepted is refused."""

    CONTINUE = "continue"
    ACCEPT = "accept"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Summary:
    """The state of a test.

    Attributes:
        frames: compared; those of an unfinished block count, but are not in the other numbers.
        current, candidate: mean scores.
        low, high: of the mean of candidate - (1 + margin) current, above 0 of which the candidate is too bad:
            its confidence sequence; ``low`` holds at ``alpha_refuse``, ``high`` at ``alpha_accept``.
    """

    frames: int
    current: float
    candidate: float
    low: float
    high: float


def score(error: float, change: float) -> float:
    """How much of the change a prediction missed, 0 to 1.

    Args:
        error: norm of predicted - arrived.
        change: norm of last - arrived; where neither is more than nothing, the score is that of no
            prediction.
    """
    return error / (error + change) if error + change else 0.5


def alpha_after(tests: int) -> float:
    """How often a test of what was tested so often may accept it if it is too bad: the first test one in a
    hundred times, all others together as often.
    """
    return ALPHA / (tests * (tests + 1)) if tests else ALPHA


class PairedTest:
    """Takes the scores of both models on frame after frame until it knows.

    Args:
        margin: by which share the candidate's mean score may be above the current one's.
        alpha_accept: at most so often is a candidate accepted that is too bad.
        alpha_refuse: at most so often is one shown to be too bad that is not.
        min_frames: before that nothing is decided.
        max_frames: whoever was not accepted by then is refused.
        block_frames: that count as one observation: longer than frames stay alike.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        margin: float = 0.05,
        alpha_accept: float = ALPHA,
        alpha_refuse: float = ALPHA,
        min_frames: int = 1200,
        max_frames: int = 18_000,
        block_frames: int = 60,
    ) -> None:
        if not margin > -1:
            raise ValueError(f"margin must be above -1, got {margin:g}")
        if not (0 < alpha_accept < 1 and 0 < alpha_refuse < 1):
            raise ValueError(f"alphas must lie between 0 and 1, got {alpha_accept:g} and {alpha_refuse:g}")
        if not 1 <= block_frames <= min_frames <= max_frames:
            raise ValueError(
                "block_frames, min_frames and max_frames must be positive and rise, got "
                f"{block_frames}, {min_frames}, {max_frames}"
            )
        self.margin = margin
        self.verdict = Verdict.CONTINUE
        self.reason = ""
        self._alphas = alpha_refuse, alpha_accept
        self._min, self._max, self._size = min_frames, max_frames, block_frames
        self._frames = 0
        self._current = self._candidate = 0.0
        self._means: list[tuple[float, float]] = []

    def add(self, current: float, candidate: float) -> Verdict:
        """The scores of one frame. A verdict other than CONTINUE stays.

        Raises:
            UpdateError: the current model's score is not finite.
        """
        if self.verdict is not Verdict.CONTINUE:
            return self.verdict
        if not math.isfinite(current):
            raise UpdateError(
                f"the model that serves predicts {current}: nothing can be compared with that, update "
                "without this gate or mend the robot first"
            )
        if not math.isfinite(candidate):
            return self._decide(Verdict.REFUSE, NOT_FINITE)
        self._frames += 1
        self._current += current
        self._candidate += candidate
        if self._frames % self._size == 0:
            self._means.append((self._current / self._size, self._candidate / self._size))
            self._current = self._candidate = 0.0
            if self._frames >= self._min:
                self._look()
        if self.verdict is Verdict.CONTINUE and self._frames >= self._max:
            self._decide(Verdict.REFUSE, UNSHOWN)
        return self.verdict

    @property
    def has_looked(self) -> bool:
        """Whether there were frames enough for a verdict."""
        return self._frames >= self._min

    def refuse(self, reason: str) -> Verdict:
        """Whatever was shown, the candidate is not to serve."""
        return self._decide(Verdict.REFUSE, reason)

    def summary(self) -> Summary:
        """What is known now; NaN and infinity where that is nothing."""
        if not self._means:
            return Summary(self._frames, math.nan, math.nan, -math.inf, math.inf)
        means = np.array(self._means)
        current, candidate = means.mean(axis=0)
        excess = means @ (-(1 + self.margin), 1)
        below, above = (half_width(excess, alpha) for alpha in self._alphas)
        middle = float(excess.mean())
        return Summary(self._frames, float(current), float(candidate), middle - below, middle + above)

    def _look(self) -> None:
        known = self.summary()
        if known.high < 0:
            self._decide(Verdict.ACCEPT, GOOD)
        elif known.low > 0:
            self._decide(Verdict.REFUSE, WORSE)

    def _decide(self, verdict: Verdict, reason: str) -> Verdict:
        self.verdict, self.reason = verdict, reason
        return verdict


def half_width(values: Floats, alpha: float) -> float:
    """Half the width of the confidence sequence for the mean of ``values`` [n]; infinite while n is small.

    The e-value of a mean m is r^(-1/2) ((1 + q) / (1 + q / r))^(n / 2), with r = n + 1, q = t^2 / (n - 1) and
    t Student's statistic of m; the sequence holds every m whose e-value is below 1 / alpha.
    """
    deviations = values - values.mean()
    squares = float(deviations @ deviations)
    if len(values) < 2 or squares == 0:
        return 0.0 if len(values) > 1 else math.inf
    alike = max(0.0, float(deviations[1:] @ deviations[:-1]) / squares)
    n = len(values) * (1 - alike) / (1 + alike)
    r = n + 1
    k = (math.sqrt(r) / alpha) ** (2 / n) if n > 1 else math.inf
    if k >= r:
        return math.inf
    q = (k - 1) / (1 - k / r)
    return math.sqrt(q * (n - 1) / n * squares / (len(values) - 1))
