"""How far the futures of one camera can be trusted: bounds learnt from what came, how often they held, and
alarms.

Rules:
    1. Once a step the errors are taken of what would have been foreseen of the actions that were really
       executed. Candidates are hardly ever what is executed: a planner changes its mind with each image. The
       newest latent is compared with what was foreseen of it one step, half a horizon and a horizon ago; the
       horizons between are judged by the latents before it, from a horizon ago.
    2. An error is judged by the bound that was stated with the futures of the same image.
    3. The bounds stated are those learnt until then; those of the bundle are where they start from. Scores
       are of the newest latent, in units of the bundle's own bounds: what lasts must not become usual.
    4. Where the history is reset, everything that waits to be judged is dropped; what was learnt stays.
    5. A discontinuity that nobody announced (the robot was carried, the camera was turned) spoils every
       prediction from before it: for one horizon, errors are those of the discontinuity and not of the
       model. So during the first horizon of a surprise alarm, errors whose score is above its threshold do
       not teach the bounds: learning them would widen all bounds for conditions that have passed. They count
       as misses in the coverage, because the bounds did not hold. A change of conditions lasts longer than a
       horizon: from then on it teaches the bounds, whether or not the alarm is still on. This is done at most
       once in as many errors as normal data have at most one surprise in: surprises that are more frequent
       are conditions of their own, and teach. The proportion of misses in the long run grows by no more than
       a horizon over that number (8 in 3000 with a step of 0.2 s and one false alarm in ten minutes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.calibration.alarms import Alarm, Alarms
from jepa_runtime.calibration.conformal import Bounds
from jepa_runtime.calibration.coverage import Coverage, CoverageRate, clearly_below
from jepa_runtime.calibration.surprise import Score, score
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model.world_model import WorldModel

Floats = NDArray[np.float64]

# Errors of each horizon: a minute at a step of 0.2 s.
RECENT = 300


@dataclass(frozen=True)
class Calibration:
    """What can be said of futures when they are made.

    Attributes:
        probability: that the errors of their latents lie within the bounds.
        bounds: [H] norms; infinite where no error was ever seen and the bundle knows none.
        overall, recent: of each horizon, how many errors lay within the bounds stated for them: of all of
            this model, and of the last :data:`RECENT`.
    """

    probability: float
    bounds: Floats
    overall: tuple[CoverageRate, ...]
    recent: tuple[CoverageRate, ...]

    @property
    def short(self) -> tuple[int, ...]:
        """The horizons [steps] whose recent coverage is clearly below the probability.

        Errors of predictions that overlap are alike: they count as one a horizon.
        """
        return tuple(
            row + 1
            for row, share in enumerate(self.recent)
            if clearly_below(share, self.probability, alike=len(self.recent))
        )


@dataclass(frozen=True)
class ErrorSample:
    """How wrong what was foreseen was, once a step.

    Attributes:
        errors: [H] norms of foreseen minus arrived latent; NaN where nothing was foreseen, or came.
        stated: [H] bounds stated with the futures of the same images; NaN where there were none.
        score: how surprising that is; None where nothing can be compared.
    """

    errors: Floats
    stated: Floats
    score: Score | None


class CalibrationMonitor:
    """Of one stream, over one model.

    Args:
        start: [H] bounds of the bundle; zero: it knows none.
        probability: that the bounds hold with.
        step_ns: how long the model holds one action.
        tolerance_ns: by how much errors may be taken before a step is over; the next one ends none the
            earlier, so that they are not taken more often than once a step.
        latent_space: see :attr:`jepa_runtime.model.world_model.WorldModel.latent_space`.
        alarms: None: scores are given, and no alarm, because of ``alarms_disabled_reason``.

    Attributes:
        ages: how many steps ago was foreseen what the newest latent is compared with; the first is 1, the
            last H.
        alarms_disabled_reason: why no alarm is given; empty: they are.

    Raises:
        ValueError: a bound or the probability is out of range.
    """

    def __init__(
        self,
        start: Sequence[float],
        *,
        probability: float,
        step_ns: int,
        tolerance_ns: int,
        latent_space: str,
        alarms: Alarms | None = None,
        alarms_disabled_reason: str = "",
    ) -> None:
        self._scale = np.asarray(start, np.float64)
        horizon = len(start)
        self.ages = _ages(horizon)
        self.alarms_disabled_reason = alarms_disabled_reason
        self._bounds = Bounds(
            start,
            probability=probability,
            delays=[step if step in self.ages else horizon for step in range(1, horizon + 1)],
            latent_space=latent_space,
        )
        self._coverage = Coverage(horizon, window=RECENT)
        self._shares = self._coverage.overall(), self._coverage.recent()
        self._stated: dict[int, Floats] = {}
        self._remember_ns = (horizon + 1) * step_ns
        self._step_ns, self._tolerance_ns = step_ns, tolerance_ns
        self._newest_ns: int | None = None
        self._due_ns: int | None = None
        self._alarms = alarms
        # Errors until the next discontinuity may be left out, and until when the last one spoils them.
        self._until_next = 0
        self._spoilt_until_ns: int | None = None
        self._news: list[Alarm] = []

    def bounds(self) -> Floats:
        """The bounds [H] in force now; nothing is judged by them."""
        return self._bounds.stated()

    def state(self, stamp_ns: int) -> Calibration:
        """What is said of the futures made from the image of ``stamp_ns``; they are judged by it."""
        bounds = self._bounds.stated()
        self._stated[stamp_ns] = bounds
        oldest_ns = stamp_ns - self._remember_ns
        while (stale := next(iter(self._stated))) < oldest_ns:
            del self._stated[stale]
        return Calibration(self._bounds.probability, bounds, *self._shares)

    def is_due(self, stamp_ns: int) -> bool:
        """Whether a step is over since the last errors."""
        return self._due_ns is None or stamp_ns >= self._due_ns - self._tolerance_ns

    def judge(self, stamp_ns: int, errors: Floats, foreseen_ns: Sequence[int]) -> ErrorSample:
        """Learn from the errors of what came until the image of ``stamp_ns``.

        Args:
            errors: [H] norms of foreseen minus arrived latent; NaN where nothing was foreseen, or came.
            foreseen_ns: [H] stamps of the images from which it was foreseen.
        """
        self._newest_ns = stamp_ns
        due_ns = stamp_ns if self._due_ns is None else max(self._due_ns, stamp_ns - self._tolerance_ns)
        self._due_ns = due_ns + self._step_ns
        nothing = np.full(len(errors), np.nan)
        stated = np.array([self._stated.get(at, nothing)[row] for row, at in enumerate(foreseen_ns)])
        judged = np.where(np.isfinite(errors) & ~np.isnan(stated), errors, np.nan)
        # A bound that was not known yet promised nothing.
        self._coverage.update(np.where(np.isfinite(stated), judged, np.nan), stated)
        self._shares = self._coverage.overall(), self._coverage.recent()
        found = score_of(errors, self._scale)
        if self._alarms is not None:
            self._news += self._alarms.update(stamp_ns, found)
        if not self._spans_discontinuity(stamp_ns, found):
            self._bounds.update(judged, stated)
        return ErrorSample(errors, stated, found)

    def _spans_discontinuity(self, stamp_ns: int, found: Score | None) -> bool:
        """Whether these errors may be those of a discontinuity (rule 5 of the module)."""
        if self._alarms is None:
            return False
        self._until_next -= 1
        event = self._alarms.surprise
        if event is not None and event.start_ns == stamp_ns and self._until_next <= 0:
            self._until_next = self._alarms.every
            self._spoilt_until_ns = stamp_ns + len(self._scale) * self._step_ns
        surprising = found is not None and self._alarms.is_surprising(found)
        return surprising and self._spoilt_until_ns is not None and stamp_ns < self._spoilt_until_ns

    def news(self) -> tuple[Alarm, ...]:
        """The alarms that began or ended since this was asked last."""
        news, self._news = tuple(self._news), []
        return news

    def forget(self) -> None:
        """What comes is no continuation of what was: nothing that waits can be judged, no alarm goes on."""
        self._stated.clear()
        if self._alarms is not None and self._newest_ns is not None:
            self._news += self._alarms.close(self._newest_ns)
        self._newest_ns = self._due_ns = self._spoilt_until_ns = None

    def adopt_state(self, other: CalibrationMonitor) -> None:
        """Go on with what ``other``, of the model before this one, has learnt, where that means the same.

        How often its bounds held is no account of this one's; what it has not told yet is told here.
        """
        self._bounds.adopt_state(other._bounds)
        other.forget()
        self._news = list(other.news())


def score_of(errors: Floats, scale: Floats) -> Score | None:
    """How surprising the newest latent is.

    Args:
        errors: [H] as of :class:`ErrorSample`.
        scale: [H] bounds of a bundle.
    """
    rows = np.array(_ages(len(errors))) - 1
    newest = np.full(len(errors), np.nan)
    newest[rows] = errors[rows]
    return score(newest, scale)


def _ages(horizon: int) -> tuple[int, ...]:
    return tuple(sorted({1, max(horizon // 2, 1), horizon}))


def create_monitor(
    model: WorldModel, *, probability: float, tolerance_ns: int, false_alarm_every_s: float
) -> CalibrationMonitor:
    """What is there to begin with: the bounds of the model's bundle, and alarms if that says what is normal.

    Args:
        tolerance_ns: see :class:`CalibrationMonitor`.

    Raises:
        ValueError: the probability is out of range.
    """
    manifest, step_s = model.manifest, model.manifest.io.step_s
    alarms, alarms_disabled_reason, normal = None, "", manifest.normal_scores
    if normal is None:
        alarms_disabled_reason = "the bundle does not say what is normal (jepa-runtime calibrate)"
    else:
        try:
            alarms = Alarms(
                normal.highest, block=normal.block, step_s=step_s, false_alarm_every_s=false_alarm_every_s
            )
        except (JepaRuntimeError, ValueError) as error:
            alarms_disabled_reason = str(error)
    return CalibrationMonitor(
        manifest.error_bounds,
        probability=probability,
        step_ns=round(step_s * 1e9),
        tolerance_ns=tolerance_ns,
        latent_space=model.latent_space,
        alarms=alarms,
        alarms_disabled_reason=alarms_disabled_reason,
    )
