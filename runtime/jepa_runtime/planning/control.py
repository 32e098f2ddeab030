"""Receding-horizon control towards a goal image: plan on predicted futures, execute the first action, plan
again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.planning.cem import CEM, ActionLimits, CEMConfig, Floats32, plan_costs
from jepa_runtime.world_model import WorldModel


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """``iterations`` of the cross-entropy method per executed action, and the method's own settings."""

    iterations: int = 6
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
        self._model, self._iterations = model, config.iterations
        self._search = CEM(config.cem, limits, seed=seed)
        self._goal = model.encode(goal)

    def decide(self, frame: NDArray[np.uint8]) -> Decision:
        """What to do now that ``frame`` (uint8 [h, w, 3] RGB) is seen; call it once per executed step."""
        latent = self._model.encode(frame)
        energy = float(self._model.energy(latent, self._goal))
        if energy <= self._model.manifest.goal_threshold:
            return Decision(np.zeros_like(self._search.mean[0]), energy, True)
        for _ in range(self._iterations):
            futures = self._model.predict(self._search.ask(), latents=latent)
            self._search.tell(plan_costs(self._model.energy(futures.latents, self._goal)))
        action = self._search.mean[0].copy()
        self._search.shift()
        return Decision(action, energy, False)
