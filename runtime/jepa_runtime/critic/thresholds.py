"""The veto threshold and the margins of upper bounds, learned from the chunks that were executed.

Three numbers are learned, each by :class:`~jepa_runtime.calibration.conformal.Bounds`:

* the *veto excess*: the predicted score minus the limit that harmless chunks exceed in the stated proportion
  of cases. A chunk that exceeds it is not executed. It is learned from trials only. Trials are drawn without
  regard to the prediction, so they are a fair sample of all chunks. Accepted chunks are not: none of them is
  a false veto, and learning from them would lower the threshold until everything is vetoed.
* the *margin of given chunks* and the *margin of alternatives* (other candidates and slower variants): the
  observed minus the predicted score that is not exceeded with the stated coverage. Alternatives have a margin
  of their own, because a candidate that is selected for its prediction is predicted too well more often.

During the warm-up each given chunk is executed and recorded; at its end the three start at the conformal
quantiles of the recorded values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jepa_runtime.calibration import FIRST_RATE, MIN_RATE, Bounds, conformal_quantile
from jepa_runtime.critic.config import CriticConfig

# Lowest start of a learned number, relative to the mean prediction error: Bounds changes by factors, and
# would take long to leave zero.
_MIN_OF_ERROR = 0.01
_MIN = 1e-6


@dataclass(frozen=True)
class CriticState:
    """What a critic has learned, to be stored and given to the next one with the same hazard.

    Attributes:
        veto_excess: See :mod:`jepa_runtime.critic.thresholds`.
        given_margin: Margin of given chunks.
        alternative_margin: Margin of alternatives.
        limit: Setting with which it was learned, as the next two.
        false_veto_rate: Setting.
        coverage: Setting.
        latent_space: See :attr:`jepa_runtime.model.world_model.WorldModel.latent_space`.
        energy_space: See :attr:`jepa_runtime.model.world_model.WorldModel.energy_space`.
    """

    veto_excess: float
    given_margin: float
    alternative_margin: float
    limit: float
    false_veto_rate: float
    coverage: float
    latent_space: str
    energy_space: str


class CriticThresholds:
    """The learned numbers of a critic.

    Args:
        config: Settings of the critic.
        latent_space: See :attr:`jepa_runtime.model.world_model.WorldModel.latent_space`.
    """

    def __init__(self, config: CriticConfig, latent_space: str) -> None:
        self._config = config
        self._latent_space = latent_space
        # Recorded in the warm-up: observed minus predicted scores, and excesses of harmless chunks.
        self._errors: list[float] = []
        self._excesses: list[float] = []
        self._learned: tuple[Bounds, Bounds, Bounds] | None = None

    @property
    def is_warming_up(self) -> bool:
        """Whether chunks are only observed."""
        return self._learned is None

    def values(self) -> tuple[float, float, float]:
        """Return veto excess, margin of given chunks and margin of alternatives; infinite in the warm-up."""
        if self._learned is None:
            return math.inf, math.inf, math.inf
        veto, given, alternative = (float(bound.current()[0]) for bound in self._learned)
        return veto, given, alternative

    def start(self, values: Sequence[float]) -> None:
        """End the warm-up and continue from these values, in the order of :meth:`values`."""
        coverage = self._config.coverage
        # Trials are rare: the excess follows them at a rate that does not decay.
        settings = (1 - self._config.false_veto_rate, FIRST_RATE), (coverage, MIN_RATE), (coverage, MIN_RATE)
        veto, given, alternative = (
            Bounds(
                [value],
                probability=probability,
                delays=[0],
                latent_space=self._latent_space,
                min_rate=min_rate,
            )
            for value, (probability, min_rate) in zip(values, settings, strict=True)
        )
        self._learned = veto, given, alternative

    def record(self, error: float, excess: float | None) -> None:
        """Record a chunk of the warm-up, and end the warm-up after the last one.

        Args:
            error: Observed minus predicted score.
            excess: Predicted score minus limit, at least 0; None: the chunk was not harmless.
        """
        self._errors.append(error)
        if excess is not None:
            self._excesses.append(excess)
        if len(self._excesses) < self._config.warmup:
            return
        errors = np.array(self._errors)
        smallest = max(_MIN_OF_ERROR * float(np.abs(errors).mean()), _MIN)
        margin = max(conformal_quantile(np.maximum(errors, 0), self._config.coverage), smallest)
        excess = conformal_quantile(np.array(self._excesses), 1 - self._config.false_veto_rate)
        self.start((max(excess, smallest), margin, margin))
        self._errors, self._excesses = [], []

    def learn_excess(self, excess: float, stated: float) -> None:
        """Learn from a harmless trial.

        Args:
            excess: Predicted score minus limit, at least 0.
            stated: Veto excess that was in force.
        """
        self._update(0, excess, stated)

    def learn_margin(self, error: float, stated: float, *, is_alternative: bool) -> None:
        """Learn from an executed chunk.

        Args:
            error: Observed minus predicted score.
            stated: Margin that was stated.
            is_alternative: Whether the chunk was another candidate or a slower variant.
        """
        self._update(1 + is_alternative, max(error, 0.0), stated)

    def _update(self, row: int, error: float, stated: float) -> None:
        if self._learned is not None:
            self._learned[row].update(np.array([error]), np.array([stated]))
