"""CEM to a latent sub-goal, which a search over macro-actions chooses.

Source: HWM (Zhang et al., "Hierarchical Planning with Latent World Models", arXiv:2604.03208): a high level
plans macro-actions to the goal, and the first latent that it predicts is the goal of the low level. HWM
trains a second predictor on learned macro-actions. Here the macro-actions are constant, their predictor is
that of the bundle over several steps, and the search is a tree of two macro-actions: no further network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning.action_limits import ActionLimits, Floats32
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.search import LatentFutures, constant_directions
from jepa_runtime.planning.search_method import LatentModel, SearchContext, SearchMethod


@dataclass(frozen=True, kw_only=True)
class HierarchicalCEMConfig(CEMConfig):
    """Settings of the cross-entropy method to sub-goals.

    Attributes:
        macro_steps: Duration of a macro-action in steps, at most the horizon.
        branches: Number of first macro-actions after which second ones are tried.
        least_gain: How much nearer than one macro-action two must lead, as a proportion of the energy to the
            goal; otherwise the goal is within reach.
    """

    METHOD: ClassVar[str] = "hierarchical_cem"

    macro_steps: int = 8
    branches: int = 16
    least_gain: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("macro_steps", "branches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.least_gain < 1:
            raise ValueError(f"least_gain must be at least 0 and below 1, got {self.least_gain}")


class HierarchicalCEM(CEM):
    """The cross-entropy method to sub-goals, which are chosen again after each step of the plan.

    Args:
        config: Settings.
        limits: Limits of the actions.
        model: The world model.
        seed: Seed of the candidates and the macro-actions.

    Attributes:
        subgoal: Latent [T, D] to which the candidates are planned; None: it is chosen with the next futures.
    """

    config: HierarchicalCEMConfig

    def __init__(
        self, config: HierarchicalCEMConfig, limits: ActionLimits, model: LatentModel, *, seed: int
    ) -> None:
        self._model = model
        super().__init__(config, limits, seed=seed)

    def reset(self) -> None:
        super().reset()
        self.subgoal: Floats32 | None = None

    def shift(self, steps: int = 1, *, executed: Floats32 | None = None) -> None:
        super().shift(steps, executed=executed)
        self.subgoal = None

    def energies(self, energies: Floats32, futures: LatentFutures | None) -> Floats32:
        """Return the energies [K, H] to the sub-goal.

        Raises:
            JepaRuntimeError: The caller has no latents.
        """
        if futures is None:
            raise JepaRuntimeError(
                f"{self.config.METHOD} needs the predicted latents, which were not given: plan in the "
                "process of the world model, or use another search",
                code="planner.no_latents",
            )
        if self.subgoal is None:
            self.subgoal = self._choose(futures)
        return self._model.energy(futures.latents, self.subgoal)

    def _choose(self, futures: LatentFutures) -> Floats32:
        """Return the end of the first of the two macro-actions that lead nearest to the goal.

        If the second ones do not lead nearer than the first ones, it is the goal itself.
        """
        steps = min(self.config.macro_steps, self.config.horizon)
        shape = self.config.num_samples, steps
        actions = constant_directions(self._rng, self.limits, shape, 1.0, self.executed)
        # A goal that is nearer than a step at full speed needs slow ones.
        slow = shape[0] // 2
        actions[shape[0] - slow :] *= np.linspace(1 / steps, 1, slow, dtype=np.float32)[:, None, None]
        actions = self.limits.clip(actions, self.executed)
        first = self._model.predict(actions, futures.current)
        nearest = self._model.energy(first, futures.goal).min(axis=1)
        now = float(self._model.energy(futures.current, futures.goal))
        best, subgoal = min(now, float(nearest.min())) - self.config.least_gain * abs(now), futures.goal
        # The directions are random, and so are the first of them.
        for end in first[: self.config.branches, -1]:
            reached = float(self._model.energy(self._model.predict(actions, end), futures.goal).min())
            if reached < best:
                best, subgoal = reached, end
        return subgoal


def _create(config: HierarchicalCEMConfig, context: SearchContext) -> HierarchicalCEM:
    if context.model is None:
        raise JepaRuntimeError(
            f"{config.METHOD} needs the world model in its own process: use it there, or use another search",
            code="planner.no_latents",
        )
    return HierarchicalCEM(config, context.limits, context.model, seed=context.seed)


SEARCH = SearchMethod(
    name=HierarchicalCEMConfig.METHOD,
    summary="as cem, to latent sub-goals on the way",
    source="HWM (arXiv:2604.03208), without its learned macro-actions",
    config=HierarchicalCEMConfig,
    create=_create,
    requires=frozenset({"latents"}),
)
