"""Reacher of the DeepMind Control suite: torques turn two joints, each to within 0.05 rad of the goal.

One set of pairs, as published: offset 25, budget 50. The controller turns the joints straight to the true
angles of the goal, by their true angles and velocities.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_worldmodel_environments.environment import Environment, Pairs
from stable_worldmodel_environments.planning import BlockActions, PlannerSettings

from jepa_recipes.stable_worldmodel.reacher import BLOCK, HORIZON, SOURCE, TORQUES
from jepa_runtime import Bundle
from jepa_runtime.errors import JepaRuntimeError

# Torques per rad and per rad/s of the joints, tuned on other recordings.
STIFFNESS, DAMPING = (20.0, 20.0), (0.7, 0.7)


def baselines(swm: ModuleType, seed: int) -> dict[str, Callable[[], Any]]:
    """Return functions that create the policies without a model, by name."""
    del seed

    class JointController(swm.policy.BasePolicy):  # type: ignore[misc, name-defined]
        """Control the angles of the joints."""

        def get_action(self, obs: Any, **_: Any) -> NDArray[np.float32]:
            """Return the actions of all environments."""
            shape = self.env.action_space.shape
            ahead = (np.asarray(obs["goal_qpos"]) - np.asarray(obs["qpos"])).reshape(shape)
            turning = np.asarray(obs["qvel"]).reshape(shape)
            torques = np.multiply(STIFFNESS, ahead) - np.multiply(DAMPING, turning)
            return np.asarray(torques.clip(-1, 1), np.float32)

    return {"joint controller": JointController}


def actions(bundle: Bundle) -> BlockActions:
    """Return how a bundle takes the environment's actions.

    Raises:
        JepaRuntimeError: The bundle is for another robot.
    """
    names = tuple(bundle.manifest.io.action.names)
    if names != TORQUES.names:
        raise JepaRuntimeError(
            f"{bundle.path}: has the actions {', '.join(names)}: give a bundle of "
            "`jepa-export train stable_worldmodel --environment reacher`"
        )
    return BlockActions(BLOCK, 1.0, None)


REACHER = Environment(
    source=SOURCE,
    recordings=60,
    recorded_with="random torques",
    sets={"standard": Pairs(25, 50, required=True)},
    start=[
        {"method": "set_state", "args": {"qpos": {"value": "qpos"}, "qvel": {"value": "qvel"}}},
        {"method": "set_target_qpos", "args": {"target_qpos": {"value": "goal_qpos"}}},
    ],
    baselines=baselines,
    block=BLOCK,
    actions=actions,
    planner=PlannerSettings(horizon=HORIZON, receding=1, iterations=6, topk=12, all_steps=True),
    required_rate=0.86,
)
