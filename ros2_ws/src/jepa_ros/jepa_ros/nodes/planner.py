"""Drives to a goal by the world model's futures: to the latched goal image, or to what ``~/reach_goal`` asks.

Safe by default: the robot is commanded to stand when somebody says so on ``~/stop``, when futures stop
coming or are old, when images do not show its motion, surprise the model, repeat or come from several
cameras, when a command is not allowed, when the model is exchanged, when something fails here, when there is
no goal, when the goal is reached or its time is over and when the node stops.
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
from jepa_msgs.msg import ActionCandidates, ModelInfo, PlannerStatus, PredictedFutures, Surprise
from rclpy.node import Node
from std_msgs.msg import Bool, Header

from jepa_ros.common import qos
from jepa_ros.common.action_commands import actions_of, check_units
from jepa_ros.common.conversions import fill, from_time
from jepa_ros.common.parameters import STAMPED, declare, require_relative, values
from jepa_ros.common.sample_window import SampleWindow, rounded
from jepa_ros.common.spin import every, run
from jepa_ros.planner.command_publisher import CommandPublisher
from jepa_ros.planner.parameters import PARAMETERS
from jepa_ros.planner.reach_action import ReachAction
from jepa_ros.world_model import output_messages
from jepa_runtime.bundle import manifest
from jepa_runtime.control.config import ControllerConfig
from jepa_runtime.control.controller import Controller, ControllerModel
from jepa_runtime.control.receding_horizon import Decision, PlannerInput, State
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEMConfig
from jepa_runtime.recording import messages
from jepa_runtime.telemetry.diagnostics import Level, Verdict, with_causes

_WATCHDOG_PERIOD_S = 0.05
_DIAGNOSTICS_PERIOD_S = 1.0
_RESPONSE = np.dtype([("stamp_ns", np.int64), ("e2e_ms", np.float32)])
_SOURCE = "cem"
_BOUNDS = {
    "step_s": manifest.STEP_S,
    "horizon": manifest.HORIZON,
    "num_samples": manifest.NUM_SAMPLES,
    "goal_threshold": (-sys.float_info.max, sys.float_info.max),
    "action_low": manifest.ACTION_LIMIT,
    "action_high": manifest.ACTION_LIMIT,
}


class PlannerNode(Node):
    """Asks about candidates, learns from their futures, commands the first action. See ros2_ws/README.md."""

    def __init__(self) -> None:
        super().__init__("planner")
        self.finished = threading.Event()
        self.failure = ""
        declare(self, PARAMETERS, changed=self._take_parameters)
        self._values = values(self, PARAMETERS)
        if self._values["camera"]:
            require_relative(self._values["camera"], "camera")
        self._controller = Controller.from_config(_config(self._values), clock=time.monotonic)
        # Goals come and go on threads of their own.
        self._lock = threading.RLock()
        self._commands: CommandPublisher | None = None
        self._told_by: tuple[Any, ...] = ()
        # The candidates whose futures were asked for last.
        self._asked = ActionCandidates()
        self._counts: Counter[str] = Counter()
        # Stamp of the image [ns] and time from there to here [ms].
        self._e2e = SampleWindow(_RESPONSE)
        self._candidates = self.create_publisher(ActionCandidates, "world_model/candidates", qos.RESULT)
        self._statuses = self.create_publisher(PlannerStatus, "~/status", qos.RESULT)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RESULT)
        self._reaching = ReachAction(
            self,
            self._controller,
            lock=self._lock,
            stand=self._stand,
            chosen=self._values,
        )
        self.create_subscription(ModelInfo, "world_model/model_info", self._on_model, qos.LATCHED)
        # Of one of several cameras the topics bear the name.
        of_camera = "/".join(filter(None, ("world_model", self._values["camera"])))
        self.create_subscription(PredictedFutures, f"{of_camera}/futures", self._on_futures, qos.RESULT)
        self.create_subscription(Surprise, f"{of_camera}/surprise", self._on_surprise, qos.RESULT)
        qos.hear_all(self, Bool, "~/stop", self._on_stop)
        every(self, _WATCHDOG_PERIOD_S, self._watch)
        every(self, _DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)

    def _take_parameters(self, changed: Mapping[str, Any]) -> None:
        with self._lock:
            self._controller.timeout_s = changed.get("futures_timeout_s", self._controller.timeout_s)

    def _on_model(self, info: ModelInfo) -> None:
        with self._lock:
            self._stand()
            try:
                _check(info)
                self._take_commands(info)
                driver = self._driver_of(info)
            except ValueError as error:
                self.get_logger().error(f"cannot drive with {info.model_id}: {error}")
                self._controller.set_model(None, f"cannot drive with {info.model_id}: {error}")
                return
            self._controller.set_model(driver)
        self.get_logger().info(
            f"planning with {info.model_id} {info.version}: {info.num_samples} x {info.horizon} steps"
        )

    def _take_commands(self, info: ModelInfo) -> None:
        """The robot is told as before, unless actions with other names are to be told."""
        told_by = (*info.action_names, info.step_s)
        if self._commands is not None and told_by == self._told_by:
            return
        actions = actions_of(info.action_names, stamped=self._values[STAMPED.name])
        if self._commands is not None:
            self._commands.close()
            for publisher in self._commands.publishers:
                self.destroy_publisher(publisher)
        self._told_by = told_by
        self._commands = CommandPublisher(
            self,
            actions,
            size=len(info.action_names),
            step_s=info.step_s,
            frame_id=self._values["action_frame"],
        )

    def _driver_of(self, info: ModelInfo) -> ControllerModel:
        low, high = np.array(info.action_low, np.float32), np.array(info.action_high, np.float32)
        share = self._values["max_change"]
        limits = ActionLimits(
            low=low,
            high=high,
            max_norm=info.action_max_norm or None,
            max_change=share * (high - low) if share < 1 else None,
        )
        search = CEMConfig(
            num_samples=info.num_samples,
            horizon=info.horizon,
            topk=min(self._values["topk"], info.num_samples),
        )
        return ControllerModel.from_config(
            replace(_config(self._values), search=search),
            limits,
            step_s=info.step_s,
            goal_threshold=info.goal_threshold,
            per_step=actions_of(info.action_names).per_step,
        )

    def _on_surprise(self, message: Surprise) -> None:
        with self._lock:
            self._controller.add_surprise(
                message.surprising,
                executed=np.asarray(message.executed, np.float32),
                response=message.response,
                discontinuous=message.discontinuous,
            )

    def _on_stop(self, word: Bool) -> None:
        with self._lock:
            self._controller.set_stop(word.data, now_ns=int(self.get_clock().now().nanoseconds))
        self._watch()

    def _on_futures(self, message: PredictedFutures) -> None:
        stamp_ns = from_time(message.header.stamp)
        e2e_ms = (int(self.get_clock().now().nanoseconds) - stamp_ns) / 1e6
        self._e2e.add((stamp_ns, e2e_ms))
        self._counts["futures"] += 1
        with self._lock:
            command = self._drive(message, e2e_ms)
            status = PlannerStatus(
                header=message.header,
                goal_stamp=message.goal_stamp,
                state=int(self._controller.state),
                energy=message.current_energy,
                e2e_ms=e2e_ms,
                command=command,
            )
        self._statuses.publish(status)
        self._reaching.tell()

    def _drive(self, message: PredictedFutures, e2e_ms: float) -> Twist:
        """Decide and obey; whatever goes wrong on the way, the robot stands."""
        controller = self._controller
        self._counts["old_futures"] += e2e_ms > controller.timeout_s * 1e3
        try:
            return self._obey(controller.update(_read(message, self._asked), age_s=e2e_ms / 1e3), message)
        except Exception as error:
            self.get_logger().error(traceback.format_exc(), throttle_duration_sec=5.0)
            self._counts["faults"] += 1
            controller.report_fault(error)
            self._stand()
            return Twist()

    def _obey(self, decision: Decision, message: PredictedFutures) -> Twist:
        self._counts[decision.state.name.lower()] += 1
        if decision.candidates is not None:
            asked = np.ascontiguousarray(decision.candidates, np.float32)
            fields = {"actions": messages.tensor("actions", asked), "source": _SOURCE}
            self._asked = fill(ActionCandidates(header=message.header), fields)
            self._candidates.publish(self._asked)
        if self._commands is None:
            return Twist()
        if decision.command is None:
            self._commands.stand()
        else:
            self._commands.send(decision.command, from_time(message.header.stamp))
        self._controller.set_command(self._commands.told)
        return self._commands.twist(self._commands.told)

    def _watch(self) -> None:
        with self._lock:
            self._controller.check_timeouts()
            stopped = not self._controller.may_move and self._stand()
            why = self._controller.safety_monitor.reason
        if stopped:
            self.get_logger().warning(f"stopping the robot: {why or 'its goal has ended'}")
            self._counts["watchdog_stops"] += 1
            state = State.HELD if why else State.IDLE
            self._statuses.publish(PlannerStatus(header=Header(), state=int(state), energy=float("nan")))
        self._reaching.tell()

    def _stand(self) -> bool:
        """Tell the robot to stand; whether it was told to move before."""
        return self._commands is not None and self._commands.stand()

    def _publish_diagnostics(self) -> None:
        with self._lock:
            verdict = self._controller.verdict()
            if self._commands is not None:
                verdict = with_causes(verdict, self._commands.conflicts())
                if self._commands.is_unheard():
                    verdict = Verdict(
                        Level.ERROR, "who listens to commands has not heard that the robot is to stand"
                    )
            figures = {
                "state": self._controller.state.name.lower(),
                "goal": "asked for" if self._controller.goal is not None else "as latched, if any",
                "iterations": self._controller.iterations,
                **{
                    f"stops/{cause}": count for cause, count in self._controller.safety_monitor.counts.items()
                },
                **self._counts,
            }
        self._diagnostics.publish(
            output_messages.diagnostics(
                verdict,
                name=f"{self.get_fully_qualified_name()[1:]}: driving",
                hardware_id="",
                values=figures,
                stamp_ns=int(self.get_clock().now().nanoseconds),
            )
        )

    def stop(self) -> None:
        """Leave the robot standing: the last word is zero, and it has arrived before the node goes."""
        with self._lock:
            if self._commands is not None:
                self._commands.close()
        self._reaching.close()

    def report(self) -> dict[str, Any]:
        """Counters since the start and every end-to-end sample [ms]."""
        stops = {f"stops/{cause}": count for cause, count in self._controller.safety_monitor.counts.items()}
        return {
            "counters": {**self._counts, **stops, "iterations": self._controller.iterations},
            "samples_ms": {"e2e": rounded(self._e2e.latest()["e2e_ms"])},
            "stamps_ns": self._e2e.latest()["stamp_ns"].tolist(),
        }


def _config(chosen: Mapping[str, Any]) -> ControllerConfig:
    """Return the settings of the controller; parameters have the names of its fields."""
    names = {field.name for field in fields(ControllerConfig)}
    return ControllerConfig(
        seed=chosen["planner_seed"], **{name: chosen[name] for name in names & chosen.keys()}
    )


def _check(info: ModelInfo) -> None:
    """Whoever publishes may say anything.

    Raises:
        ValueError: no model is so.
    """
    for name, (low, high) in _BOUNDS.items():
        for value in np.atleast_1d(getattr(info, name)):
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low:g} to {high:g}, got {value:g}")
    names, size = info.action_names, len(info.action_low)
    if not (0 < len(set(names)) == len(names) == size):
        raise ValueError(f"action_names must be one for each of {size} components of an action, got {names}")
    actions_of(names)
    check_units(names, info.action_units)


def _read(message: PredictedFutures, asked: ActionCandidates) -> PlannerInput:
    # Another planner asks by the same name, of the same images.
    own = message.candidates_source == _SOURCE and message.actions.data == asked.actions.data
    return PlannerInput(
        stamp_ns=from_time(message.header.stamp),
        goal_stamp_ns=from_time(message.goal_stamp) if message.has_goal else None,
        goal_requested=message.goal_asked,
        current_energy=message.current_energy,
        energies=messages.array_of(message.energies),
        candidates_stamp_ns=from_time(message.candidates_stamp) if own else 0,
        history_reset=message.history_reset,
        image_publishers=message.image_publishers,
    )


def main() -> None:
    """Entry point of ``ros2 run jepa_ros planner``."""
    sys.exit(run(PlannerNode))
