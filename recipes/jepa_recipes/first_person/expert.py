"""The expert that behavior cloning imitates: it knows the layout and all true poses.

It drives along the shortest path, and near a goal in plain view as the robot does that reads its pose
(:class:`~jepa_runtime.planning.Steering`): it arrives with the heading of the goal, and backs up to a goal
behind.
"""

from __future__ import annotations

import math

import numpy as np

from jepa_runtime.model import RelativePose
from jepa_runtime.planning import ActionLimits, DifferentialDrive, Steering, SteeringConfig
from jepa_runtime.util import TURN_M, Pose, relative, travel_m, wrap
from jepa_sim.worlds.first_person.layouts import PackedLayouts
from jepa_sim.worlds.first_person.motion import MAX_SPEED_MPS, MAX_TURN_RADPS, MIN_SPEED_MPS, clearance
from jepa_sim.worlds.first_person.paths import CRUISE_MPS, Command, CostMap, DistanceField, steer
from jepa_sim.worlds.first_person.world import MODEL_STEP_S

# Within this distance, a goal in plain view is steered to.
_NEAR_M = 1.0
# Distance between the points at which a straight line is checked.
_CHECKED_EVERY_M = 0.1
# A point this far to one side is nearly behind: the expert then always turns to the left.
_BEHIND_RAD = math.radians(150)
_CERTAIN_M, _CERTAIN_RAD = 0.01, 0.01


class Expert:
    """Gives commands in one layout.

    Args:
        layouts: The layouts.
        which: Number of the layout.
    """

    def __init__(self, layouts: PackedLayouts, which: int) -> None:
        self._layouts, self._which = layouts, which
        self._solids, self._count = layouts.solids[which], int(layouts.solid_count[which])
        self._costs: CostMap | None = None
        self._fields: dict[tuple[float, float], DistanceField] = {}

    def advise(self, pose: Pose, goal: Pose) -> tuple[Command, float]:
        """Return the command [2] at a pose, and how far it is from there to the goal.

        The distance is that along the path, where a turn counts as in
        :func:`~jepa_runtime.util.poses.travel_m`. Where nothing is known of a path, the goal is steered to.
        """
        seen = relative(pose, goal)
        if math.hypot(seen[0], seen[1]) < _NEAR_M and self._is_clear_between(pose, goal):
            return _steer(seen), travel_m(pose, goal)
        field = self._field(goal)
        length_m = field.length(pose)
        if math.isinf(length_m):
            return _steer(seen), travel_m(pose, goal)
        x, y = field.waypoint(pose)
        command = steer(pose, x, y, CRUISE_MPS)
        bearing = wrap(math.atan2(y - pose[1], x - pose[0]) - pose[2])
        if abs(bearing) > _BEHIND_RAD:
            command = np.array([0.0, MAX_TURN_RADPS])
        return command, length_m + TURN_M * abs(float(seen[2]))

    def _field(self, goal: Pose) -> DistanceField:
        place = float(goal[0]), float(goal[1])
        if place not in self._fields:
            if self._costs is None:
                self._costs = CostMap(self._layouts, self._which)
            self._fields[place] = DistanceField(self._layouts, self._which, goal, costs=self._costs)
        return self._fields[place]

    def _is_clear_between(self, pose: Pose, goal: Pose) -> bool:
        distance = math.hypot(goal[0] - pose[0], goal[1] - pose[1])
        points = np.linspace(pose[:2], goal[:2], 2 + int(distance / _CHECKED_EVERY_M))
        return all(clearance(x, y, self._solids, self._count) > 0 for x, y in points[1:-1])


def _steer(goal: Pose) -> Command:
    """Return the command to a pose in the frame of the robot."""
    low, high = (MIN_SPEED_MPS, -MAX_TURN_RADPS), (MAX_SPEED_MPS, MAX_TURN_RADPS)
    steering = Steering(
        SteeringConfig(horizon=1, num_samples=1),
        ActionLimits(low=np.array(low, np.float32), high=np.array(high, np.float32)),
        DifferentialDrive(forward=0, turn=1, size=2),
        step_s=MODEL_STEP_S,
        seed=0,
    )
    x, y, yaw = goal.tolist()
    steering.set_goal_pose(RelativePose(x, y, yaw, _CERTAIN_M, _CERTAIN_RAD))
    command: Command = steering.mean[0].astype(np.float64)
    return command
