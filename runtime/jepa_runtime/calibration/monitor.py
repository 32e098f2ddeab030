"""Reliability of the futures of one camera: learned bounds, their coverage, and alarms.

Rules:
    1. Once per step the model predicts what the actions really executed lead to, and the errors are computed.
       The candidates are hardly ever executed, because a planner updates its plan with each image. The newest
       latent is compared with its prediction one step, half a horizon and a horizon ago; the horizons between
       are compared by earlier latents, from a horizon ago.
    2. An error is compared with the bound that was stated with the futures of the same image. 3. The stated
    bounds are those learned so far, starting from those of the bundle. Scores concern the newest
       latent, in units of the bundle's own bounds, so that a lasting change does not become normal.
    4. If the history is reset, pending comparisons are dropped; the learned bounds stay.
    5. An unannounced discontinuity (the robot was carried, the camera was turned) invalidates every earlier
       prediction: for one horizon, errors are those of the discontinuity and not of the model. So during the
       first horizon of a surprise alarm, errors whose score is above its threshold do not change the bounds:
       they would widen all bounds for conditions that have passed. They count as misses in the coverage,
       because they exceeded the bounds. A change of conditions lasts longer than a horizon: from then on it
       changes the bounds, whether or not the alarm is still in progress. This happens at most once in the
       number of errors in which normal data have at most one surprise: more frequent surprises are conditions
       of their own and change the bounds. The long-run proportion of misses grows by at most a horizon over
       that number (8 in 3000 with a step of 0.2 s and one false alarm in ten minutes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.calibration.alarms import Alarm, Alarms
from jepa_runtime.calibration.conformal import Bounds
from jepa_runtime.calibration.coverage import Coverage, CoverageRate, clearly_below
from jepa_runtime.calibration.surprise import Score, score
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model.world_model import WorldModel

Floats = NDArray[np.float64]

# Number of errors of each horizon: a minute at a step of 0.2 s.
RECENT = 300


@dataclass(frozen=True)
class Calibration:
    """Reliability of futures at the time of their prediction.

    Attributes:
        probability: Target coverage of the bounds.
        bounds: Bounds of the error norms [H]; infinite where no error has arrived and the bundle states none.
        overall: Coverage of each horizon over all errors of this model.
        recent: Coverage of each horizon over the last :data:`RECENT` errors.
    """

    probability: float
    bounds: Floats
    overall: tuple[CoverageRate, ...]
    recent: tuple[CoverageRate, ...]

    def ahead(self, steps: int) -> Calibration:
        """Return the reliability of futures that start ``steps`` predicted steps after the image.

        Nothing is known of errors beyond the horizon: their bounds are infinite.
        """
        if not steps:
            return self
        kept, unknown = slice(steps, None), (CoverageRate(0, 0),) * steps
        bounds = np.concatenate([self.bounds, np.full(steps, np.inf)])[kept]
        return replace(
            self,
            bounds=bounds,
            overall=(*self.overall, *unknown)[kept],
            recent=(*self.recent, *unknown)[kept],
        )

    @property
    def undercovered(self) -> tuple[int, ...]:
        """Horizons [steps] whose recent coverage is significantly below the target.

        Errors of overlapping predictions are correlated and count as one per horizon.
        """
        return tuple(
            row + 1
            for row, coverage in enumerate(self.recent)
            if clearly_below(coverage, self.probability, correlated=len(self.recent))
        )


@dataclass(frozen=True)
class ErrorSample:
    """Prediction errors, once per step.

    Attributes:
        errors: Norms [H] of predicted minus arrived latent; NaN where one of them is missing.
        stated: Bounds [H] stated with the futures of the same images; NaN where there were none.
        score: Surprise score; None if nothing can be compared.
    """

    errors: Floats
    stated: Floats
    score: Score | None


class CalibrationMonitor:
    """Calibration of one stream with one model.

    Args:
        start: Bounds [H] of the bundle; zero: it states none.
        probability: Target coverage of the bounds.
        step_ns: Duration of a model step.
        tolerance_ns: Time by which errors may be computed before a step is over. The next step does not end
            earlier for it, so that the mean interval is one step.
        latent_space: See :attr:`jepa_runtime.model.world_model.WorldModel.latent_space`.
        alarms: None: there are scores but no alarms, because of ``alarms_disabled_reason``.
        alarms_disabled_reason: Reason why alarms are disabled; empty: they are enabled.

    Attributes:
        ages: Steps since the predictions with which the newest latent is compared; the first is 1, the last
            H.

    Raises:
        ValueError: A bound or the probability is out of range.
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
        self._coverages = self._coverage.overall(), self._coverage.recent()
        self._stated: dict[int, Floats] = {}
        self._memory_ns = (horizon + 1) * step_ns
        self._step_ns, self._tolerance_ns = step_ns, tolerance_ns
        self._newest_ns: int | None = None
        self._due_ns: int | None = None
        self._alarms = alarms
        # Errors until the next discontinuity may be excluded, and the end of the last one.
        self._errors_until_next = 0
        self._excluded_until_ns: int | None = None
        self._new_alarms: list[Alarm] = []

    def bounds(self) -> Floats:
        """Return the bounds [H] in force."""
        return self._bounds.current()

    def state(self, stamp_ns: int) -> Calibration:
        """Return the reliability of the futures of the image with ``stamp_ns``, and store their bounds."""
        bounds = self._bounds.current()
        self._stated[stamp_ns] = bounds
        oldest_ns = stamp_ns - self._memory_ns
        while (stale := next(iter(self._stated))) < oldest_ns:
            del self._stated[stale]
        return Calibration(self._bounds.probability, bounds, *self._coverages)

    def is_due(self, stamp_ns: int) -> bool:
        """Return whether a step is over since the last errors."""
        return self._due_ns is None or stamp_ns >= self._due_ns - self._tolerance_ns

    def add_errors(self, stamp_ns: int, errors: Floats, predicted_ns: Sequence[int]) -> ErrorSample:
        """Learn from prediction errors.

        Args:
            stamp_ns: Stamp of the newest image.
            errors: Norms [H] of predicted minus arrived latent; NaN where one of them is missing.
            predicted_ns: Stamps [H] of the images from which they were predicted.
        """
        self._newest_ns = stamp_ns
        due_ns = stamp_ns if self._due_ns is None else max(self._due_ns, stamp_ns - self._tolerance_ns)
        self._due_ns = due_ns + self._step_ns
        unknown = np.full(len(errors), np.nan)
        stated = np.array([self._stated.get(at, unknown)[row] for row, at in enumerate(predicted_ns)])
        counted = np.where(np.isfinite(errors) & ~np.isnan(stated), errors, np.nan)
        # An infinite bound states nothing.
        self._coverage.update(np.where(np.isfinite(stated), counted, np.nan), stated)
        self._coverages = self._coverage.overall(), self._coverage.recent()
        newest_score = score_of(errors, self._scale)
        if self._alarms is not None:
            self._new_alarms += self._alarms.update(stamp_ns, newest_score)
        if not self._spans_discontinuity(stamp_ns, newest_score):
            self._bounds.update(counted, stated)
        return ErrorSample(errors, stated, newest_score)

    def _spans_discontinuity(self, stamp_ns: int, newest_score: Score | None) -> bool:
        """Return whether these errors may be those of a discontinuity (rule 5 of the module)."""
        if self._alarms is None:
            return False
        self._errors_until_next -= 1
        event = self._alarms.surprise
        if event is not None and event.start_ns == stamp_ns and self._errors_until_next <= 0:
            self._errors_until_next = self._alarms.every
            self._excluded_until_ns = stamp_ns + len(self._scale) * self._step_ns
        is_surprising = newest_score is not None and self._alarms.is_surprising(newest_score)
        return is_surprising and self._excluded_until_ns is not None and stamp_ns < self._excluded_until_ns

    def take_alarms(self) -> tuple[Alarm, ...]:
        """Return the alarms that began or ended since the last call."""
        alarms, self._new_alarms = tuple(self._new_alarms), []
        return alarms

    def reset(self) -> None:
        """Drop pending comparisons and end alarms, because the images are not continuous."""
        self._stated.clear()
        if self._alarms is not None and self._newest_ns is not None:
            self._new_alarms += self._alarms.close(self._newest_ns)
        self._newest_ns = self._due_ns = self._excluded_until_ns = None

    def adopt_state(self, other: CalibrationMonitor) -> None:
        """Continue with the bounds of ``other``, of the previous model, if they are comparable.

        Its coverage is not continued; alarms that it has not returned yet are returned here.
        """
        self._bounds.adopt_state(other._bounds)
        other.reset()
        self._new_alarms = list(other.take_alarms())


def score_of(errors: Floats, scale: Floats) -> Score | None:
    """Return the surprise score of the newest latent.

    Args:
        errors: Errors [H] as in :class:`ErrorSample`.
        scale: Bounds [H] of a bundle.
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
    """Create the monitor of a model, with the bounds of its bundle, and alarms if that has normal data.

    Args:
        model: The open model.
        probability: Target coverage of the bounds.
        tolerance_ns: See :class:`CalibrationMonitor`.
        false_alarm_every_s: See :class:`Alarms`.

    Raises:
        ValueError: The probability is out of range.
    """
    manifest, step_s = model.manifest, model.manifest.io.step_s
    alarms, alarms_disabled_reason, normal = None, "", manifest.normal_scores
    if normal is None:
        alarms_disabled_reason = "the bundle has no normal data: add them with jepa-runtime calibrate"
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
