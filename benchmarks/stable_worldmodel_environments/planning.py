"""A bundle as the model of the package's CEM."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime import WorldModel


@dataclass(frozen=True)
class PlannerSettings:
    """Settings of the package's CEM.

    Attributes:
        horizon: Actions of the bundle in a plan.
        receding: Actions of a plan to execute before the next plan.
        iterations: Iterations of the CEM.
        topk: Candidates that the next iteration is drawn from.
        all_steps: The cost is the sum of the energies of all predicted states, not that of the last one.
    """

    horizon: int
    receding: int
    iterations: int
    topk: int
    all_steps: bool


@dataclass(frozen=True)
class BlockActions:
    """Actions of the environment, as a bundle takes them: the mean of a block of steps.

    Attributes:
        block: Steps of the environment in an action of the bundle.
        unit: Action of the bundle for 1 in the environment.
        max_norm: Largest norm of an action of the environment; None: each component is at most 1.
    """

    block: int
    unit: float
    max_norm: float | None

    def limited(self, steps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return actions [..., A] of the environment within the limits."""
        if self.max_norm is None:
            return np.asarray(steps.clip(-1, 1), np.float32)
        norm = np.linalg.norm(steps, axis=-1, keepdims=True)
        return np.asarray(steps * np.minimum(1.0, self.max_norm / np.maximum(norm, 1e-9)), np.float32)

    def of_blocks(self, candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return actions [S, H, A] of the bundle for candidates [S, H, block * A] of the package's CEM."""
        steps = candidates.reshape(*candidates.shape[:2], self.block, -1)
        return np.asarray(self.limited(steps).mean(axis=2) * self.unit, np.float32)

    def transform(self, actions: Any) -> Any:
        """Return ``actions``; the package calls this for actions that it reads."""
        return actions

    def inverse_transform(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what is executed for ``actions`` of a plan."""
        return self.limited(actions)


class BundleCost:
    """The energies of predicted states to the goal, as the cost that the package's CEM minimizes."""

    def __init__(self, model: WorldModel, actions: BlockActions, *, all_steps: bool) -> None:
        self._model, self._actions, self._all_steps = model, actions, all_steps

    def get_cost(self, info: dict[str, Any], candidates: Any) -> Any:
        """Return the costs [1, S] of the candidates [1, S, H, block * A]."""
        import torch

        futures = self._model.predict(
            self._actions.of_blocks(candidates[0].numpy()),
            latents=info["seen"][0, 0].numpy(),
            history_actions=info["executed"][0, 0].numpy(),
            goal=info["goal_latent"][0, 0].numpy(),
        )
        assert futures.energies is not None
        energies = np.asarray(futures.energies[None], np.float32)
        return torch.from_numpy(energies.sum(axis=2) if self._all_steps else energies[..., -1].copy())


def bundle_policy(
    swm: ModuleType, model: WorldModel, actions: BlockActions, settings: PlannerSettings
) -> Any:
    """Return a policy that plans with a bundle by the package's CEM, from the frames that it has seen."""
    manifest = model.manifest

    class BundlePolicy(swm.policy.WorldModelPolicy):  # type: ignore[misc, name-defined]
        """The package's policy, whose planner also gets the latents and actions of past blocks."""

        def set_env(self, env: Any) -> None:
            """Begin: what was before the first frame looked like it."""
            super().set_env(env)
            self._step = 0
            self._seen: NDArray[np.float32] | None = None
            self._steps = np.zeros((env.num_envs, actions.block, manifest.action_size), np.float32)
            self._executed = np.zeros(
                (env.num_envs, manifest.history_size - 1, manifest.action_size), np.float32
            )

        def get_action(self, info_dict: dict[str, Any], **_: Any) -> NDArray[np.float32]:
            """Return the actions of all environments."""
            if self._step % actions.block == 0:
                self._observe(info_dict["pixels"])
                self._goal = np.stack([_encode(model, shown) for shown in info_dict["goal"]])
            history = {"seen": self._seen, "executed": self._executed, "goal_latent": self._goal}
            chosen: NDArray[np.float32] = super().get_action(info_dict | history)
            # The package asks nothing of an environment that has reached its goal.
            self._steps[:, self._step % actions.block] = np.nan_to_num(chosen)
            self._step += 1
            return chosen

        def _observe(self, shown: Any) -> None:
            latents = np.stack([_encode(model, each) for each in shown])[:, None]
            if self._seen is None:
                self._seen = np.repeat(latents, manifest.history_size, axis=1)
            else:
                self._seen = np.concatenate([self._seen[:, 1:], latents], axis=1)
                executed = self._steps.mean(axis=1, keepdims=True) * actions.unit
                self._executed = np.concatenate([self._executed, executed], axis=1)[:, 1:]

    solver = swm.solver.CEMSolver(
        BundleCost(model, actions, all_steps=settings.all_steps),
        num_samples=model.num_samples,
        n_steps=settings.iterations,
        topk=settings.topk,
        seed=42,
    )
    plan = swm.PlanConfig(
        horizon=settings.horizon,
        receding_horizon=settings.receding,
        action_block=actions.block,
        warm_start=True,
    )
    return BundlePolicy(solver, plan, process={"action": actions})


def _encode(model: WorldModel, shown: Any) -> NDArray[np.float32]:
    """Return the latent of the newest of the images ``shown`` [n, height, width, 3]."""
    return np.array(model.encode(np.ascontiguousarray(np.asarray(shown)[-1])), np.float32)
