"""Receding-horizon control towards a goal image: plan on predicted futures, execute the first action, plan
again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.planning.cem import CEM, PROGRESS, ActionLimits, CEMConfig, Floats32, plan_costs
from jepa_runtime.world_model import WorldModel


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """``iterations`` of the cross-entropy method per executed action, and the method's own settings.

    A robot that got no nearer (by 2 %) for ``patience`` steps is stuck: the model is
    wrong about where it stands. It then drives any way for ``escape_steps`` and plans anew from there.
    """

    iterations: int = 6
    patience: int = 8
    escape_steps: int = 3
    cem: CEMConfig = field(default_factory=CEMConfig)


@dataclass(frozen=True)
class Decision:
    """The action [A] to execute for one step, the energy of where the robot is, and whether that counts as
    arrived.
    """

    action: Floats32
    energy: float
    reached: bool


class Controller:
    """Drives to one goal.

    Args:
        model: an open model with room for the configured candidates.
        goal: uint8 [h, w, 3] RGB image of the goal.
        seed: the candidates follow from it.
    """

    def __init__(
        self, model: WorldModel, goal: NDArray[np.uint8], config: ControlConfig, *, seed: int
    ) -> None:
        action = model.manifest.io.action
        limits = ActionLimits(
            low=np.asarray(action.low, np.float32),
            high=np.asarray(action.high, np.float32),
            max_norm=action.max_norm,
        )
        self._model, self._config = model, config
        self._search = CEM(config.cem, limits, seed=seed)
        self._goal = model.encode(goal)
        self._best, self._without_progress = math.inf, 0
        self._escape: Floats32 | None = None
        self._escaping = 0

    def decide(self, frame: NDArray[np.uint8]) -> Decision:
        """What to do now that ``frame`` (uint8 [h, w, 3] RGB) is seen; call it once per executed step."""
        latent = self._model.encode(frame)
        energy = float(self._model.energy(latent, self._goal))
        if energy <= self._model.manifest.goal_threshold:
            return Decision(np.zeros_like(self._search.mean[0]), energy, True)
        escape = self._escape_if_stuck(energy)
        if escape is not None:
            return Decision(escape, energy, False)
        for _ in range(self._config.iterations):
            futures = self._model.predict(self._search.ask(), latents=latent, goal=self._goal)
            self._search.tell(plan_costs(cast(Floats32, futures.energies)))
        action = self._search.mean[0].copy()
        self._search.shift()
        return Decision(action, energy, False)

    def _escape_if_stuck(self, energy: float) -> Floats32 | None:
        if self._escaping:
            self._escaping -= 1
            return self._escape
        if energy < PROGRESS * self._best:
            self._best, self._without_progress = energy, 0
            return None
        self._without_progress += 1
        if self._without_progress < self._config.patience:
            return None
        self._best, self._without_progress = math.inf, 0
        self._escaping, self._escape = self._config.escape_steps - 1, self._search.escape()
        return self._escape
