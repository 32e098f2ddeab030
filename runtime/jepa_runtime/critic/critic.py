"""The critic: from candidate chunks and an image to a verdict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.critic.config import CriticConfig
from jepa_runtime.critic.judge import ChunkJudge
from jepa_runtime.critic.thresholds import CriticState
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
        self._model, self._hazard = model, hazard
        self._goal: Floats32 | None = None
        self._judge = ChunkJudge(
            config or CriticConfig(),
            ActionLimits.of(model.manifest),
            is_rate=model.manifest.io.action.is_rate,
            latent_space=model.latent_space,
            energy_space=model.energy_space,
            state=state,
            seed=seed,
        )

    @property
    def config(self) -> CriticConfig:
        """Settings."""
        return self._judge.config

    @property
    def is_warming_up(self) -> bool:
        """Whether chunks are only observed: too few harmless ones have been executed."""
        return self._judge.is_warming_up

    @property
    def veto_threshold(self) -> float:
        """Predicted score above which a given chunk is not executed; infinite during the warm-up."""
        return self._judge.veto_threshold

    @property
    def state(self) -> CriticState | None:
        """What was learned so far; None during the warm-up."""
        return self._judge.state

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
        history_states: NDArray[np.floating] | None = None,
    ) -> CriticVerdict:
        """Decide what to execute.

        Args:
            candidates: [K, h, A], h at most the horizon of the model; the first is the given one.
            latents: [W, T, D] up to now, one step apart, oldest first, or the newest [T, D] alone.
            history_actions: [W-1, A] between the latents; None: zero.
            history_states: [W, S], the states of the robot at the latents; required if the model reads them
                (``io.state`` in its manifest), else None.

        Raises:
            CriticError: A shape is wrong, a value is not finite, there is no goal, or the hazard does not
                return one value per latent.
        """
        chunks = self._checked_candidates(candidates)
        history = self._checked_latents("latents", latents, self._history_shape, self._latent_shape)
        between = self._checked_history_actions(history_actions)
        states = self._checked_history_states(history_states)
        self._check_goal()
        variants = self._judge.variants(chunks)
        scores, energy_now = self._predicted_scores(variants, history, between, states)
        return self._judge.judge(variants, scores, energy_now=energy_now)

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
        return self._judge.observe(verdict, score)

    def _predicted_scores(
        self,
        rows: Floats32,
        history: Floats32,
        between: NDArray[np.floating] | None,
        states: NDArray[np.floating] | None,
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
                rows[start : start + block],
                latents=history,
                history_actions=between,
                history_states=states,
                goal=goal,
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

    def _checked_history_states(self, states: NDArray[np.floating] | None) -> NDArray[np.floating] | None:
        manifest = self._model.manifest
        spec = manifest.io.state
        if spec is None:
            if states is not None:
                raise CriticError(
                    f"history_states must be None: {self._model!r} reads no state of the robot",
                    code="critic.shape",
                )
            return None
        expected = manifest.history_size, len(spec.names)
        if states is None or np.shape(states) != expected:
            found = "None" if states is None else str(list(np.shape(states)))
            raise CriticError(
                f"history_states must be {list(expected)} for {self._model!r}, got {found}: give the "
                f"measured state of the robot ({', '.join(spec.names)}) at each latent",
                code="critic.shape",
            )
        _check_finite("history_states", states)
        return states

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


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size == wanted or (wanted is None and size > 0) for size, wanted in zip(shape, expected, strict=True)
    )


def _check_finite(name: str, values: NDArray[np.floating]) -> None:
    if not np.isfinite(values).all():
        raise CriticError(f"{name} must be finite, got NaN or infinity", code="critic.not_finite")
