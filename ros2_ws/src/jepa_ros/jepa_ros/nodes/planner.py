"""Drives to the goal image by the world model's futures.

Safe by default: the robot is told to stand when the futures stop coming or are old, when there is no goal,
when the goal is reached, and when the node stops.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
from geometry_msgs.msg import Twist
from jepa_msgs.msg import ActionCandidates, ModelInfo, PlannerStatus, PredictedFutures
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Header

from jepa_ros import qos
from jepa_ros.conversions import TwistActions, fill, from_time
from jepa_ros.parameters import REPORT_PATH, Parameter, declare, values
from jepa_ros.samples import Samples, rounded
from jepa_ros.seeking import Decision, Futures, Seeker, State
from jepa_ros.spin import run
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.limits import ActionLimits
from jepa_runtime.recording import messages

PARAMETERS = (
    Parameter(
        name="topk",
        default=8,
        description="Best candidates from which the next distribution is made.",
        low=1,
        high=65536,
        read_only=True,
    ),
    Parameter(
        name="planner_seed",
        default=0,
        description="The candidates drawn follow from it.",
        low=0,
        high=2**31 - 1,
        read_only=True,
    ),
    Parameter(
        name="futures_timeout_s",
        default=0.5,
        description="The robot is stopped when the newest futures, or their image, are older than this [s].",
        low=0.02,
        high=60.0,
    ),
    Parameter(
        name="reached_after",
        default=3,
        description="Images in a row below the model's goal threshold that make a goal reached.",
        low=1,
        high=1000,
        read_only=True,
    ),
    Parameter(
        name="stuck_after_s",
        default=2.0,
        description="Without progress for this long the status says STUCK, and the robot drives any way [s].",
        low=0.1,
        high=3600.0,
        read_only=True,
    ),
    REPORT_PATH,
)

_WATCHDOG_PERIOD_S = 0.05
_RESPONSE = np.dtype([("stamp_ns", np.int64), ("e2e_ms", np.float32)])
_SOURCE = "cem"


class PlannerNode(Node):
    """Asks about candidates, learns from their futures, commands the first action. See ros2_ws/README.md."""

    def __init__(self) -> None:
        super().__init__("planner")
        self.finished = threading.Event()
        self.failure = ""
        declare(self, PARAMETERS)
        self._values = values(self, PARAMETERS)
        self._seeker: Seeker | None = None
        self._actions = TwistActions(())
        self._futures_at = -float("inf")
        self._moving = False
        self._counts: Counter[str] = Counter()
        # Stamp of the image [ns] and time from there to here [ms].
        self._e2e = Samples(_RESPONSE)
        self._candidates = self.create_publisher(ActionCandidates, "world_model/candidates", qos.RESULT)
        self._commands = self.create_publisher(Twist, "cmd_vel", qos.RESULT)
        self._statuses = self.create_publisher(PlannerStatus, "~/status", qos.RESULT)
        self.create_subscription(ModelInfo, "world_model/model_info", self._on_model, qos.LATCHED)
        self.create_subscription(PredictedFutures, "world_model/futures", self._on_futures, qos.RESULT)
        self.create_timer(_WATCHDOG_PERIOD_S, self._watch)

    def _on_model(self, info: ModelInfo) -> None:
        self._stand()
        self._seeker = None
        try:
            self._actions = TwistActions(info.action_names)
            limits = ActionLimits(
                low=np.array(info.action_low, np.float32),
                high=np.array(info.action_high, np.float32),
                max_norm=info.action_max_norm or None,
            )
        except ValueError as error:
            self.get_logger().error(f"cannot drive with {info.model_id}: {error}")
            return
        config = CEMConfig(
            num_samples=info.num_samples,
            horizon=info.horizon,
            topk=min(self._values["topk"], info.num_samples),
        )
        search = CEM(config, limits, seed=self._values["planner_seed"])
        self._seeker = Seeker(
            search,
            step_s=info.step_s,
            goal_threshold=info.goal_threshold,
            reached_after=self._values["reached_after"],
            stuck_after_s=self._values["stuck_after_s"],
        )
        self.get_logger().info(
            f"planning with {info.model_id} {info.version}: {info.num_samples} x {info.horizon} steps"
        )

    def _on_futures(self, message: PredictedFutures) -> None:
        stamp_ns = from_time(message.header.stamp)
        e2e_ms = (int(self.get_clock().now().nanoseconds) - stamp_ns) / 1e6
        self._e2e.add((stamp_ns, e2e_ms))
        self._futures_at = time.monotonic()
        self._counts["futures"] += 1
        if self._seeker is None:
            return
        if e2e_ms > self.get_parameter("futures_timeout_s").value * 1e3:
            self._counts["old_futures"] += 1
            self._stand()
            return
        decision = self._seeker.update(_read(message))
        command = self._obey(decision, message)
        status = PlannerStatus(
            header=message.header,
            goal_stamp=message.goal_stamp,
            state=int(decision.state),
            energy=message.current_energy,
            e2e_ms=e2e_ms,
            command=command,
        )
        self._statuses.publish(status)

    def _obey(self, decision: Decision, message: PredictedFutures) -> Twist:
        self._counts[decision.state.name.lower()] += 1
        if decision.question is not None:
            asked = np.ascontiguousarray(decision.question, np.float32)
            fields = {"actions": messages.tensor("actions", asked), "source": _SOURCE}
            self._candidates.publish(fill(ActionCandidates(header=message.header), fields))
        if decision.command is None:
            self._stand()
            return Twist()
        command = self._actions.to_twist(decision.command)
        self._commands.publish(command)
        self._moving = True
        return command

    def _watch(self) -> None:
        silence_s = time.monotonic() - self._futures_at
        if self._moving and silence_s > self.get_parameter("futures_timeout_s").value:
            self.get_logger().warning(f"no futures for {silence_s:.2f} s: stopping the robot")
            self._counts["watchdog_stops"] += 1
            self._stand()
            self._statuses.publish(PlannerStatus(header=Header(), state=int(State.IDLE), energy=float("nan")))

    def _stand(self) -> None:
        """Tell the robot to stand, once: what else may command it is not to be overruled for ever."""
        if self._moving:
            self._commands.publish(Twist())
            self._moving = False

    def stop(self) -> None:
        """Leave the robot standing: the last word is zero, and it has arrived before the node goes."""
        self._commands.publish(Twist())
        self._commands.wait_for_all_acked(Duration(seconds=0.5))

    def report(self) -> dict[str, Any]:
        """Counters since the start and every end-to-end sample [ms]."""
        iterations = 0 if self._seeker is None else self._seeker.iterations
        return {
            "counters": {**self._counts, "iterations": iterations},
            "samples_ms": {"e2e": rounded(self._e2e.latest()["e2e_ms"])},
            "stamps_ns": self._e2e.latest()["stamp_ns"].tolist(),
        }


def _read(message: PredictedFutures) -> Futures:
    own = message.candidates_source == _SOURCE
    return Futures(
        stamp_ns=from_time(message.header.stamp),
        goal_stamp_ns=from_time(message.goal_stamp) if message.has_goal else None,
        current_energy=message.current_energy,
        energies=messages.array_of(message.energies),
        answer_to_ns=from_time(message.candidates_stamp) if own else 0,
    )


def main() -> None:
    """Entry point of ``ros2 run jepa_ros planner``."""
    sys.exit(run(PlannerNode))
