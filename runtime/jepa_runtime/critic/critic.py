"""The critic: from candidate chunks and an image to a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.critic.config import CriticConfig
from jepa_runtime.critic.thresholds import CriticState, CriticThresholds
from jepa_runtime.critic.verdict import ChunkOutcome, CriticVerdict, Response
from jepa_runtime.errors import CriticError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.planning import ActionLimits

Floats32 = NDArray[np.float32]
Hazard = Callable[[Floats32], NDArray[np.floating]]
"""Maps latents [..., T, D] to their hazard [...]; higher is worse."""


class Critic:
    """Checks the action chunks of a policy against their predicted futures.

    Each chunk is evaluated, executed completely, and its outcome is reported by :meth:`observe`, before the
    next one. If the policy plans again before the end of a chunk, evaluate only the part that is executed.
    Use the critic on the thread of its model.

    After the warm-up, the given chunk is executed if its predicted score is at most :attr:`veto_threshold`,
    or in a trial. Otherwise the critic chooses the other candidate with the lowest upper bound; if that
    exceeds the limit, the first slower variant whose upper bound does not; if there is none, it vetoes. A
    chunk whose predicted score is not finite is never executed.

    The cost of :meth:`evaluate` is one run of the predictor for every ``model.num_samples`` of the candidates
    and slower variants, and their energies. It does not depend on the number of steps, because graphs have a
    fixed horizon.

    Args:
        model: The open world model.
        config: Settings; None: the defaults.
        hazard: Score to keep low at each step; None: the energy to the goal of :meth:`set_goal` has to fall.
        state: What an earlier critic learned; None: begin with a warm-up.
        seed: Seed of the draw of trials.

    Raises:
        CriticError: The state was learned with another model or other settings.
    """

    def __init__(
        self,
        model: WorldModel,
        config: CriticConfig | None = None,
        *,
        hazard: Hazard | None = None,
        state: CriticState | None = None,
        seed: int = 0,
    ) -> None:
        self.config = config or CriticConfig()
        self._model, self._hazard = model, hazard
        self._goal: Floats32 | None = None
        self._limits = ActionLimits.of(model.manifest)
        self._rest = self._limits.clip(np.zeros_like(self._limits.low))
        self._scales = self.config.scales if model.manifest.io.action.is_rate else ()
        self._rng = np.random.default_rng(seed)
        self._thresholds = CriticThresholds(self.config, model.latent_space)
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

    def set_goal(self, goal: Floats32) -> None:
        """Set the goal, a latent [T, D]. What was learned is retained.

        Raises:
            CriticError: The shape is wrong, or a value is not finite.
        """
        self._goal = self._checked_latents("goal", goal, self._latent_shape).copy()

    def evaluate(
        self,
        candidates: NDArray[np.floating],
        *,
        latents: Floats32,
        history_actions: NDArray[np.floating] | None = None,
    ) -> CriticVerdict:
        """Decide what to execute.

        Args:
            candidates: [K, h, A], h at most the horizon of the model; the first is the given one.
            latents: [W, T, D] up to now, one step apart, oldest first, or the newest [T, D] alone.
            history_actions: [W-1, A] between the latents; None: zero.

        Raises:
            CriticError: A shape is wrong, a value is not finite, there is no goal, or the hazard does not
                return one value per latent.
        """
        chunks = self._checked_candidates(candidates)
        history = self._checked_latents("latents", latents, self._history_shape, self._latent_shape)
        between = self._checked_history_actions(history_actions)
        self._check_goal()
        count = len(chunks)
        slower = [self._limits.clip(self._rest + scale * (chunks[0] - self._rest)) for scale in self._scales]
        rows: Floats32 = np.concatenate([chunks, np.array(slower, np.float32).reshape(-1, *chunks.shape[1:])])
        scores, energy_now = self._predicted_scores(rows, history, between)
        veto_excess, given_margin, alternative_margin = self._thresholds.values()
        bounds = scores + alternative_margin
        bounds[0] = scores[0] + given_margin
        threshold = self.config.limit + veto_excess
        response, row, is_trial, reason = self._decide(scores, bounds, count, threshold)
        is_slower = row is not None and row >= count
        return CriticVerdict(
            response=response,
            actions=np.repeat(self._rest[None], chunks.shape[1], axis=0) if row is None else rows[row].copy(),
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

    def observe(self, verdict: CriticVerdict, latents: Floats32) -> ChunkOutcome | None:
        """Learn from what was observed after the actions of a verdict were executed completely.

        Do not report a chunk that was interrupted. After a veto nothing is learned: the chunk was not
        executed, and its outcome is unknown.

        Args:
            verdict: The verdict.
            latents: The latent [T, D] after the chunk or, which a hazard needs, the latents [n, T, D] after
                its steps.

        Returns:
            The outcome; None after a veto.

        Raises:
            CriticError: A shape is wrong, a value is not finite, there is no goal, or the hazard does not
                return one value per latent.
        """
        observed = self._checked_latents("latents", latents, (None, *self._latent_shape), self._latent_shape)
        self._check_goal()
        if verdict.response is Response.VETO:
            return None
        score = self._observed_score(observed.reshape(1, -1, *self._latent_shape), verdict.energy_now)
        _check_finite("the observed score", np.array(score))
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

    def _predicted_scores(
        self, rows: Floats32, history: Floats32, between: NDArray[np.floating] | None
    ) -> tuple[NDArray[np.float64], float | None]:
        """Return the predicted scores of chunks [n, h, A], and the energy of the newest latent."""
        model, block = self._model, self._model.num_samples
        goal = self._goal if self._hazard is None else None
        energy_now = None
        if goal is not None:
            energy_now = float(model.energy(history.reshape(-1, *self._latent_shape)[-1], goal))
        scores = []
        for start in range(0, len(rows), block):
            futures = model.predict(
                rows[start : start + block], latents=history, history_actions=between, goal=goal
            )
            if futures.energies is None:
                scores.append(self._hazards(futures.latents))
            else:
                scores.append(futures.energies[:, -1].astype(np.float64) - (energy_now or 0.0))
        return np.concatenate(scores), energy_now

    def _observed_score(self, observed: Floats32, energy_now: float | None) -> float:
        """Return the score of the observed latents [1, n, T, D] after the steps of a chunk."""
        if self._hazard is not None or self._goal is None:
            return float(self._hazards(observed)[0])
        return float(self._model.energy(observed[0, -1], self._goal)) - (energy_now or 0.0)

    def _hazards(self, latents: Floats32) -> NDArray[np.float64]:
        """Return the highest hazard [n] of latents [n, h, T, D]."""
        assert self._hazard is not None
        values = np.asarray(self._hazard(latents), np.float64)
        if values.shape != latents.shape[:2]:
            raise CriticError(
                f"the hazard must return one value for each latent, {list(latents.shape[:2])}, got "
                f"{list(values.shape)}",
                code="critic.hazard_shape",
            )
        highest: NDArray[np.float64] = values.max(axis=1)
        return highest

    @property
    def _latent_shape(self) -> tuple[int, int]:
        latent = self._model.manifest.io.latent
        return latent.tokens, latent.dim

    @property
    def _history_shape(self) -> tuple[int, int, int]:
        return self._model.manifest.history_size, *self._latent_shape

    def _check_goal(self) -> None:
        if self._hazard is None and self._goal is None:
            raise CriticError("the critic has no goal to compare with: call set_goal", code="critic.no_goal")

    def _checked_candidates(self, candidates: NDArray[np.floating]) -> Floats32:
        horizon, size = self._model.manifest.horizon, self._model.manifest.action_size
        # Finite double-precision numbers may overflow in single precision.
        with np.errstate(over="ignore"):
            chunks = np.asarray(candidates, np.float32)
        if (
            chunks.ndim != 3
            or not len(chunks)
            or not 1 <= chunks.shape[1] <= horizon
            or chunks.shape[2] != size
        ):
            raise CriticError(
                f"candidates must be [K, 1..{horizon}, {size}] for {self._model!r}, got "
                f"{list(chunks.shape)}: evaluate the steps that are executed before the next verdict",
                code="critic.shape",
            )
        _check_finite("candidates", chunks)
        return chunks

    def _checked_history_actions(self, actions: NDArray[np.floating] | None) -> NDArray[np.floating] | None:
        if actions is None:
            return None
        expected = self._model.manifest.history_size - 1, self._model.manifest.action_size
        if np.shape(actions) != expected:
            raise CriticError(
                f"history_actions must be {list(expected)} for {self._model!r}, got "
                f"{list(np.shape(actions))}",
                code="critic.shape",
            )
        _check_finite("history_actions", actions)
        return actions

    def _checked_latents(self, name: str, latents: Floats32, *shapes: tuple[int | None, ...]) -> Floats32:
        """Return latents of one of these shapes; None: any size of at least 1."""
        checked = np.asarray(latents, np.float32)
        if not any(_fits(checked.shape, shape) for shape in shapes):
            expected = " or ".join(str(["n" if size is None else size for size in shape]) for shape in shapes)
            raise CriticError(
                f"{name} must be {expected} for {self._model!r}, got {list(checked.shape)}",
                code="critic.shape",
            )
        _check_finite(name, checked)
        return checked

    def _state_of(self, values: tuple[float, float, float]) -> CriticState:
        veto_excess, given_margin, alternative_margin = values
        return CriticState(
            veto_excess=veto_excess,
            given_margin=given_margin,
            alternative_margin=alternative_margin,
            limit=self.config.limit,
            false_veto_rate=self.config.false_veto_rate,
            coverage=self.config.coverage,
            latent_space=self._model.latent_space,
            energy_space=self._model.energy_space,
        )


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size == wanted or (wanted is None and size > 0) for size, wanted in zip(shape, expected, strict=True)
    )


def _check_finite(name: str, values: NDArray[np.floating]) -> None:
    if not np.isfinite(values).all():
        raise CriticError(f"{name} must be finite, got NaN or infinity", code="critic.not_finite")
