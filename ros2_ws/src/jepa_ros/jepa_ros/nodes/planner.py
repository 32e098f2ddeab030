"""Drives to a goal with the world model's futures: a latched goal image, or a goal of ``~/reach_goal``.

It searches for actions itself, also from those of a policy, or executes those of a policy that the critic
allows; the checks are the same.

Safe by default: the robot is commanded to stop when ``~/stop`` says so, when futures are missing or old, when
images do not show its motion, surprise the model, repeat or come from several cameras, when a command is not
allowed, when the model is swapped, when an error occurs in this node, when there is no goal, when the goal is
reached or has timed out, and when the node shuts down.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from jepa_msgs.msg import (
    ActionCandidates,
    GoalPose,
    ModelInfo,
    PlannerStatus,
    PredictedFutures,
    Surprise,
)
from rclpy.node import Node
from std_msgs.msg import Bool, Header

from jepa_ros.common import qos
from jepa_ros.common.action_commands import create_action_commands, validate_action_units
from jepa_ros.common.conversions import fill, from_time
from jepa_ros.common.odometry import OdometryInput
from jepa_ros.common.parameters import (
    STAMPED_CMD_VEL,
    declare_parameters,
    parameter_values,
    require_relative,
)
from jepa_ros.common.sample_window import SampleWindow, round_ms
from jepa_ros.common.spin import create_steady_timer, run
from jepa_ros.planner.command_publisher import CommandPublisher
from jepa_ros.planner.parameters import PARAMETERS
from jepa_ros.planner.policy_input import PolicyInput
from jepa_ros.planner.proposal_input import ProposalInput
from jepa_ros.planner.reach_action import ReachGoalServer
from jepa_ros.world_model import output_messages
from jepa_runtime.bundle import ACTION_LIMIT, HORIZON, NUM_SAMPLES, STEP_S
from jepa_runtime.control import (
    Controller,
    ControllerConfig,
    ControllerModel,
    Decision,
    PlannerInput,
    PolicyConfig,
    State,
)
from jepa_runtime.errors import JepaRuntimeError, OdometryError
from jepa_runtime.model import RelativePose
from jepa_runtime.planning import ActionLimits, SearchSettings, SteeringConfig, find_search
from jepa_runtime.recording import messages
from jepa_runtime.telemetry import Level, Verdict, with_causes
from jepa_runtime.util import OdometryPose

_WATCHDOG_PERIOD_S = 0.05
_DIAGNOSTICS_PERIOD_S = 1.0
_E2E_SAMPLE = np.dtype([("stamp_ns", np.int64), ("e2e_ms", np.float32)])
_BOUNDS = {
    "step_s": STEP_S,
    "horizon": HORIZON,
    "num_samples": NUM_SAMPLES,
    "goal_threshold": (-sys.float_info.max, sys.float_info.max),
    "action_low": ACTION_LIMIT,
    "action_high": ACTION_LIMIT,
}


class PlannerNode(Node):
    """Plan on the world model's futures and command the robot. See ros2_ws/README.md.

    Attributes:
        controller: Decides what to command.
        command_publisher: Commands of the robot, or None before the first usable model.
        reach_goal: Server of the action ``~/reach_goal``.
    """

    def __init__(self) -> None:
        super().__init__("planner")
        self.finished = threading.Event()
        self.failure = ""
        declare_parameters(self, PARAMETERS, on_change=self._on_parameters)
        self._values = parameter_values(self, PARAMETERS)
        if self._values["camera"]:
            require_relative(self._values["camera"], "camera")
        self.controller = Controller.from_config(controller_config(self._values), clock=time.monotonic)
        # The action server runs on other threads.
        self._lock = threading.RLock()
        self._odometry: OdometryInput | None = None
        self._policy: PolicyInput | None = None
        self._proposals: ProposalInput | None = None
        method = self._values["search_method"]
        requires = frozenset() if method == PolicyConfig.METHOD else find_search(method).requires
        if method == PolicyConfig.METHOD:
            self._policy = PolicyInput(self, self._values, self._lock)
        if "goal_pose" in requires:
            self._odometry = OdometryInput(self, self._values["odometry_timeout_s"])
        if "proposals" in requires:
            self._proposals = ProposalInput(self, self._values, self._lock)
        self.command_publisher: CommandPublisher | None = None
        self._commands_key: tuple[Any, ...] = ()
        # The last published candidates.
        self._requested = ActionCandidates()
        self._counts: Counter[str] = Counter()
        self._e2e = SampleWindow(_E2E_SAMPLE)
        # Time from the last image to the start of its futures.
        self._compensated_ms = 0.0
        self._candidates = self.create_publisher(ActionCandidates, "world_model/candidates", qos.RESULT)
        self._statuses = self.create_publisher(PlannerStatus, "~/status", qos.RESULT)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RESULT)
        self.reach_goal = ReachGoalServer(
            self,
            self.controller,
            lock=self._lock,
            stop_robot=self._stop_robot,
            parameters=self._values,
        )
        self.create_subscription(ModelInfo, "world_model/model_info", self.on_model, qos.LATCHED)
        # With several cameras the result topics contain the camera name.
        prefix = "/".join(filter(None, ("world_model", self._values["camera"])))
        self.create_subscription(PredictedFutures, f"{prefix}/futures", self.on_futures, qos.RESULT)
        self.create_subscription(Surprise, f"{prefix}/surprise", self.on_surprise, qos.RESULT)
        self.create_subscription(GoalPose, "~/goal_pose", self.on_goal_pose, qos.RESULT)
        qos.subscribe_any_qos(self, Bool, "~/stop", self.on_stop)
        create_steady_timer(self, _WATCHDOG_PERIOD_S, self.watch)
        create_steady_timer(self, _DIAGNOSTICS_PERIOD_S, self.publish_diagnostics)

    def _on_parameters(self, changed: Mapping[str, Any]) -> None:
        with self._lock:
            self.controller.timeout_s = changed.get("futures_timeout_s", self.controller.timeout_s)
        if self._odometry is not None and "odometry_timeout_s" in changed:
            self._odometry.set_timeout(changed["odometry_timeout_s"])

    def on_model(self, info: ModelInfo) -> None:
        """Use a new model; the robot stops until there is a plan by it."""
        with self._lock:
            self._stop_robot()
            if self._policy is not None:
                self._policy.remove_model()
            try:
                _validate(info)
                model = self._create_model(info)
            except (ValueError, JepaRuntimeError) as error:
                self.get_logger().error(f"cannot drive with {info.model_id}: {error}")
                self.controller.set_model(None, f"cannot drive with {info.model_id}: {error}")
                return
            self.controller.set_model(model)
        self.get_logger().info(
            f"planning with {info.model_id} {info.version}: {info.num_samples} x {info.horizon} steps"
        )

    def _create_model(self, info: ModelInfo) -> ControllerModel:
        if self._policy is None:
            self._create_command_publisher(info)
            if self._proposals is not None:
                self._proposals.set_model(info)
            return create_controller_model(info, self._values)
        if self._policy.commands:
            self._create_command_publisher(info)
        return self._policy.create_model(info, _limits(info))

    def _create_command_publisher(self, info: ModelInfo) -> None:
        """Replace the command publisher if the action names or the step have changed."""
        key = (*info.action_names, info.step_s)
        if self.command_publisher is not None and key == self._commands_key:
            return
        commands = create_action_commands(info.action_names, stamped=self._values[STAMPED_CMD_VEL.name])
        if self.command_publisher is not None:
            self.command_publisher.close()
            for publisher in self.command_publisher.publishers:
                self.destroy_publisher(publisher)
        self._commands_key = key
        self.command_publisher = CommandPublisher(
            self,
            commands,
            size=len(info.action_names),
            step_s=info.step_s,
            frame_id=self._values["action_frame"],
        )

    def on_surprise(self, message: Surprise) -> None:
        """Check whether the image shows the commanded motion."""
        with self._lock:
            self.controller.add_surprise(
                message.surprising,
                executed=np.asarray(message.executed, np.float32),
                response=message.response,
                discontinuous=message.discontinuous,
            )

    def on_goal_pose(self, message: GoalPose) -> None:
        """Use the pose of a goal that its client knows."""
        pose = RelativePose(message.x, message.y, message.yaw, message.position_std, message.yaw_std)
        with self._lock:
            self.controller.set_goal_pose(
                pose, goal_ns=from_time(message.goal_stamp), stamp_ns=from_time(message.header.stamp)
            )

    def on_stop(self, message: Bool) -> None:
        """Stop the robot, or allow it to drive again."""
        with self._lock:
            self.controller.set_stop(message.data, now_ns=int(self.get_clock().now().nanoseconds))
        self.watch()

    def on_futures(self, message: PredictedFutures) -> None:
        """Plan on the futures of an image and command the robot."""
        stamp_ns = from_time(message.header.stamp)
        e2e_ms = (int(self.get_clock().now().nanoseconds) - stamp_ns) / 1e6
        self._compensated_ms = (from_time(message.start) - stamp_ns) / 1e6
        self._e2e.add((stamp_ns, e2e_ms))
        self._counts["futures"] += 1
        with self._lock:
            command = self._drive(message, e2e_ms)
            status = PlannerStatus(
                header=message.header,
                goal_stamp=message.goal_stamp,
                state=int(self.controller.state),
                energy=message.current_energy,
                e2e_ms=e2e_ms,
                compensated_ms=self._compensated_ms,
                command=command,
            )
        self._statuses.publish(status)
        if self._policy is not None:
            self._policy.publish_verdicts(message.header.frame_id)
        self.reach_goal.publish_feedback()

    def _drive(self, message: PredictedFutures, e2e_ms: float) -> Twist:
        """Decide and execute the decision. On any error the robot is stopped."""
        controller = self.controller
        self._counts["old_futures"] += e2e_ms > controller.timeout_s * 1e3
        try:
            futures = _read_futures(message, self._requested, self._values["search_method"])
            futures = replace(
                futures,
                odometry=self._locate(futures.stamp_ns),
                proposals=self._proposals.remaining() if self._proposals and message.has_goal else None,
            )
            return self._execute(controller.update(futures, age_s=e2e_ms / 1e3), message)
        except Exception as error:
            self.get_logger().error(traceback.format_exc(), throttle_duration_sec=5.0)
            self._counts["faults"] += 1
            controller.report_fault(error)
            self._stop_robot()
            return Twist()

    def _locate(self, stamp_ns: int) -> OdometryPose | None:
        """Return the pose of the robot by odometry at the stamp of an image; None: it is unknown."""
        if self._odometry is None:
            return None
        try:
            return self._odometry.at(stamp_ns)
        except OdometryError:
            return None

    def _execute(self, decision: Decision, message: PredictedFutures) -> Twist:
        self._counts[decision.state.name.lower()] += 1
        if decision.candidates is not None:
            candidates = np.ascontiguousarray(decision.candidates, np.float32)
            fields = {
                "actions": messages.tensor("actions", candidates),
                "source": self._values["search_method"],
                "delay_s": self.controller.delay_s,
            }
            self._requested = fill(ActionCandidates(header=message.header), fields)
            self._candidates.publish(self._requested)
        if self.command_publisher is None:
            return Twist()
        if decision.command is None:
            self.command_publisher.stop()
        else:
            self.command_publisher.send(decision.command, from_time(message.header.stamp))
        self.controller.set_command(self.command_publisher.last_command)
        return self.command_publisher.twist(self.command_publisher.last_command)

    def watch(self) -> None:
        """Stop the robot if the data is stale; called periodically."""
        with self._lock:
            self.controller.check_timeouts()
            stopped = not self.controller.may_move and self._stop_robot()
            reason = self.controller.safety_monitor.reason
        if stopped:
            self.get_logger().warning(f"robot stopped: {reason or 'its goal has ended'}")
            self._counts["watchdog_stops"] += 1
            state = State.HELD if reason else State.IDLE
            self._statuses.publish(PlannerStatus(header=Header(), state=int(state), energy=float("nan")))
        if self._policy is not None:
            self._policy.publish_verdicts()
        self.reach_goal.publish_feedback()

    def _stop_robot(self) -> bool:
        """Command the robot to stop; return whether it was commanded to move before."""
        return self.command_publisher is not None and self.command_publisher.stop()

    def publish_diagnostics(self) -> None:
        """Publish the verdict of the controller; called every second."""
        with self._lock:
            verdict = self.controller.verdict()
            if self._odometry is not None and self._odometry.problem:
                verdict = with_causes(verdict, [self._odometry.problem])
            if self._policy is not None:
                verdict = with_causes(verdict, self._policy.warnings())
                self._policy.save()
            if self._proposals is not None:
                is_driving = self.controller.state in (State.SEEKING, State.STUCK)
                verdict = with_causes(verdict, self._proposals.warnings(is_driving=is_driving))
            if self.command_publisher is not None:
                verdict = with_causes(verdict, self.command_publisher.conflicts())
                if self.command_publisher.stop_unacknowledged():
                    verdict = Verdict(
                        Level.ERROR, "a subscriber of the commands has not acknowledged the stop"
                    )
            values = {
                "state": self.controller.state.name.lower(),
                "goal": "reach_goal action" if self.controller.goal is not None else "latched image, if any",
                "iterations": self.controller.iterations,
                "latency_ms": round(1e3 * self.controller.latency_s, 3),
                "compensated_ms": round(self._compensated_ms, 3),
                **{f"stops/{cause}": count for cause, count in self.controller.safety_monitor.counts.items()},
                **self._counts,
                **self._policy_values(),
            }
        self._diagnostics.publish(
            output_messages.diagnostics(
                verdict,
                name=f"{self.get_fully_qualified_name()[1:]}: driving",
                hardware_id="",
                values=values,
                stamp_ns=int(self.get_clock().now().nanoseconds),
            )
        )

    def _policy_values(self) -> dict[str, Any]:
        """Return the values of the policy, if there is one."""
        policy = self._policy or self._proposals
        return {} if policy is None else policy.values()

    def stop(self) -> None:
        """Stop the robot and wait until the command has been delivered."""
        with self._lock:
            if self.command_publisher is not None:
                self.command_publisher.close()
        if self._policy is not None:
            self._policy.close()
        self.reach_goal.close()

    def report(self) -> dict[str, Any]:
        """Return counters since the start and every end-to-end sample [ms]."""
        stops = {f"stops/{cause}": count for cause, count in self.controller.safety_monitor.counts.items()}
        return {
            "counters": {
                **self._counts,
                **stops,
                **self._policy_values(),
                "iterations": self.controller.iterations,
            },
            "samples_ms": {"e2e": round_ms(self._e2e.latest()["e2e_ms"])},
            "stamps_ns": self._e2e.latest()["stamp_ns"].tolist(),
        }


def controller_config(parameters: Mapping[str, Any]) -> ControllerConfig:
    """Return the settings of the controller; parameters have the names of its fields."""
    names = {field.name for field in fields(ControllerConfig)}
    return ControllerConfig(
        seed=parameters["planner_seed"], **{name: parameters[name] for name in names & parameters.keys()}
    )


def create_controller_model(info: ModelInfo, parameters: Mapping[str, Any]) -> ControllerModel:
    """Return the limits and the planner of a model, from its description and the node's parameters."""
    limits, max_change = _limits(info), parameters["max_change"]
    if max_change < 1:
        limits = replace(limits, max_change=max_change * (limits.high - limits.low))
    return ControllerModel.from_config(
        replace(controller_config(parameters), search=_search_config(info, parameters)),
        limits,
        step_s=info.step_s,
        goal_threshold=info.goal_threshold,
        per_step=create_action_commands(info.action_names).per_step,
        action_names=info.action_names,
    )


