"""Steering of a differential drive to the pose of the goal, as the model reads it.

The plan is a rollout of a control law: aim at a point before the goal, so as to arrive with its heading; turn
on the spot if the goal is to the side; back up to a near goal behind; within the arrival distance turn to the
heading of the goal. The law has no knowledge of obstacles. The caller predicts the futures of the plan and of
a few other motions, one of which is executed while the plan is rejected (cost infinite).

The less certain the pose, the slower the robot. If it is unknown where the goal is, the robot turns slowly on
the spot, until an image shows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.planning.action_limits import ActionLimits, Floats32
from jepa_runtime.planning.differential_drive import DifferentialDrive
from jepa_runtime.planning.search import SearchInputs, constant_directions
from jepa_runtime.planning.search_method import SearchContext, SearchMethod
from jepa_runtime.util.poses import Pose, relative, wrap

# A goal this far to one side is nearly behind: noise must not change the direction in which the robot turns.
_BEHIND_RAD = math.radians(150)
# A goal whose heading differs by more is approached straight: the point before it lies behind the robot.
_MAX_ARRIVAL_TURN_RAD = math.radians(80)


@dataclass(frozen=True, kw_only=True)
class SteeringConfig:
    """Settings of steering. The action limits of the model bound all velocities too.

    Attributes:
        horizon: H.
        num_samples: K, 1 to 4: the plan, turning left, turning right, backing up.
        max_speed_mps: Maximum forward speed.
        min_speed_mps: Speed at the goal, before the bearing and the certainty reduce it.
        speed_gain_per_s: Speed per distance to the goal.
        max_turn_radps: Maximum turning rate.
        turn_gain_per_s: Turning rate per angle to the point aimed at.
        approach: Distance from the goal to the point aimed at, as a proportion of the distance to the goal.
        approach_beyond_m: Distance to the goal below which the robot aims at the goal itself.
        turn_in_place_rad: Angle to the point aimed at beyond which the robot turns on the spot.
        back_up_within_m: Distance within which the robot backs up to a goal behind it.
        back_up_beyond_rad: Bearing beyond which a goal is behind.
        back_up_mps: Speed of backing up.
        arrival_m: Distance within which the robot turns to the heading of the goal.
        goal_m: Distance within which the goal can count as reached.
        goal_rad: The same for the difference of the headings.
        certain_ratio: Standard deviation of the position, as a proportion of the distance, up to which the
            robot drives at full speed.
        lost_ratio: The same from which it turns on the spot to look around.
        lost_yaw_std_rad: Standard deviation of the goal's heading from which the heading is ignored.
        look_around_radps: Turning rate of looking around.

    Raises:
        ValueError: A value is out of range.
    """

    METHOD: ClassVar[str] = "steering"

    horizon: int = 8
    num_samples: int = 4
    max_speed_mps: float = 0.6
    min_speed_mps: float = 0.1
    speed_gain_per_s: float = 0.9
    max_turn_radps: float = 1.5
    turn_gain_per_s: float = 2.2
    approach: float = 0.36
    approach_beyond_m: float = 0.3
    turn_in_place_rad: float = 1.2
    back_up_within_m: float = 1.0
    back_up_beyond_rad: float = 1.9
    back_up_mps: float = 0.2
    arrival_m: float = 0.1
    goal_m: float = 0.15
    goal_rad: float = 0.15
    certain_ratio: float = 0.25
    lost_ratio: float = 0.75
    lost_yaw_std_rad: float = 0.7
    look_around_radps: float = 0.4

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {self.horizon}")
        if not 1 <= self.num_samples <= _MOTIONS:
            raise ValueError(f"num_samples must be from 1 to {_MOTIONS}, got {self.num_samples}")
        for name in (
            "max_speed_mps", "speed_gain_per_s", "max_turn_radps", "turn_gain_per_s", "back_up_mps",
            "arrival_m", "goal_m", "goal_rad", "lost_yaw_std_rad", "look_around_radps",
        ):  # fmt: skip
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        for name, low, high in (
            ("min_speed_mps", 0.0, self.max_speed_mps),
            ("approach", 0.0, 1.0),
            ("approach_beyond_m", 0.0, math.inf),
            ("turn_in_place_rad", 0.0, math.pi / 2),
            ("back_up_within_m", 0.0, math.inf),
            ("back_up_beyond_rad", math.pi / 2, math.pi),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low:g} to {high:g}, got {getattr(self, name)}")
        if not 0 < self.certain_ratio < self.lost_ratio < math.inf:
            raise ValueError(
                f"certain_ratio must be above 0 and below lost_ratio, got {self.certain_ratio} and "
                f"{self.lost_ratio}"
            )

    def fitted(self, *, horizon: int, num_samples: int | None = None) -> SteeringConfig:
        """Return the settings reduced to what a model predicts; see :meth:`ControllerConfig.fitted`."""
        samples = self.num_samples if num_samples is None else min(self.num_samples, num_samples)
        return replace(self, horizon=min(self.horizon, horizon), num_samples=samples)


# The plan and the motions of :meth:`Steering._others`.
_MOTIONS = 4


class Steering(SearchInputs):
    """Plans to the pose of the goal, with the interface of :class:`~jepa_runtime.planning.search.Search`.

    Args:
        config: Settings.
        limits: Limits of the actions.
        drive: Components of the actions.
        step_s: Duration of a model step.
        seed: Seed of the directions of recovery motions.

    Attributes:
        mean: The plan [H, A], within the limits; to stand without a goal pose.
        executed: Last executed action [A], from which ``limits.max_change`` counts; None: unknown.
    """

    def __init__(
        self,
        config: SteeringConfig,
        limits: ActionLimits,
        drive: DifferentialDrive,
        *,
        step_s: float,
        seed: int,
    ) -> None:
        self.config = config
        self.limits = limits
        self.executed: Floats32 | None = None
        self._drive, self._step_s = drive, step_s
        self._rng = np.random.default_rng(seed)
        # Direction in which the robot last turned towards a goal, to the left or to the right.
        self._side = 1.0
        self.reset()

    def reset(self) -> None:
        """Discard the goal pose and the plan."""
        self._goal: RelativePose | None = None
        self._candidates: Floats32 | None = None
        # The motion that is executed while the plan is rejected.
        self._other: Floats32 | None = None
        self._plan = self.mean = self._rollout()

    def set_goal_pose(self, pose: RelativePose | None) -> None:
        """Plan to a pose of the goal, as it is when the first action takes effect; None: stand."""
        self._goal = pose
        if pose is not None and not self._is_lost(pose):
            bearing = math.atan2(pose.y_m, pose.x_m)
            if abs(bearing) < _BEHIND_RAD:
                self._side = math.copysign(1.0, bearing)
        self._plan = self._rollout()
        self._choose()

    def pose_ratio(self, pose: RelativePose | None) -> float:
        """Return how far away the goal is, as a multiple of the tolerance; 0: unknown."""
        if pose is None:
            return 0.0
        config = self.config
        knows_yaw = pose.yaw_std_rad < config.lost_yaw_std_rad
        return pose.ratio(config.goal_m, config.goal_rad if knows_yaw else math.inf)

    def ask(self) -> Floats32:
        """Return the plan, then other motions: candidates float32 [K, H, A] within the limits."""
        candidates = np.concatenate([self._plan[None], self._others()])[: self.config.num_samples]
        self._candidates = self.limits.clip(candidates, self.executed)
        return self._candidates

    def tell(self, costs: NDArray[np.floating]) -> None:
        """Keep the plan, or execute the best other motion if the plan has no finite cost.

        If no cost is finite, the robot stands.

        Args:
            costs: Costs [K] of the last candidates.

        Raises:
            ValueError: The number of costs is wrong, or there are no candidates.
        """
        if self._candidates is None or costs.shape != (self.config.num_samples,):
            raise ValueError(
                f"tell needs one cost for each of the {self.config.num_samples} candidates of the last "
                f"ask, got {costs.shape}"
            )
        finite = np.where(np.isfinite(costs), costs, np.inf)
        if finite[0] < math.inf:
            self._other = None
        elif finite.min() < math.inf:
            self._other = self._candidates[int(np.argmin(finite))]
        else:
            self._other = np.zeros_like(self.mean)
        self._candidates = None
        self._choose()

    def directions(self, speed: float) -> Floats32:
        """Return constant actions [K, H, A] in random directions, and discard the plan.

        Args:
            speed: Size of the actions, as a proportion of the box.
        """
        self.reset()
        return constant_directions(
            self._rng, self.limits, (self.config.num_samples, self.config.horizon), speed, self.executed
        )

    def shift(self, steps: int = 1, *, executed: Floats32 | None = None) -> None:
        """Note the executed action; the pose of the goal at the next one follows with :meth:`set_goal_pose`.

        Args:
            steps: Number of steps.
            executed: Last executed action [A]; None: as planned.
        """
        steps = min(steps, self.config.horizon)
        if executed is not None:
            self.executed = executed
        elif steps:
            self.executed = self.mean[steps - 1].copy()
        self._candidates = None

    def _choose(self) -> None:
        self.mean = self._plan if self._other is None else self.limits.clip(self._other, self.executed)

    def _rollout(self) -> Floats32:
        """Return the actions [H, A] of the control law, each within the limits."""
        actions = np.zeros((self.config.horizon, self._drive.size), np.float32)
        if self._goal is None:
            return self.limits.clip(actions, self.executed)
        before, goal = self.executed, np.array([self._goal.x_m, self._goal.y_m, self._goal.yaw_rad])
        for step in range(len(actions)):
            action = self._drive.action(*self._velocities(goal, self._goal))
            before = actions[step] = self.limits.clip(action[None], before)[0]
            goal = relative(self._drive.motion(before, self._step_s), goal)
        return actions

    def _others(self) -> Floats32:
        """Return the constant motions that are executed while the plan is rejected [3, H, A]."""
        turn = self.config.max_turn_radps
        actions = [
            self._drive.action(0.0, turn),
            self._drive.action(0.0, -turn),
            self._drive.action(-self.config.back_up_mps, 0.0),
        ]
        return np.repeat(np.stack(actions)[:, None], self.config.horizon, axis=1)

    def _velocities(self, goal: Pose, read: RelativePose) -> tuple[float, float]:
        """Return forward speed [m/s] and turning rate [rad/s] towards ``goal``.

        Args:
            goal: Pose of the goal in the frame of the robot [3].
            read: The pose that was read, which states how certain it is.
        """
        config = self.config
        if self._is_lost(read):
            return 0.0, self._side * config.look_around_radps
        certainty = self._certainty(read)
        x, y, yaw = goal.tolist()
        if read.yaw_std_rad >= config.lost_yaw_std_rad:
            yaw = 0.0
        distance, bearing = math.hypot(x, y), math.atan2(y, x)
        if distance < config.arrival_m:
            speed = min(max(config.speed_gain_per_s * x, -config.min_speed_mps), config.min_speed_mps)
            return speed * certainty, self._turn(yaw, certainty)
        backs_up = self.limits.low[self._drive.forward] < 0 and distance < config.back_up_within_m
        if backs_up and abs(bearing) > config.back_up_beyond_rad:
            return -config.back_up_mps * certainty, self._turn(wrap(bearing + math.pi), certainty)
        aim = bearing
        if distance > config.approach_beyond_m and abs(yaw) < _MAX_ARRIVAL_TURN_RAD:
            before_m = config.approach * distance
            aim = math.atan2(y - before_m * math.sin(yaw), x - before_m * math.cos(yaw))
        if abs(aim) > _BEHIND_RAD:
            aim = math.copysign(aim, self._side)
        turn = self._turn(aim, certainty)
        if abs(aim) > config.turn_in_place_rad:
            return 0.0, turn
        speed = min(config.max_speed_mps, config.min_speed_mps + config.speed_gain_per_s * distance)
        return min(certainty * speed * math.cos(aim) ** 2, distance / self._step_s), turn

    def _turn(self, angle: float, certainty: float) -> float:
        """Return the turning rate towards an angle, which does not turn further within a step."""
        limit = max(self.config.max_turn_radps * certainty, self.config.look_around_radps)
        rate = angle * min(self.config.turn_gain_per_s, 1 / self._step_s)
        return min(max(rate, -limit), limit)

    def _ratio(self, pose: RelativePose) -> float:
        """Return the standard deviation of the position as a proportion of the distance."""
        return pose.position_std_m / (math.hypot(pose.x_m, pose.y_m) + self.config.arrival_m)

    def _is_lost(self, pose: RelativePose) -> bool:
        return not self._ratio(pose) < self.config.lost_ratio

    def _certainty(self, pose: RelativePose) -> float:
        """Return by how much the robot may use its speed, from 0 (lost) to 1."""
        certain, lost = self.config.certain_ratio, self.config.lost_ratio
        return min(max((lost - self._ratio(pose)) / (lost - certain), 0.0), 1.0)


def _create(config: SteeringConfig, context: SearchContext) -> Steering:
    drive = DifferentialDrive.of(context.action_names)
    return Steering(config, context.limits, drive, step_s=context.step_s, seed=context.seed)


SEARCH = SearchMethod(
    name=SteeringConfig.METHOD,
    summary="it drives to the pose of the goal, for models that read poses and robots with the actions "
    "linear.x and angular.z",
    source="this project",
    config=SteeringConfig,
    create=_create,
    requires=frozenset({"goal_pose"}),
)
