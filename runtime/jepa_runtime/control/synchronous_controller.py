"""Receding-horizon control towards goal images: plan on predicted futures, execute the first actions, plan
again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.control.progress_checker import ProgressChecker
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.planning.action_limits import ActionLimits, Floats32
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.energies import ENERGIES, EnergyName, ReductionName
from jepa_runtime.planning.mppi import MPPI, MPPIConfig
from jepa_runtime.planning.planner import Planner, Rollout


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """How to plan, and what to do with the plan.

    A robot that got no nearer (by 2 %) for ``patience`` steps is stuck: the model is
    wrong about where it stands. It then drives any way for ``escape_steps`` and plans anew from there.

    Attributes:
        search: the method and its own settings.
        iterations: of the method per plan.
        budget_s: of a plan, see :class:`~jepa_runtime.planning.planner.Planner`; None: no budget.
        energy: by which futures are judged; None: the bundle's own, see :meth:`WorldModel.energy`.
        reduction, discount: what makes costs of energies, see :func:`plan_costs`.
        replan_every: so many actions of a plan are executed before the next is made.
        patience: None: a robot is never stuck.
        escape_steps: see above.
        subgoal_threshold: energy at or below which the next goal's turn comes; None: the manifest's
            ``goal_threshold``, which holds for the last one always.
    """

    search: CEMConfig | MPPIConfig = field(default_factory=CEMConfig)
    iterations: int = 6
    budget_s: float | None = None
    energy: EnergyName | None = None
    reduction: ReductionName = "sum"
    discount: float = 0.99
    replan_every: int = 1
    patience: int | None = 8
    escape_steps: int = 3
    subgoal_threshold: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.replan_every <= self.search.horizon:
            raise ValueError(
                f"replan_every must be between 1 and horizon ({self.search.horizon}), got {self.replan_every}"
            )
        if self.escape_steps < 1:
            raise ValueError(f"escape_steps must be at least 1, got {self.escape_steps}")
        if self.energy is not None and self.energy not in ENERGIES:
            raise ValueError(f"energy must be {', '.join(ENERGIES)} or None, got {self.energy!r}")


@dataclass(frozen=True)
class SynchronousDecision:
    """The action [A] to execute for one step, the energy of where the robot is to the goal whose turn it is,
    whether the last goal is reached, and which goal it is.
    """

    action: Floats32
    energy: float
    reached: bool
    goal: int


class SynchronousController:
    """Drives to one goal, or to several one after the other. Before its first decision the robot stands.

    Args:
        model: an open model with room for the configured candidates.
        goal: uint8 [h, w, 3] RGB image of the goal, or a latent [T, D]; or several in a list, the last one
            last.
        seed: the candidates follow from it.
        limits: of the actions; None: the manifest's.
        clock: seconds, for ``budget_s``.

    Raises:
        ValueError: no goal was given, or something else as one, or the model predicts fewer candidates or
            steps than are configured.
    """

    def __init__(
        self,
        model: WorldModel,
        goal: NDArray[Any] | Sequence[NDArray[Any]],
        config: ControlConfig,
        *,
        seed: int,
        limits: ActionLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        goals = [goal] if isinstance(goal, np.ndarray) else goal
        if not goals:
            raise ValueError("there must be a goal to drive to, got none")
        candidates, horizon = config.search.num_samples, config.search.horizon
        if candidates > model.num_samples or horizon > model.manifest.horizon:
            raise ValueError(
                f"this model predicts at most {model.num_samples} candidates of {model.manifest.horizon} "
                f"steps, the search asks for {candidates} of {horizon}"
            )
        self._model, self._config = model, config
        self._search = search_of(config.search, limits or ActionLimits.of(model.manifest), seed=seed)
        self._planner = Planner(
            self._search,
            iterations=config.iterations,
            budget_s=config.budget_s,
            reduction=config.reduction,
            discount=config.discount,
            clock=clock,
        )
        self._goals = [self._encoded(each) for each in goals]
        self._goal = 0
        self._stuck = ProgressChecker(config.patience)
        # What is still to be executed, the next action first.
        self._ahead: list[Floats32] = []
        self._executed: Floats32 | None = None
        self._escaping = 0
        # The latents that the model looks at, one a step, and the actions between them.
        size = model.manifest.history_size
        self._seen: deque[Floats32] = deque(maxlen=size)
        self._done = deque([np.zeros_like(self._search.mean[0])] * (size - 1), maxlen=size - 1)

    def _encoded(self, goal: NDArray[Any]) -> Floats32:
        if goal.dtype == np.uint8:
            return self._model.encode(goal)
        latent = self._model.manifest.io.latent
        if goal.shape != (latent.tokens, latent.dim):
            raise ValueError(
                f"a goal must be an image, or a latent [{latent.tokens}, {latent.dim}], got {goal.dtype} "
                f"{list(goal.shape)}"
            )
        return goal.astype(np.float32)

    def decide(self, frame: NDArray[np.uint8]) -> SynchronousDecision:
        """What to do now that ``frame`` (uint8 [h, w, 3] RGB) is seen; call it once per executed step."""
        latent = self._model.encode(frame)
        self._remember(latent)
        energy = self._energy(latent)
        while energy <= self._threshold():
            self._ahead, self._escaping = [], 0
            self._stuck.reset()
            if self._goal == len(self._goals) - 1:
                self._executed = np.zeros_like(self._search.mean[0])
                return SynchronousDecision(self._executed, energy, True, self._goal)
            self._goal += 1
            energy = self._energy(latent)
        return SynchronousDecision(self._next_action(energy), energy, False, self._goal)

    def _remember(self, latent: Floats32) -> None:
        self._seen.extend([latent] * (1 if self._seen else self._model.manifest.history_size))
        if self._executed is not None:
            self._done.append(self._executed)

    def _energy(self, latent: Floats32) -> float:
        return float(self._model.energy(latent, self._goals[self._goal]))

    def _threshold(self) -> float:
        own = self._config.subgoal_threshold
        last = self._goal == len(self._goals) - 1
        return self._model.manifest.goal_threshold if last or own is None else own

    def _next_action(self, energy: float) -> Floats32:
        # A plan may have been left before its end.
        self._search.executed = self._executed
        if self._escaping:
            self._escaping -= 1
        elif self._stuck.is_stuck(energy):
            self._escaping = self._config.escape_steps - 1
            self._ahead = [self._search.escape()] * self._config.escape_steps
        elif not self._ahead:
            done = np.array(self._done, np.float32).reshape(-1, len(self._search.mean[0]))
            goal, energy_name = self._goals[self._goal], self._config.energy
            plan = self._planner.plan(
                rollout_of(self._model, np.stack(self._seen), goal, energy_name, history_actions=done)
            )
            self._ahead = list(plan.mean[: self._config.replan_every])
            self._search.shift(self._config.replan_every)
        self._executed = self._ahead.pop(0)
        return self._executed


def search_of(config: CEMConfig | MPPIConfig, limits: ActionLimits, *, seed: int) -> CEM | MPPI:
    """The search with these settings."""
    if isinstance(config, MPPIConfig):
        return MPPI(config, limits, seed=seed)
    return CEM(config, limits, seed=seed)


def rollout_of(
    model: WorldModel,
    latents: Floats32,
    goal: Floats32,
    energy: EnergyName | None = None,
    *,
    history_actions: Floats32 | None = None,
) -> Rollout:
    """What candidates [K, H, A] lead to, as energies [K, H] to ``goal`` [T, D]: one call of the predictor.

    Args:
        latents, history_actions: from where, as of :meth:`WorldModel.predict`.
        energy: None: the bundle's own.
    """

    def rollout(candidates: Floats32) -> Floats32:
        sought = goal if energy is None else None
        futures = model.predict(candidates, latents=latents, history_actions=history_actions, goal=sought)
        return cast(Floats32, futures.energies) if energy is None else ENERGIES[energy](futures.latents, goal)

    return rollout
