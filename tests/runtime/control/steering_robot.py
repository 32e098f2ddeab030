"""A kinematic differential drive whose controller steers by the poses that a model would read.

The world goes on while images travel: an image is answered ``latency_s`` later, and its command takes effect
then. The energies of candidates are those of the true motion.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from jepa_runtime.control.config import ControllerConfig
from jepa_runtime.control.controller import Controller, ControllerModel
from jepa_runtime.control.goal_tracker import GoalConfig, GoalTracker
from jepa_runtime.control.receding_horizon import PlannerInput, State
from jepa_runtime.control.safety_monitor import StopCause
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.differential_drive import DifferentialDrive
from jepa_runtime.planning.steering import SteeringConfig
from jepa_runtime.util.odometry_history import OdometryPose
from jepa_runtime.util.poses import Pose, compose, relative

NAMES = ("linear.x", "angular.z")
LIMITS = ActionLimits(low=np.float32([-0.2, -1.5]), high=np.float32([0.8, 1.5]))
STEP_S, PERIOD_S, THRESHOLD = 0.3, 0.1, 0.2
TICK_S = 0.05
# A stop within this is at the goal.
TOLERANCE_M, TOLERANCE_RAD = 0.3, math.radians(20)
CONFIG = ControllerConfig(search=SteeringConfig(), stuck_after_s=4.0, futures_timeout_s=0.6)
GOAL_NS = 7
_CORRELATION_S = 0.3

Reading = Callable[[RelativePose], "RelativePose | None"]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Errors of readings, half of which last for some images.

    Attributes:
        distance: Standard deviation, as a proportion of the distance.
        angle_rad: Standard deviation of bearing and yaw.
    """

    distance: float = 0.2
    angle_rad: float = math.radians(10)


