"""The decisions of the critic, from predicted scores to a verdict. It needs no model, only its scores."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.critic.config import CriticConfig
from jepa_runtime.critic.thresholds import CriticState, CriticThresholds
from jepa_runtime.critic.verdict import ChunkOutcome, CriticVerdict, Response
from jepa_runtime.errors import CriticError
from jepa_runtime.planning import ActionLimits

Floats32 = NDArray[np.float32]


class ChunkJudge:
    """Decides about candidate chunks from their predicted scores, and learns from the observed ones.

    The caller predicts the score of each of :meth:`variants`, executes the actions of the verdict of
    :meth:`judge`, and reports the score that it observed to :meth:`observe`.

    Args:
        config: Settings.
        limits: Action limits of the model.
        is_rate: Whether all components of an action are rates, so that a chunk can be slowed down.
        latent_space: See :attr:`jepa_runtime.model.world_model.WorldModel.latent_space`.
        energy_space: See :attr:`jepa_runtime.model.world_model.WorldModel.energy_space`.
        state: What an earlier judge learned; None: begin with a warm-up.
        seed: Seed of the draw of trials.

    Raises:
        CriticError: The state was learned with another model or other settings.
    """

    def __init__(
        self,
        config: CriticConfig,
        limits: ActionLimits,
        *,
        is_rate: bool,
        latent_space: str,
        energy_space: str,
        state: CriticState | None = None,
        seed: int = 0,
    ) -> None:
        self.config = config
        self._limits = limits
        self._spaces = latent_space, energy_space
        self._rest = limits.clip(np.zeros_like(limits.low))
        self._scales = config.scales if is_rate else ()
        self._rng = np.random.default_rng(seed)
        self._thresholds = CriticThresholds(config, latent_space)
        if state is not None:
            values = state.veto_excess, state.given_margin, state.alternative_margin
            if state != self._state_of(values):
                raise CriticError(
                    "the state of the critic was learned with another model or other settings (limit, "
                    "false_veto_rate, coverage): start without a state, which begins with a warm-up",
                    code="critic.state_mismatch",
                )
            self._thresholds.start(values)

    @property
    def is_warming_up(self) -> bool:
        """Whether chunks are only observed: too few harmless ones have been executed."""
        return self._thresholds.is_warming_up

    @property
    def veto_threshold(self) -> float:
        """Predicted score above which a given chunk is not executed; infinite during the warm-up."""
        return self.config.limit + self._thresholds.values()[0]

    @property
    def state(self) -> CriticState | None:
        """What was learned so far; None during the warm-up."""
        return None if self.is_warming_up else self._state_of(self._thresholds.values())

    @property
    def slower_count(self) -> int:
        """Number of slower variants of the given chunk."""
        return len(self._scales)

    def variants(self, chunks: Floats32) -> Floats32:
        """Return the candidates [K, h, A], followed by the slower variants of the first, float32."""
        slower = [self._limits.clip(self._rest + scale * (chunks[0] - self._rest)) for scale in self._scales]
        variants: Floats32 = np.concatenate(
            [chunks, np.array(slower, np.float32).reshape(-1, *chunks.shape[1:])]
        )
        return variants

    def judge(
        self, variants: Floats32, scores: NDArray[np.float64], *, energy_now: float | None = None
    ) -> CriticVerdict:
        """Decide what to execute.

        Args:
            variants: What :meth:`variants` returned.
            scores: Their predicted scores.
            energy_now: Energy of the newest image, from which the observed score is computed; None: the score
                is no change of an energy.
        """
        count = len(variants) - len(self._scales)
        veto_excess, given_margin, alternative_margin = self._thresholds.values()
        bounds = scores + alternative_margin
        bounds[0] = scores[0] + given_margin
        threshold = self.config.limit + veto_excess
        response, row, is_trial, reason = self._decide(scores, bounds, count, threshold)
        is_slower = row is not None and row >= count
        return CriticVerdict(
            response=response,
            actions=np.repeat(self._rest[None], variants.shape[1], axis=0)
            if row is None
            else variants[row].copy(),
            index=None if row is None else 0 if is_slower else row,
            scale=self._scales[row - count] if row is not None and is_slower else 1.0,
            reason=reason,
            scores=scores[:count].copy(),
            upper_bounds=bounds[:count].copy(),
            veto_threshold=threshold,
            is_trial=is_trial,
            predicted=math.nan if row is None else float(scores[row]),
            upper_bound=math.nan if row is None else float(bounds[row]),
            energy_now=energy_now,
        )

    def observe(self, verdict: CriticVerdict, score: float) -> ChunkOutcome | None:
        """Learn from the score that was observed after the actions of a verdict were executed completely.

        Returns:
            The outcome; None after a veto, since the chunk was not executed.

        Raises:
            CriticError: The score is not finite.
        """
        if verdict.response is Response.VETO:
            return None
        if not math.isfinite(score):
            raise CriticError(f"the observed score must be finite, got {score}", code="critic.not_finite")
        is_harmless = score <= self.config.limit
        error, excess = score - verdict.predicted, max(float(verdict.scores[0]) - self.config.limit, 0.0)
        is_alternative = verdict.response is not Response.ACCEPT
        if self.is_warming_up:
            self._thresholds.record(error, excess if is_harmless else None)
        else:
            margin = verdict.upper_bound - verdict.predicted
            self._thresholds.learn_margin(error, margin, is_alternative=is_alternative)
            if verdict.is_trial and is_harmless:
                self._thresholds.learn_excess(excess, verdict.veto_threshold - self.config.limit)
        is_stated = math.isfinite(verdict.upper_bound)
        return ChunkOutcome(score, is_harmless, score <= verdict.upper_bound if is_stated else None)

    def _decide(
        self, scores: NDArray[np.float64], bounds: NDArray[np.float64], count: int, threshold: float
    ) -> tuple[Response, int | None, bool, str]:
        """Return the response, the row to execute, whether it is a trial, and the reason."""
        limit, given = self.config.limit, scores[0]
        is_trial = self.is_warming_up or bool(self._rng.random() < self.config.trial_rate)
        if not math.isfinite(given):
            is_trial, reason = False, "the predicted score of the given chunk is not finite"
        elif self.is_warming_up:
            return Response.ACCEPT, 0, True, "warm-up: the chunk is executed unchecked"
        elif is_trial:
            return Response.ACCEPT, 0, True, "trial: the chunk is executed to learn from its outcome"
        elif given <= threshold:
            return Response.ACCEPT, 0, False, f"predicted score {given:.4g}, veto threshold {threshold:.4g}"
        else:
            reason = f"predicted score {given:.4g} exceeds the veto threshold {threshold:.4g}"
        usable = np.where(np.isfinite(scores), bounds, np.inf)
        if count > 1 and usable[1 + (best := int(usable[1:count].argmin()))] <= limit:
            reason += f"; candidate {1 + best} has the upper bound {usable[1 + best]:.4g}"
            return Response.CHOOSE, 1 + best, False, reason
        for row in range(count, len(usable)):
            if usable[row] <= limit:
                reason += (
                    f"; scaled by {self._scales[row - count]:g} it has the upper bound {usable[row]:.4g}"
                )
                return Response.SLOW_DOWN, row, False, reason
        return Response.VETO, None, False, f"{reason}; no alternative has an upper bound up to {limit:.4g}"

    def _state_of(self, values: tuple[float, float, float]) -> CriticState:
        veto_excess, given_margin, alternative_margin = values
        return CriticState(
            veto_excess=veto_excess,
            given_margin=given_margin,
            alternative_margin=alternative_margin,
            limit=self.config.limit,
            false_veto_rate=self.config.false_veto_rate,
            coverage=self.config.coverage,
            latent_space=self._spaces[0],
            energy_space=self._spaces[1],
        )
