"""TwoRoom: a dot moves in two rooms, to within 16 of 224 pixels of the goal.

Three sets of pairs:

    standard      offset 25, budget 50, as published
    other room    the same, only pairs whose start and goal are in different rooms
    offset 100    offset 100, budget 150

The straight line follows true positions and knows no wall; the expert of the package also knows the door.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_worldmodel_environments.environment import Environment, Pairs
from stable_worldmodel_environments.planning import BlockActions, PlannerSettings

from jepa_recipes.stable_worldmodel.recordings import SIDE_PX
from jepa_recipes.stable_worldmodel.two_room import BLOCK, NOISE, REPEAT, SOURCE, TwoRoomTrainingWorld, expert
from jepa_runtime import Bundle
from jepa_runtime.errors import JepaRuntimeError

WALL_PX, STEP_PX = 112.0, 5.0
# The image of Two Rooms shows 4 m, and its actions are in force for 0.2 s.
TWO_ROOMS_UNIT = BLOCK * STEP_PX / SIDE_PX * 4.0 / 0.2


def in_different_rooms(start: NDArray[np.floating], goal: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which columns in pixels are on different sides of the wall."""
    return (start > WALL_PX) != (goal > WALL_PX)


def baselines(swm: ModuleType, seed: int) -> dict[str, Callable[[], Any]]:
    """Return functions that create the policies without a model, by name."""

    class StraightLine(swm.policy.BasePolicy):  # type: ignore[misc, name-defined]
        """Drive to the true position of the goal."""

        def get_action(self, obs: Any, **_: Any) -> NDArray[np.float32]:
            """Return the actions of all environments."""
            shape = self.env.action_space.shape
            ahead = (np.asarray(obs["goal_state"]) - np.asarray(obs["state"])).reshape(shape) / STEP_PX
            length = np.linalg.norm(ahead, axis=-1, keepdims=True)
            return np.asarray(ahead / np.maximum(length, 1.0), np.float32)

    return {"straight line": StraightLine, "expert": lambda: expert(seed)}


def actions(bundle: Bundle) -> BlockActions:
    """Return how a bundle takes the environment's actions: of Two Rooms (velocities in m/s) or of TwoRoom.

    Raises:
        JepaRuntimeError: The bundle is for another robot.
    """
    described = bundle.manifest.io.action
    if tuple(described.names) not in (TwoRoomTrainingWorld.action_names, ("linear.x", "linear.y")):
        raise JepaRuntimeError(
            f"{bundle.path}: has the actions {', '.join(described.names)}: give a bundle of "
            "`jepa-export train stable_worldmodel` or of Two Rooms"
        )
    unit = TWO_ROOMS_UNIT if set(described.units) == {"m/s"} else 1.0
    return BlockActions(BLOCK, unit, min(1.0, (described.max_norm or unit) / unit))


TWO_ROOM = Environment(
    source=SOURCE,
    recordings=400,
    recorded_with=f"the package's expert (noise {NOISE:g}, repeat {REPEAT:g})",
    sets={
        "standard": Pairs(25, 50, required=False),
        "other room": Pairs(25, 50, required=True, eligible=in_different_rooms),
        "offset 100": Pairs(100, 150, required=True),
    },
    start=[
        {"method": "_set_state", "args": {"state": {"value": "state"}}},
        {"method": "_set_goal_state", "args": {"goal_state": {"value": "goal_state"}}},
    ],
    baselines=baselines,
    block=BLOCK,
    actions=actions,
    planner=PlannerSettings(horizon=3, receding=2, iterations=6, topk=8, all_steps=False),
    required_rate=0.95,
)
