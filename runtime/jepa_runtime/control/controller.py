"""The controller: from futures to safe commands.

The planner searches, the safety monitor stops the robot, and a requested goal is followed to its end. The ROS
node and the simulation use this same class. Without ROS; the caller passes the clock. Not thread-safe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.control.config import ControllerConfig
from jepa_runtime.control.given_goal_pose import GivenPoseCheck
from jepa_runtime.control.goal_pose import GoalPoseEstimator
from jepa_runtime.control.goal_tracker import GoalTracker, Outcome
from jepa_runtime.control.latched_goal import LatchedGoal
from jepa_runtime.control.latency_estimate import LatencyEstimate
from jepa_runtime.control.receding_horizon import Decision, PlannerInput, RecedingHorizonPlanner, State
from jepa_runtime.control.safety_monitor import RETRIED, SafetyMonitor, StopCause
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.differential_drive import DifferentialDrive
from jepa_runtime.planning.registry import create_search, find_search
from jepa_runtime.planning.search_method import LatentModel, SearchContext
from jepa_runtime.telemetry.diagnostics import Level, Verdict

# States in which there is no command.
_AT_REST = (State.IDLE, State.REACHED)
BLOCKED_RATIO = 0.4
"""Unconfirmed motion, as a proportion of the stop limit, at which its direction is avoided."""
# The further unconfirmed motion at which the next direction is.
_BLOCKED_AGAIN = 0.2


class CommandPlanner(Protocol):
    """What the controller asks for commands, such as :class:`RecedingHorizonPlanner`."""

    last_command: NDArray[np.floating]
    goal_threshold: float
    iterations: int
    stuck_count: int

    @property
    def horizon_s(self) -> float: ...
    @property
    def executed(self) -> NDArray[np.float32] | None: ...
    @property
    def obstacle(self) -> str: ...
    def avoid(self, action: NDArray[np.floating]) -> None: ...
    def confirm_motion(self) -> None: ...
    def continue_to(self, goal_ns: int) -> None: ...
    def restart(self) -> None: ...
    def update(self, futures: PlannerInput) -> Decision: ...
    def refine(self, futures: PlannerInput) -> Decision: ...


@dataclass(frozen=True, kw_only=True)
class ControllerModel:
    """What the controller needs to know of the active model.

    Attributes:
        planner: Plans with the model.
        limits: Limits of its actions.
        step_s: Duration of a model step.
        goal_threshold: Energy at or below which a goal is reached.
        per_step: An action is a change within one step and is sent once per step.
        goal_pose: Estimates the pose of the goal, to which the planner steers; None: it plans by energies.
    """

    planner: CommandPlanner
    limits: ActionLimits
    step_s: float
    goal_threshold: float
    per_step: bool
    goal_pose: GoalPoseEstimator | None = None

    @classmethod
    def from_config(
        cls,
        config: ControllerConfig,
        limits: ActionLimits,
        *,
        step_s: float,
        goal_threshold: float,
        per_step: bool = False,
        action_names: Sequence[str] = (),
        latent_model: LatentModel | None = None,
    ) -> ControllerModel:
        """Return a model with the planner of ``config``, whose search must fit the model.

        Raises:
            JepaRuntimeError: The search is not registered, needs ``latent_model``, or uses the pose of the
                goal and the actions do not drive such a robot.
        """
        context = SearchContext(
            limits=limits, seed=config.seed, step_s=step_s, action_names=action_names, model=latent_model
        )
        search, goal_pose = create_search(config.search, context), None
        if "goal_pose" in find_search(config.search.METHOD).requires:
            goal_pose = GoalPoseEstimator(DifferentialDrive.of(action_names), seed=config.seed)
        planner = RecedingHorizonPlanner(
            search,
            step_s=step_s,
            goal_threshold=goal_threshold,
            reached_after=config.reached_after,
            stuck_after_s=config.stuck_after_s,
            recovery_s=config.recovery_s,
            recovery_speed=config.recovery_speed,
            reduction=config.reduction,
            discount=config.discount,
        )
        return cls(
            planner=planner,
            limits=limits,
            step_s=step_s,
            goal_threshold=goal_threshold,
            per_step=per_step,
            goal_pose=goal_pose,
        )

    def approach(self, planned: NDArray[np.floating], elapsed_ns: int) -> NDArray[np.floating]:
        """Return the command [A] that approaches ``planned`` within ``max_change``.

        Args:
            planned: Planned action [A].
            elapsed_ns: Time since the previous image.
        """
        proportion = 1.0 if self.per_step else min(max(elapsed_ns / 1e9 / self.step_s, 0.0), 1.0)
        return self.limits.approach(planned, self.planner.last_command, proportion)


class Controller:
    """Decides from the futures of each image whether the robot moves, and how.

    Args:
        safety_monitor: Stops the robot.
        timeout_s: Age of futures, or of their image, at which the robot is stopped, as it is if the stamp of
            an image is further in the future; may be changed.
        goal_timeout_s: Time after which a latched goal expires, reached or not; 0: never.
        stop_timeout_s: Time without a stop message after which the robot is stopped; 0: the last message is
            valid until the next.
        compensate_latency: See :class:`~jepa_runtime.control.config.ControllerConfig`.
        actuation_delay_s: The same.
        clock: Monotonic seconds, the same as that of the safety monitor.

    Attributes:
        goal: The requested goal in progress; None: there is none.
        state: State of the last decision.
    """

    def __init__(
        self,
        safety_monitor: SafetyMonitor,
        *,
        timeout_s: float,
        clock: Callable[[], float],
        compensate_latency: bool = True,
        actuation_delay_s: float = 0.0,
        goal_timeout_s: float = 0.0,
        stop_timeout_s: float = 0.0,
    ) -> None:
        self.safety_monitor = safety_monitor
        self.timeout_s = timeout_s
        self.goal: GoalTracker | None = None
        self.state = State.IDLE
        self._clock = clock
        self._model: ControllerModel | None = None
        # Arrival of the newest futures, and time of their image.
        self._futures_s = self._image_s = clock()
        self._compensates_latency = compensate_latency
        self._actuation_delay_s = actuation_delay_s
        self._latency = LatencyEstimate()
        # Age of the image when the futures arrived, until its command is sent; None: it has no valid age.
        self._pending_age_s: float | None = None
        # Whether the last decision permits motion and its plan is still valid.
        self._is_decision_valid = False
        # Unconfirmed motion at which the present direction is avoided next.
        self._blocked_at = BLOCKED_RATIO
        # Stamp of the previous image, and the time since then.
        self._stamp_ns = self._elapsed_ns = 0
        # Stamp of the goal that ended last, until another one is active: the world model may still have it,
        # or receive it late.
        self._ended_goal_ns: int | None = None
        self._latched_goal = LatchedGoal(timeout_s=goal_timeout_s, clock=clock)
        self._stop_timeout_s = stop_timeout_s
        # Time of the last stop message.
        self._stop_message_s = -math.inf
        # The newest given pose of a goal, the stamp of that goal, and of the image in whose frame it is.
        self._given_pose: tuple[RelativePose, int, int] | None = None
        self._given_pose_check = GivenPoseCheck()

    @classmethod
    def from_config(cls, config: ControllerConfig, *, clock: Callable[[], float]) -> Controller:
        """Return a controller with a safety monitor of its own; it has no model yet."""
        monitor = SafetyMonitor(
            surprise_window_s=config.surprise_window_s,
            surprise_ratio=config.surprise_ratio,
            frozen_after_s=config.frozen_after_s,
            clock=clock,
        )
        return cls(
            monitor,
            timeout_s=config.futures_timeout_s,
            compensate_latency=config.compensate_latency,
            actuation_delay_s=config.actuation_delay_s,
            goal_timeout_s=config.goal_timeout_s,
            stop_timeout_s=config.stop_timeout_s,
            clock=clock,
        )

    @property
    def may_move(self) -> bool:
        """Whether the last command is still valid."""
        return self._is_decision_valid and not self.safety_monitor.holds

    @property
    def latency_s(self) -> float:
        """Time from an image to its command, as measured over the last decisions."""
        return self._latency.value_s

    @property
    def delay_s(self) -> float:
        """Time from an image to its command that candidates state; 0: latency is not compensated."""
        return self.latency_s if self._compensates_latency else 0.0

    @property
    def iterations(self) -> int:
        """Search iterations with the present model."""
        return 0 if self._model is None else self._model.planner.iterations

    def set_model(self, model: ControllerModel | None, reason: str = "") -> None:
        """Use another model and discard the plan.

        Args:
            model: The active model; None: it cannot be used.
            reason: Why it cannot be used.
        """
        self._model = model
        self.safety_monitor.motion.set_command(0.0)
        self._latched_goal.model_changed()
        if model is None:
            self.safety_monitor.hold(StopCause.MODEL, reason)
            return
        self.safety_monitor.release(StopCause.MODEL, *RETRIED)
        self.safety_monitor.step_s = model.step_s
        if self.goal is not None:
            self.goal.reset_energies()
        self._apply_goal_threshold()

    def start_goal(self, goal: GoalTracker) -> None:
        """Drive to a requested goal as soon as the futures belong to it; the previous goal is aborted."""
        self.end_goal(Outcome.ABORTED, "replaced by another goal")
        self.safety_monitor.release(*RETRIED)
        self.safety_monitor.allow_retry()
        self.goal, self._ended_goal_ns = goal, None
        self._latched_goal.goal_requested()
        self._apply_goal_threshold()
        self._restart()
        if StopCause.STOPPED in self.safety_monitor.holds:
            self.end_goal(Outcome.ABORTED, self.safety_monitor.holds[StopCause.STOPPED])

    def move_goal(self, goal_ns: int, *, is_via: bool) -> bool:
        """Continue the requested goal in progress to another one, without a stop.

        The robot drives by its present plan until the futures for the new goal arrive. The safety monitor is
        not affected.

        Args:
            goal_ns: Stamp of the new goal.
            is_via: See :class:`GoalConfig`.

        Returns:
            Whether a goal is in progress.
        """
        if self.goal is None:
            return False
        self.goal.move(goal_ns, is_via=is_via, now_s=self._clock())
        if self._model is not None:
            self._model.planner.continue_to(goal_ns)
            if self._model.goal_pose is not None:
                self._model.goal_pose.continue_to(goal_ns)
        return True

    def set_goal_pose(self, pose: RelativePose, *, goal_ns: int, stamp_ns: int) -> None:
        """Use a pose of the goal with :attr:`GoalConfig.pose_is_given`, until it is older than the timeout.

        If the poses do not follow the motion that is commanded and that the images show, the goal is aborted.

        Args:
            pose: The pose. Values that are not finite count as unknown.
            goal_ns: Stamp of the goal. Poses of other goals are ignored.
            stamp_ns: Stamp of the image in whose frame the pose is.
        """
        goal, estimator = self.goal, None if self._model is None else self._model.goal_pose
        if goal is None or not goal.config.pose_is_given or goal_ns != goal.config.goal_ns:
            return
        self._given_pose = pose, goal_ns, stamp_ns
        if estimator is None:
            return
        time_s = self._image_s - (self._stamp_ns - stamp_ns) / 1e9
        problem = self._given_pose_check.add(
            pose,
            goal_ns,
            time_s=time_s,
            commands=estimator.commands,
            is_blocked=self.safety_monitor.unconfirmed_ratio >= BLOCKED_RATIO,
        )
        if problem:
            self.end_goal(Outcome.ABORTED, problem)

    def end_goal(self, outcome: Outcome, reason: str) -> None:
        """End the requested goal, if there is one, and stop the robot."""
        if self.goal is not None:
            self.goal.finish(outcome, reason)
            self._clear_goal()

    def set_stop(self, stop: bool, *, now_ns: int) -> None:
        """Process a stop message.

        Goals set before the next ``False`` end permanently: it must not make the robot start by itself.

        Args:
            stop: Whether the robot must stand.
            now_ns: The time, by the clock of the goals' stamps.
        """
        self.check_timeouts()
        self._stop_message_s = self._clock()
        if stop:
            self._stop("stop requested")
        elif StopCause.STOPPED in self.safety_monitor.holds:
            self.safety_monitor.release(StopCause.STOPPED)
            self.safety_monitor.allow_retry()
            self._latched_goal.released(now_ns)

    def update(self, futures: PlannerInput, *, age_s: float) -> Decision:
        """Process the futures of a new image and decide.

        Args:
            futures: The futures.
            age_s: Age of their image.
        """
        self._futures_s = self._image_s = self._clock()
        self._elapsed_ns, self._stamp_ns = futures.stamp_ns - self._stamp_ns, futures.stamp_ns
        self.safety_monitor.add_image(
            futures.current_energy,
            history_reset=futures.history_reset,
            publishers=futures.image_publishers,
        )
        self.safety_monitor.release(StopCause.STALE)
        self._pending_age_s = None
        if age_s > self._age_limit_s:
            self.safety_monitor.hold(
                StopCause.OLD,
                f"the image was {age_s:.2f} s old when its futures arrived (limit: {self._age_limit_s:g} s)",
            )
        elif age_s < -self.timeout_s:
            self.safety_monitor.hold(
                StopCause.OLD,
                f"the image's stamp is {-age_s:.2f} s ahead of this clock, so its age is unknown: "
                "synchronize the clocks",
            )
        else:
            self.safety_monitor.release(StopCause.OLD)
            self._pending_age_s = max(age_s, 0.0)
            self._image_s -= self._pending_age_s
        if self._elapsed_ns > self.timeout_s * 1e9:
            # No timeout was noticed in between: the clock was set forward, and the plan is for another time.
            self._restart()
        self.check_timeouts()
        self._avoid_blocked_direction()
        now_ns = futures.stamp_ns + round(age_s * 1e9)
        decision = self._decide(self._without_expired_goal(futures, now_ns))
        if self.goal is not None and self.goal.result is not None:
            self._clear_goal()
            decision = Decision(decision.state, None, None)
        return self._note(decision)

    def refine(self, futures: PlannerInput) -> Decision:
        """Process further futures of the same image, which answer the last candidates, and decide again.

        For callers that evaluate candidates themselves and run several search iterations per image.

        Args:
            futures: The futures of the newest image, passed to :meth:`update` before.
        """
        model = self._model
        if model is None or self.safety_monitor.blocks_planning:
            return self._note(self._hold())
        return self._note(self._check_command(model, model.planner.refine(futures)))

    def add_surprise(
        self,
        surprising: bool,
        *,
        executed: NDArray[np.floating],
        response: float = math.nan,
        discontinuous: bool = False,
    ) -> None:
        """Add the comparison of the newest image with its prediction; see jepa_msgs/Surprise."""
        model = self._model
        is_known = model is not None and executed.shape == model.limits.low.shape
        effort = model.limits.effort(executed) if model is not None and is_known else None
        self.safety_monitor.add_surprise(
            surprising, effort=effort, response=response, discontinuous=discontinuous
        )

    def set_command(self, action: NDArray[np.floating]) -> None:
        """Note that ``action`` [A] was sent to the robot as decided; the plan continues from it."""
        if self._pending_age_s is not None:
            self._latency.add(self._pending_age_s + self._clock() - self._futures_s)
            self._pending_age_s = None
        if self._model is not None:
            self._model.planner.last_command = np.asarray(action, np.float32)
            self._note_sent(self._model, action)
            self.safety_monitor.motion.set_command(self._model.limits.effort(action))
        if self._is_decision_valid:
            self.safety_monitor.decision_executed()

    def check_timeouts(self) -> None:
        """Stop the robot if futures or stop messages are missing, and end goals whose time is over."""
        now_s = self._clock()
        self.safety_monitor.check_motion()
        age_s = now_s - self._image_s
        if age_s > self.timeout_s:
            reason = f"no futures for {now_s - self._futures_s:.2f} s"
            if self._image_s < self._futures_s:
                reason += f", and the last image is {age_s:.2f} s old"
            self.safety_monitor.hold(StopCause.STALE, reason)
            self._restart()
        if self._stop_timeout_s and now_s - self._stop_message_s > self._stop_timeout_s:
            self._stop(f"no stop message for {self._stop_timeout_s:g} s (stop_timeout_s)")
        if self._latched_goal.has_timed_out:
            self._latched_goal.expire()
            if self._latched_goal.is_expired:
                self._restart()
        if self.goal is not None:
            reason = self.safety_monitor.held_longer_than(self.goal.config.failure_tolerance_s)
            self.goal.check_timeouts(self._clock(), reason)
            if self.goal.result is not None:
                self._clear_goal()

    def report_fault(self, error: Exception) -> None:
        """Stop the robot because an error prevented a decision."""
        self.safety_monitor.hold(StopCause.FAULT, f"{type(error).__name__}: {error}")
        self.state = State.HELD
        self._restart()

    def verdict(self) -> Verdict:
        """Return the verdict for the diagnostics."""
        level = Level.WARN if self.state is State.STUCK else Level.OK
        expired = ": the latched goal has expired, waiting for a new one"
        message = self.state.name.lower() + (expired if self._latched_goal.is_expired else "")
        return self.safety_monitor.verdict(Verdict(level, message))

    @property
    def _age_limit_s(self) -> float:
        """Age of an image at which the robot is stopped: no plan may start beyond the model's horizon."""
        if self._model is None or not self._compensates_latency:
            return self.timeout_s
        return min(self.timeout_s, self._model.planner.horizon_s - self._actuation_delay_s)

    def _note(self, decision: Decision) -> Decision:
        self.state = decision.state
        self._is_decision_valid = decision.command is not None or decision.state in _AT_REST
        return decision

    def _decide(self, futures: PlannerInput) -> Decision:
        if futures.goal_stamp_ns not in (None, self._ended_goal_ns):
            self._ended_goal_ns = None
        model, goal = self._model, self.goal
        if model is None or self.safety_monitor.blocks_planning:
            return self._hold()
        is_foreign = futures.goal_requested if goal is None else not goal.matches(futures.goal_stamp_ns)
        if self._ended_goal_ns is not None or is_foreign:
            self._restart()
            return Decision(State.IDLE, None, None)
        if futures.is_unusable:
            self.safety_monitor.hold(StopCause.FAULT, "the energies to the goal are not finite")
            return self._hold()
        if model.goal_pose is not None and futures.goal_stamp_ns is not None:
            futures = replace(
                futures, goal_pose=self._estimate_goal_pose(model.goal_pose, futures, futures.goal_stamp_ns)
            )
            unread_s = self._image_s - model.goal_pose.read_s
            if unread_s > self.timeout_s:
                self.safety_monitor.hold(
                    StopCause.NO_POSE,
                    f"the client of the goal has not published its pose for {unread_s:.2f} s"
                    if goal is not None and goal.config.pose_is_given
                    else f"the model has not read the pose of the goal for {unread_s:.2f} s: steering needs "
                    "a model with a relative pose graph",
                )
                return self._hold()
        decision = self._check_command(model, model.planner.update(futures))
        if decision.state is State.HELD:
            # The command is forbidden; its plan says nothing about the goal.
            return decision
        obstacle = model.planner.obstacle
        if decision.command is None and decision.state is not State.REACHED and obstacle:
            self.safety_monitor.hold(StopCause.UNANSWERED, obstacle)
            decision = replace(decision, state=State.HELD)
        if goal is not None:
            goal.update(
                stamp_ns=futures.stamp_ns,
                step_ns=round(model.step_s * 1e9),
                energy=futures.current_energy,
                stuck_count=model.planner.stuck_count,
                reached=decision.state is State.REACHED and futures.goal_stamp_ns == goal.config.goal_ns,
            )
        return decision

    def _estimate_goal_pose(
        self, estimator: GoalPoseEstimator, futures: PlannerInput, goal_ns: int
    ) -> RelativePose | None:
        """Return the pose of the goal when the command that answers ``futures`` takes effect."""
        reading, read_s, odometry = futures.goal_pose, self._image_s, futures.odometry
        if self.goal is not None and self.goal.config.pose_is_given:
            # Its client has used the odometry already.
            reading = odometry = None
            if self._given_pose is not None and self._given_pose[1] == goal_ns:
                age_s = (futures.stamp_ns - self._given_pose[2]) / 1e9
                if abs(age_s) <= self.timeout_s:
                    reading, read_s = self._given_pose[0], self._image_s - age_s
        effect_s = self._image_s
        if self._compensates_latency:
            effect_s = self._futures_s + self._actuation_delay_s
        return estimator.update(
            reading,
            goal_ns,
            image_s=self._image_s,
            effect_s=effect_s,
            odometry=odometry,
            read_s=read_s,
        )

    def _note_sent(self, model: ControllerModel, action: NDArray[np.floating]) -> None:
        if model.goal_pose is not None:
            model.goal_pose.commands.add(action, self._clock() + self._actuation_delay_s)

    def _check_command(self, model: ControllerModel, decision: Decision) -> Decision:
        """Hold a forbidden command; limit the change of an allowed one."""
        if decision.command is None:
            return decision
        forbidden = model.limits.forbids(decision.command, model.planner.executed)
        if forbidden:
            self.safety_monitor.hold(StopCause.FORBIDDEN, forbidden)
            return self._hold()
        return replace(decision, command=model.approach(decision.command, self._elapsed_ns))

    def _without_expired_goal(self, futures: PlannerInput, now_ns: int) -> PlannerInput:
        """Note the latched goal of ``futures``, and remove it if it has expired."""
        is_pending = self.goal is not None and not self.goal.has_futures
        if self._latched_goal.update(futures, now_ns=now_ns, request_pending=is_pending):
            self.safety_monitor.allow_retry()
        return replace(futures, goal_stamp_ns=None) if self._latched_goal.is_expired else futures

    def _stop(self, reason: str) -> None:
        self.safety_monitor.hold(StopCause.STOPPED, reason)
        self.end_goal(Outcome.ABORTED, reason)
        self._latched_goal.stopped()
        self._restart()

    def _avoid_blocked_direction(self) -> None:
        """Try other directions before motion that the images do not show stops the robot."""
        model, unconfirmed = self._model, self.safety_monitor.unconfirmed_ratio
        if model is None:
            return
        if unconfirmed < BLOCKED_RATIO:
            self._blocked_at = BLOCKED_RATIO
            model.planner.confirm_motion()
        elif unconfirmed >= self._blocked_at and np.any(model.planner.last_command):
            model.planner.avoid(model.planner.last_command)
            self._blocked_at = unconfirmed + _BLOCKED_AGAIN

    def _hold(self) -> Decision:
        self._restart()
        return Decision(State.HELD, None, None)

    def _restart(self) -> None:
        """Discard the plan, since the robot was stopped."""
        self._is_decision_valid = False
        self.safety_monitor.motion.set_command(0.0)
        if self._model is not None:
            planner = self._model.planner
            self._note_sent(self._model, np.zeros_like(self._model.limits.low))
            is_blocked = self.safety_monitor.doubts_motion and self._blocked_at == BLOCKED_RATIO
            if is_blocked and np.any(planner.last_command):
                planner.avoid(planner.last_command)
            planner.restart()

    def _clear_goal(self) -> None:
        goal, self.goal = self.goal, None
        self._ended_goal_ns = None if goal is None else goal.config.goal_ns
        self._apply_goal_threshold()
        self._restart()

    def _apply_goal_threshold(self) -> None:
        if self._model is not None:
            requested = None if self.goal is None else self.goal.config.threshold
            self._model.planner.goal_threshold = (
                self._model.goal_threshold if requested is None else requested
            )
