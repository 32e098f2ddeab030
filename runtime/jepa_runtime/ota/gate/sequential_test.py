"""A paired sequential test on prediction errors: is a candidate as good as the active model? Pure.

Score. Each model predicts the next latent of the same frame. Latent spaces differ in scale and meaning, so an
error is related to the error of predicting no change with the same model: ``e / (e + c)``, with e =
|predicted - observed| and c = |last - observed|. It is 0 for a perfect prediction and 1/2 for one that is
worth no more than the last latent. Scaling or rotating a latent space changes nothing, and no single frame
can outweigh many, as it could in e / c where little moves.

Hypothesis. With x = candidate - (1 + margin) current, the candidate is too bad if the mean of x is above 0.
The pairing removes what makes a frame hard for both models.

Blocks. Consecutive frames are similar, so the test uses the means of blocks of frames. Remaining correlation
of neighboring blocks (lag 1, if positive) reduces the effective number of blocks: n (1 - r) / (1 + r), as for
an autoregression of first order.

Test. A confidence sequence for a mean at unknown variance: the mixture sequential t-test with a Gaussian
mixture over the effect, of scale one standard deviation (Wang & Ramdas, "Anytime-valid t-tests and confidence
sequences for Gaussian means with unknown variance", arXiv:2310.03722, after Lai 1976). It may be evaluated
after every block: the probability that it ever misses the true mean is at most the stated one, exactly for
Gaussian blocks. Means of bounded scores are close to that; benchmarks/gate_power.py measures the difference.
Bets on bounded differences (Waudby-Smith & Ramdas 2024) need no such assumption, but win no more than the
margin per block and so take ln(1 / alpha) / (margin x error) blocks at best: minutes instead of seconds.
The limitation: a fault rarer than once in ``min_frames`` frames may not have occurred when the test accepts.

Repetition. A candidate may be compared again for months, because it was rejected or the frames ended before
a decision. Each evaluated test may err, so later tests use smaller and smaller error probabilities
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

GOOD = "the candidate was shown to be as good"
"""Why a test ended: the candidate is accepted."""
WORSE = "the candidate was shown to be worse"
"""Why a test ended: the candidate is rejected."""
NOT_SHOWN = "the candidate was not shown to be as good"
"""Why a test ended: the candidate is rejected, because neither was shown."""
NOT_FINITE = "the candidate predicted NaN or infinity"
INCOHERENT = (
    "the candidate's latents change as much in one step as over many, so they carry little information"
)

Floats = NDArray[np.float64]


class Verdict(Enum):
    """The result so far. At the last frame a candidate that was not accepted is rejected."""

    CONTINUE = "continue"
    ACCEPT = "accept"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Summary:
    """The state of a test.

    Attributes:
        frames: Number of compared frames, including those of an unfinished block, which the other fields
            leave out.
        current: Mean score of the active model.
        candidate: Mean score of the candidate.
        low: Lower end of the confidence sequence of the mean of candidate - (1 + margin) current, above 0 of
            which the candidate is too bad; valid at ``alpha_refuse``.
        high: Upper end, valid at ``alpha_accept``.
    """

    frames: int
    current: float
    candidate: float
    low: float
    high: float


def score(error: float, change: float) -> float:
    """Return the proportion of the change that a prediction missed, from 0 to 1.

    Args:
        error: Norm of predicted - observed.
        change: Norm of last - observed. If both are 0, the score is that of no prediction.
    """
    return error / (error + change) if error + change else 0.5


def alpha_after(tests: int) -> float:
    """Return the probability that a test may accept a bad candidate, after ``tests`` earlier tests.

    It is 0.01 for the first test, and 0.01 for all later ones together.
    """
    return ALPHA / (tests * (tests + 1)) if tests else ALPHA


class PairedTest:
    """Takes the scores of both models frame by frame until it has a result.

    Args:
        margin: Proportion by which the candidate's mean score may exceed that of the active model.
        alpha_accept: Upper bound of the probability of accepting a bad candidate.
        alpha_refuse: Upper bound of the probability of showing a good candidate to be bad.
        min_frames: Number of frames before the first evaluation.
        max_frames: Number of frames at which a candidate that was not accepted is rejected.
        block_frames: Number of frames per observation, longer than frames stay correlated.

    Raises:
        ValueError: An argument is out of range.
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
                "block_frames <= min_frames <= max_frames must hold and be positive, got "
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
        """Add the scores of one frame. A verdict other than CONTINUE is final.

        Raises:
            UpdateError: The score of the active model is not finite.
        """
        if self.verdict is not Verdict.CONTINUE:
            return self.verdict
        if not math.isfinite(current):
            raise UpdateError(
                f"the active model predicts {current}, so nothing can be compared with it: set "
                "max_error_ratio of the release to null, or repair the robot",
                code="gate.active_not_finite",
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
                self._evaluate()
        if self.verdict is Verdict.CONTINUE and self._frames >= self._max:
            self._decide(Verdict.REFUSE, NOT_SHOWN)
        return self.verdict

    @property
    def has_evaluated(self) -> bool:
        """Whether there were enough frames for a verdict."""
        return self._frames >= self._min

    def refuse(self, reason: str) -> Verdict:
        """Reject the candidate for another reason."""
        return self._decide(Verdict.REFUSE, reason)

    def summary(self) -> Summary:
        """Return the current estimates; NaN and infinity where there are none yet."""
        if not self._means:
            return Summary(self._frames, math.nan, math.nan, -math.inf, math.inf)
        means = np.array(self._means)
        current, candidate = means.mean(axis=0)
        excess = means @ (-(1 + self.margin), 1)
        below, above = (half_width(excess, alpha) for alpha in self._alphas)
        mean = float(excess.mean())
        return Summary(self._frames, float(current), float(candidate), mean - below, mean + above)

    def _evaluate(self) -> None:
        summary = self.summary()
        if summary.high < 0:
            self._decide(Verdict.ACCEPT, GOOD)
        elif summary.low > 0:
            self._decide(Verdict.REFUSE, WORSE)

    def _decide(self, verdict: Verdict, reason: str) -> Verdict:
        self.verdict, self.reason = verdict, reason
        return verdict


def half_width(values: Floats, alpha: float) -> float:
    """Return half the width of the confidence sequence for the mean of ``values`` [n]; infinite for small n.

    The e-value of a mean m is r^(-1/2) ((1 + q) / (1 + q / r))^(n / 2), with r = n + 1, q = t^2 / (n - 1) and
    t Student's statistic of m; the sequence contains every m whose e-value is below 1 / alpha.
    """
    deviations = values - values.mean()
    squares = float(deviations @ deviations)
    if len(values) < 2 or squares == 0:
        return 0.0 if len(values) > 1 else math.inf
    correlation = max(0.0, float(deviations[1:] @ deviations[:-1]) / squares)
    n = len(values) * (1 - correlation) / (1 + correlation)
    r = n + 1
    k = (math.sqrt(r) / alpha) ** (2 / n) if n > 1 else math.inf
    if k >= r:
        return math.inf
    q = (k - 1) / (1 - k / r)
    return math.sqrt(q * (n - 1) / n * squares / (len(values) - 1))