def _limits(info: ModelInfo) -> ActionLimits:
    return ActionLimits(
        low=np.array(info.action_low, np.float32),
        high=np.array(info.action_high, np.float32),
        max_norm=info.action_max_norm or None,
    )


def _search_config(info: ModelInfo, parameters: Mapping[str, Any]) -> SearchSettings:
    method = find_search(parameters["search_method"])
    if "goal_pose" in method.requires:
        config = SteeringConfig(
            horizon=info.horizon,
            max_speed_mps=parameters["max_speed_mps"],
            max_turn_radps=parameters["max_turn_radps"],
        )
        return config.fitted(horizon=info.horizon, num_samples=info.num_samples)
    settings: SearchSettings = method.config(
        num_samples=info.num_samples,
        horizon=info.horizon,
        topk=min(parameters["topk"], info.num_samples),
    )
    return settings


def _validate(info: ModelInfo) -> None:
    """Validate a model description, which any node may publish.

    Raises:
        ValueError: A value is out of range or inconsistent.
    """
    for name, (low, high) in _BOUNDS.items():
        for value in np.atleast_1d(getattr(info, name)):
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low:g} to {high:g}, got {value:g}")
    names, size = info.action_names, len(info.action_low)
    if not (0 < len(set(names)) == len(names) == size):
        raise ValueError(f"action_names must have one unique name for each of {size} components, got {names}")
    create_action_commands(names)
    validate_action_units(names, info.action_units)


def _read_futures(message: PredictedFutures, requested: ActionCandidates, source: str) -> PlannerInput:
    # Another planner may use the same source name and the same images.
    own = message.candidates_source == source and message.actions.data == requested.actions.data
    return PlannerInput(
        stamp_ns=from_time(message.header.stamp),
        goal_stamp_ns=from_time(message.goal_stamp) if message.has_goal else None,
        goal_requested=message.goal_requested,
        current_energy=message.current_energy,
        energies=messages.array_of(message.energies),
        candidates_stamp_ns=from_time(message.candidates_stamp) if own else 0,
        history_reset=message.history_reset,
        image_publishers=message.image_publishers,
        goal_pose=messages.goal_pose_of(message),
        start_ns=from_time(message.start) or None,
    )


def main() -> None:
    """Entry point of ``ros2 run jepa_ros planner``."""
    sys.exit(run(PlannerNode))