class SteeredRobot:
    """The robot, its controller, and the time.

    Args:
        start: Pose of the robot [3].
        goal: Pose of the goal [3].
        latency_s: Time from an image to the command that answers it.
        noise: Errors of the readings; None: they are true.
        reading: Changes what is read of an image; None: nothing is read.
        has_odometry: It has odometry, without errors.
        seed: Seed of the errors.
        config: Settings of the controller.

    Attributes:
        pose: True pose of the robot.
        blocked: The robot does not move, whatever its wheels do.
        path: The poses so far.
        commands: The commands so far.
        planner: Its planner.
        states: The states of the planner so far.
        reading: Changes what is read of an image; may be changed.
    """

    def __init__(
        self,
        start: Pose,
        goal: Pose,
        *,
        latency_s: float = 0.0,
        noise: Noise | None = None,
        reading: Reading = lambda pose: pose,
        has_odometry: bool = False,
        seed: int = 0,
        config: ControllerConfig = CONFIG,
    ) -> None:
        self.pose, self.goal = np.array(start, np.float64), np.array(goal, np.float64)
        self.goal_ns = GOAL_NS
        self.blocked = False
        self._has_odometry = has_odometry
        self.reading = reading
        self.path: list[Pose] = []
        self.commands: list[np.ndarray] = []
        self.states: list[State] = []
        self.now_s = 100.0
        self.command = np.zeros(2)
        self._latency_s, self._noise = latency_s, noise
        self._rng = np.random.default_rng(seed)
        self._error = self._rng.standard_normal(3)
        self._drive = DifferentialDrive.of(NAMES)
        self._candidates: np.ndarray | None = None
        self._candidates_ns = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self.controller = Controller.from_config(
            replace(config, futures_timeout_s=config.futures_timeout_s + latency_s, frozen_after_s=0.0),
            clock=lambda: self.now_s,
        )
        model = ControllerModel.from_config(
            config, LIMITS, step_s=STEP_S, goal_threshold=THRESHOLD, action_names=NAMES
        )
        self.planner = model.planner
        self.controller.set_model(model)
        self._at(self.now_s, self._capture)

    def request_goal(self, *, pose_is_given: bool = False) -> GoalTracker:
        """Drive to the present goal as the action ``~/reach_goal`` does."""
        tracker = GoalTracker(
            GoalConfig(
                goal_ns=self.goal_ns,
                threshold=-math.inf if pose_is_given else None,
                timeout_s=None,
                give_up_after=3,
                failure_tolerance_s=5.0,
                pose_is_given=pose_is_given,
            ),
            now_s=self.now_s,
        )
        tracker.is_set = True
        self.controller.start_goal(tracker)
        return tracker

    def give_pose(self, *, age_s: float = 0.0) -> None:
        """State the true pose of the goal in the frame of an image of this age."""
        then = self.path[-1 - round(age_s / TICK_S)] if self.path else self.pose
        pose = RelativePose(*relative(then, self.goal).tolist(), 0.05, 0.05)
        self.controller.set_goal_pose(
            pose, goal_ns=self.goal_ns, stamp_ns=round((self.now_s - TICK_S - age_s) * 1e9)
        )

    def move_goal(self, goal: Pose) -> None:
        """Continue the requested goal to another one beyond it."""
        self.goal, self.goal_ns = np.array(goal, np.float64), self.goal_ns + 1
        assert self.controller.move_goal(self.goal_ns, is_via=False)

    @property
    def state(self) -> State:
        """State of the planner."""
        return self.controller.state

    @property
    def cause(self) -> StopCause | None:
        """Why the robot is held; None: it is not."""
        return self.controller.safety_monitor.cause

    @property
    def is_at_goal(self) -> bool:
        """Whether the robot is truly at the goal."""
        x, y, yaw = relative(self.pose, self.goal)
        return math.hypot(x, y) < TOLERANCE_M and abs(yaw) < TOLERANCE_RAD

    def drive(self, duration_s: float, *, until: State | None = None) -> SteeredRobot:
        """Go on for a time, or until the planner reports this state."""
        end_s = self.now_s + duration_s
        while self.now_s < end_s and (until is None or self.state is not until):
            while self._events and self._events[0][0] <= self.now_s + 1e-9:
                heapq.heappop(self._events)[2]()
            self.controller.check_timeouts()
            if not self.controller.may_move:
                self.command = np.zeros(2)
            if not self.blocked:
                self.pose = compose(self.pose, self._drive.motion(self.command, TICK_S))
            self.path.append(self.pose)
            self.commands.append(self.command)
            self.now_s += TICK_S
        return self

    def energy(self, pose: Pose) -> float:
        """Return the energy of a pose of the robot: the effort of driving to the goal."""
        return effort(relative(pose, self.goal))

    def _at(self, when_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when_s, next(self._numbers), happen))

    def _capture(self) -> None:
        stamp_s, pose, read = self.now_s, self.pose, self._read()
        self._at(stamp_s + PERIOD_S, self._capture)
        self._at(stamp_s + self._latency_s, lambda: self._answer(stamp_s, pose, read))

    def _read(self) -> RelativePose | None:
        x, y, yaw = relative(self.pose, self.goal).tolist()
        if self._noise is None:
            return self.reading(RelativePose(x, y, yaw, 0.02, 0.02))
        keep = math.exp(-PERIOD_S / _CORRELATION_S)
        self._error = keep * self._error + math.sqrt(1 - keep**2) * self._rng.standard_normal(3)
        error = (self._error + self._rng.standard_normal(3)) / math.sqrt(2)
        distance = math.hypot(x, y) * max(1 + self._noise.distance * error[0], 0.0)
        bearing = math.atan2(y, x) + self._noise.angle_rad * error[1]
        spread = math.hypot(x, y) * math.hypot(self._noise.distance, self._noise.angle_rad) / math.sqrt(2)
        read = RelativePose(
            distance * math.cos(bearing),
            distance * math.sin(bearing),
            yaw + self._noise.angle_rad * error[2],
            max(spread, 0.01),
            self._noise.angle_rad,
        )
        return self.reading(read)

    def _answer(self, stamp_s: float, pose: Pose, read: RelativePose | None) -> None:
        stamp_ns = round(stamp_s * 1e9)
        candidates = np.zeros((4, 8, 2)) if self._candidates is None else self._candidates
        futures = PlannerInput(
            stamp_ns=stamp_ns,
            goal_stamp_ns=self.goal_ns,
            current_energy=self.energy(pose)
            if read is None
            else effort(np.array([read.x_m, read.y_m, read.yaw_rad])),
            energies=self._energies(pose, candidates),
            candidates_stamp_ns=self._candidates_ns,
            goal_pose=read,
            odometry=OdometryPose.of(pose) if self._has_odometry else None,
        )
        decision = self.controller.update(futures, age_s=self.now_s - stamp_s)
        if decision.candidates is not None:
            self._candidates, self._candidates_ns = np.asarray(decision.candidates), stamp_ns
        self.command = np.zeros(2) if decision.command is None else np.asarray(decision.command, np.float64)
        self.controller.set_command(self.command)
        self.states.append(decision.state)

    def _energies(self, pose: Pose, candidates: np.ndarray) -> np.ndarray:
        energies = np.zeros(candidates.shape[:2], np.float32)
        for row, actions in enumerate(candidates):
            reached = pose
            for step, action in enumerate(actions):
                reached = compose(reached, self._drive.motion(action, STEP_S))
                energies[row, step] = self.energy(reached)
        return energies


def effort(goal: Pose) -> float:
    """Return the effort of driving to a goal in the frame of the robot, in meters of way."""
    x, y, yaw = goal.tolist()
    distance = math.hypot(x, y)
    if not math.isfinite(distance + yaw):
        return 5.0
    return distance + 0.6 * abs(yaw) + 0.3 * min(distance, 1.0) * abs(math.atan2(y, x))
