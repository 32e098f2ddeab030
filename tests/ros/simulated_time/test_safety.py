"""Safety properties of the planner under arbitrary sequences of events.

The real node, from messages to commands, with simulated clocks.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.msg import (
    ActionCandidates,
    CriticVerdict,
    ModelInfo,
    PlannerStatus,
    PredictedFutures,
    Surprise,
)
from jepa_ros.common import parameters
from jepa_ros.common.conversions import fill, to_time
from jepa_ros.nodes import planner
from jepa_ros.planner import command_publisher, policy_input, reach_action
from jepa_ros.profiler.processes import choose_domain
from rclpy.parameter import Parameter
from std_msgs.msg import Bool

from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.recording import messages
from tests.ros.simulated_time.hazards import HORIZON, MODELS, NO_MODELS, SAMPLES, Handle, Wire, model
from tests.ros.test_command_publisher import Publisher

# Longer than a minute on a busy machine.
pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]

PERIOD_S, FRAME_S = 0.05, 0.033
MAX_CHANGE, FROZEN_AFTER_S, GOAL_TIMEOUT_S, STOP_TIMEOUT_S = 0.5, 0.5, 8.0, 1.0
WINDOW_S, RATIO = 0.3, 0.6
# Minimum duration of a stop caused by images, unless the robot is commanded to drive.
HELD_S = 1.0
CHOSEN = {
    "topk": 2, "max_change": MAX_CHANGE, "frozen_after_s": FROZEN_AFTER_S, "futures_timeout_s": 0.5,
    "surprise_window_s": WINDOW_S, "surprise_ratio": RATIO, "recovery_s": 0.3, "stuck_after_s": 0.5,
    "reached_after": 2, "goal_timeout_s": GOAL_TIMEOUT_S, "failure_tolerance_s": 6.0,
}  # fmt: skip
ASKED = 7, 8
# Images that do not show the motion: no motion, backward motion, a model that predicts no change; repeated
# images; images without a surprise.
BLINDNESS = (
    *({"response": response} for response in (0.0, -2.0, math.nan)),
    *({"ring": size} for size in (1, 2, 3, 4, 8, 16)),
    *({"ring": size, "response": response} for size in (1, 4, 8) for response in (0.0, 0.5)),
    {"has_surprise": False},
    {"has_surprise": False, "history_reset": "clock_backwards"},
)
# Faults of images and their futures.
HAZARDS = (
    *BLINDNESS,
    *({"age_s": age_s} for age_s in (0.3, 0.7, -0.3, -0.7)),
    *({"after_s": after_s} for after_s in (0.1, 0.0)),
    *({"answers": answers} for answers in ("none", "another's")),
    *({"shape": shape} for shape in ((SAMPLES - 1, HORIZON), (SAMPLES, 0), (0, 0), (SAMPLES,))),
    *({"bad": bad} for bad in (math.nan, math.inf, -math.inf)),
    {"history_reset": "gap"},
    {"publishers": 2},
    {"discontinuous": True},
    {"surprising": True},
    {"surprising": True, "response": 0.0},
)


class Safety(RuleBasedStateMachine):
    """Generate events in any order, and track independently of the planner why the robot must stop."""

    stop_timeout_s = 0.0
    chosen = CHOSEN

    def __init__(self) -> None:
        super().__init__()
        self.now_s, self.ticked_s, self.ros_ahead_s, self.camera_ahead_s = 100.0, 100.0, 0.0, 0.0
        fake = SimpleNamespace(monotonic=lambda: self.now_s, sleep=self._sleep)
        self._patches = pytest.MonkeyPatch()
        for module in (planner, reach_action, command_publisher, policy_input):
            self._patches.setattr(module, "time", fake)
        chosen = self.chosen | {"stop_timeout_s": self.stop_timeout_s}
        self._patches.setattr(
            planner, "parameter_values", lambda *given: parameters.parameter_values(*given) | chosen
        )
        self.candidates = Publisher()
        fakes = {kind: Publisher() for kind in (PlannerStatus, DiagnosticArray, CriticVerdict)}
        fakes[ActionCandidates] = self.candidates
        create_publisher = planner.PlannerNode.create_publisher

        def create(node: Any, kind: type, *given: Any, **options: Any) -> Any:
            return fakes.get(kind) or create_publisher(node, kind, *given, **options)

        with pytest.MonkeyPatch.context() as while_created:
            while_created.setattr(planner.PlannerNode, "create_publisher", create)
            while_created.setattr(planner.PlannerNode, "get_logger", Mock())
            self.node = planner.PlannerNode()
        self.wires: list[Wire] = []
        for name, replacement in {
            "create_publisher": lambda *_: self.wires.append(Wire(self)) or self.wires[-1],
            "destroy_publisher": lambda _: None,
            "get_clock": lambda: Mock(now=lambda: Mock(nanoseconds=self.ros_ns(), to_msg=Time)),
            "get_logger": Mock(),
        }.items():
            self._patches.setattr(self.node, name, replacement)
        self.ended, self.deaf = False, 0
        self.violations: list[str] = []
        # Latest model_info, and the latest usable model.
        self.announced = self.info = model()
        self.limits, self.usable = None, False
        self.timeout_s, self.energy = 0.5, 10.0
        # Newest image: its stamp, the previous stamp, its goal, arrival time, age, and whether its stamp was
        # ahead.
        self.image_ns = self.before_ns = 0
        self.goal: tuple[int, bool] | None = None
        self.image_s, self.age_s, self.ahead = -math.inf, math.inf, False
        # Goal of the world model, and whether it was set through the service.
        self.node_goal: tuple[int, bool] | None = None
        self.handle: Handle | None = None
        self.goals_sent = 0
        self.latched_ns, self.latched_s, self.over_ns = None, 0.0, None
        # Stamps of all latched goals, and of those from before the robot was released.
        self.stamps = [1]
        self.past: set[int] = set()
        self.stopped, self.heard_s = False, -math.inf
        # Unconfirmed motion in seconds at full effort, and how often the robot was commanded to drive since
        # then: each time allows one more attempt.
        self.blind_s, self.wanted = 0.0, 0
        # Energies of the last images; times of surprises and whether they were surprising; times of
        # discontinuities; interval in which the robot is held for them; number of publishers.
        self.energies: list[float] = []
        self.surprises: list[tuple[float, bool]] = []
        self.breaks: list[float] = []
        self.held_s, self.publishers = (math.inf, -math.inf), 1

    def teardown(self) -> None:
        if not self.ended:
            self.end()
        assert not self.moving
        self._patches.undo()
        self.node.destroy_node()

    # --- state

    def ros_ns(self) -> int:
        return round((self.now_s + self.ros_ahead_s) * 1e9)

    @property
    def moving(self) -> bool:
        return any(wire.action.any() for wire in self.wires)

    @property
    def silent(self) -> bool:
        return bool(self.stop_timeout_s) and self.now_s - self.heard_s > self.stop_timeout_s + PERIOD_S + 1e-6

    @property
    def reach_is_open(self) -> bool:
        return self.handle is not None and self.handle.reach.result is None

    def stop_reason(self) -> str:
        """Return all reasons to stop, from messages and clocks, or an empty string."""
        due_s = PERIOD_S + 1e-6
        may_drive = None
        if self.goal is not None and self.goal[1]:
            may_drive = self.reach_is_open and self.handle.goal_ns == self.goal[0]
            may_drive = may_drive and self.now_s <= self.handle.ends_s + due_s
        elif self.goal is not None:
            may_drive = self.goal[0] not in (self.over_ns, *self.past)
            may_drive = may_drive and self.now_s - self.latched_s <= GOAL_TIMEOUT_S + due_s
            may_drive = may_drive and (not self.reach_is_open or self.handle.goal_ns == self.goal[0])
        reasons = {
            "no goal": not may_drive,
            "ended": self.ended,
            "stopped": self.stopped or self.silent,
            "no model": not self.usable,
            "old": self.now_s - self.image_s + max(self.age_s, 0.0) > self.timeout_s + due_s,
            "ahead": self.ahead,
            "blind": self.blind_s > self.blind_limit_s,
            "surprised, or no sequence": self.held_s[0] < self.now_s < self.held_s[1],
            "two cameras": self.publishers > 1,
        }
        return ", ".join(reason for reason, holds in reasons.items() if holds)

    @property
    def blind_limit_s(self) -> float:
        """Maximum motion without confirmation by images, over any number of attempts."""
        step_s = self.info.step_s
        allowance_s = max(1.5 * step_s, FROZEN_AFTER_S / 4) + PERIOD_S
        return max(FROZEN_AFTER_S, 4 * step_s) + PERIOD_S + (2 + self.wanted) * allowance_s + 1e-6

    def effort(self) -> float:
        """Return the effort of the current command, 0 to 1."""
        efforts = [0.0]
        for wire in self.wires:
            if wire.action.any() and self.limits is not None:
                most = np.maximum(np.abs(self.limits.low), np.abs(self.limits.high))
                efforts += [abs(a) / m for a, m in zip(wire.action, most, strict=True) if m]
                if self.limits.max_norm:
                    efforts.append(float(np.linalg.norm(wire.action)) / self.limits.max_norm)
        return max(efforts)

    def record_drive(self) -> None:
        """Record that the robot was commanded to drive."""
        self.wanted, self.held_s = self.wanted + 1, (math.inf, -math.inf)

    def record_hold(self) -> None:
        """Record a stop caused by images."""
        if self.now_s > self.held_s[1]:
            self.held_s = (self.now_s + PERIOD_S + 1e-6, self.now_s + HELD_S)
        else:
            # A cause that continues is one stop: it ends soon after the cause.
            self.held_s = (self.held_s[0], max(self.held_s[1], self.now_s + PERIOD_S))

    @invariant()
    def stop_is_sent_within_a_period(self) -> None:
        assert not any(self.violations)
        assert not self.moving or self.stop_reason() == ""

    # --- events

    def call(self, act: Any, *arguments: Any) -> None:
        """Run a callback of the node; an exception ends the node."""
        try:
            act(*arguments)
        except RuntimeError:
            self.end()

    def advance(self, seconds: float) -> None:
        ends_s = self.now_s + seconds
        while self.ticked_s + PERIOD_S <= ends_s and not self.ended:
            self.ticked_s += PERIOD_S
            self.pass_until(max(self.now_s, self.ticked_s))
            self.call(self.node.watch)
            self.stop_is_sent_within_a_period()
        self.pass_until(ends_s)

    def pass_until(self, now_s: float) -> None:
        self.blind_s += self.effort() * (now_s - self.now_s)
        self.now_s = now_s

    def _sleep(self, seconds: float) -> None:
        self.pass_until(self.now_s + seconds)

    @initialize(info=st.sampled_from(MODELS), requested=st.booleans())
    def drive(self, info: ModelInfo, requested: bool) -> None:
        self.start_driving(info, requested)
        assert self.moving

    @precondition(lambda self: not self.ended)
    @rule(info=st.sampled_from(MODELS), requested=st.booleans())
    def start_driving(self, info: ModelInfo, requested: bool) -> None:
        self.deaf = 0
        self.send_stop_signal(stop=False)
        self.announce_model(info)
        if requested:
            self.request_goal(ASKED[0], 0.0)
            self.accept_goal()
        else:
            self.latch_goal("another")
        self.receive_images(8)

    @precondition(lambda self: not self.ended)
    @rule(count=st.integers(1, 12))
    def receive_images(self, count: int) -> None:
        self.receive_odd_images(count, {})

    @precondition(lambda self: not self.ended)
    @rule(count=st.sampled_from([1, 4, 12, 40]), hazard=st.sampled_from(HAZARDS))
    def receive_odd_images(self, count: int, hazard: dict[str, Any]) -> None:
        for _ in range(count):
            self.advance(hazard.get("after_s", FRAME_S))
            if not self.ended:
                self.image(**hazard)
                self.stop_is_sent_within_a_period()

    @precondition(lambda self: not self.ended)
    @rule(requested=st.booleans(), blindness=st.sampled_from(BLINDNESS))
    def fail_camera(self, requested: bool, blindness: dict[str, Any]) -> None:
        """Fail for longer than all attempts take, while the goal seems to come nearer."""
        self.energy = 100.0
        self.start_driving(MODELS[0], requested)
        self.receive_odd_images(100, blindness | {"after_s": 2 * FRAME_S, "nearer": 0.97})
        self.energy = 10.0

    def image(
        self,
        *,
        after_s: float = FRAME_S,
        age_s: float = 0.01,
        answers: str = "ours",
        shape: tuple[int, ...] = (SAMPLES, HORIZON),
        bad: float = 0.0,
        ring: int = 0,
        response: float = 1.0,
        has_surprise: bool = True,
        history_reset: str = "",
        publishers: int = 1,
        discontinuous: bool = False,
        surprising: bool = False,
        nearer: float = 1.0,
    ) -> None:
        self.energy = nearer * self.energy - 1e-3
        energy = self.energies[-ring] if ring and len(self.energies) >= ring else self.energy
        is_repeated = energy in self.energies[-16:]
        self.energies.append(energy)
        # Actions executed so far.
        executed, effort = self.wires[-1].action if self.wires else np.zeros(0, np.float32), self.effort()
        stamp_ns = max(round((self.now_s + self.camera_ahead_s - age_s) * 1e9), 0)
        message = PredictedFutures(
            current_energy=energy + bad,
            has_goal=self.node_goal is not None,
            history_reset=history_reset,
            image_publishers=publishers,
        )
        message.header.stamp = to_time(stamp_ns)
        if self.node_goal is not None:
            message.goal_stamp, message.goal_requested = to_time(self.node_goal[0]), self.node_goal[1]
        energies = np.ones(shape, np.float32)
        questions = self.candidates.sent
        if answers != "none" and questions:
            request = questions[-1]
            message.candidates_source = request.source if answers == "ours" else "another"
            message.candidates_stamp, message.actions = request.header.stamp, request.actions
            actions = messages.array_of(request.actions)
            if shape == actions.shape[:2]:
                energies = -np.cumsum(actions[..., 0], axis=1)
        self.before_ns, self.image_ns = self.image_ns, stamp_ns
        self.image_s, self.age_s = self.now_s, (self.ros_ns() - stamp_ns) / 1e9
        self.goal, self.ahead = self.node_goal, self.age_s < -self.timeout_s
        if self.publishers > publishers:
            self.record_drive()
        self.publishers = publishers
        if history_reset:
            self.record_fault()
        if self.goal is not None and not self.goal[1]:
            if self.goal[0] != self.latched_ns:
                self.latched_ns, self.latched_s, self.over_ns = self.goal[0], self.now_s, None
                self.record_drive()
            if self.stopped or self.silent:
                self.over_ns = self.latched_ns
        self.call(
            self.node.on_futures,
            fill(message, {"energies": messages.tensor("e", energies + np.float32(bad))}),
        )
        if has_surprise and not self.ended:
            self.add_surprise(surprising, executed, response, discontinuous)
            # Once it was counted, for as long as the robot moved.
            if effort and response > 0 and not is_repeated:
                self.blind_s, self.wanted = 0.0, 0

    def add_surprise(self, surprising: bool, executed: Any, response: float, discontinuous: bool) -> None:
        self.surprises.append((self.now_s, surprising))
        recent = [was for at_s, was in self.surprises if at_s >= self.now_s - WINDOW_S]
        before_s = max(
            (at_s for at_s, _ in self.surprises if at_s < self.now_s - WINDOW_S), default=-math.inf
        )
        if all(recent) and len(recent) > 3 and before_s > self.now_s - 2 * WINDOW_S:
            self.record_hold()
        if discontinuous:
            self.record_fault()
        surprise = Surprise(surprising=surprising, response=response, discontinuous=discontinuous)
        self.call(self.node.on_surprise, fill(surprise, {"executed": np.asarray(executed, np.float32)}))

    def record_fault(self) -> None:
        self.breaks.append(self.now_s)
        if sum(at_s >= self.now_s - WINDOW_S for at_s in self.breaks) >= 4:
            self.record_hold()

    @precondition(lambda self: not self.ended)
    @rule(seconds=st.sampled_from([0.02, 0.3, 0.6, 1.5, 3.0]))
    def pass_time(self, seconds: float) -> None:
        self.advance(seconds)

    @rule(
        seconds=st.sampled_from([-3600.0, -0.3, 0.3, 3600.0]),
        whose=st.sampled_from(["ros", "camera", "both"]),
    )
    def set_clock(self, seconds: float, whose: str) -> None:
        self.ros_ahead_s += seconds * (whose != "camera")
        self.camera_ahead_s += seconds * (whose != "ros")
        # Stamps no longer order events.
        self.past.clear()

    @rule(which=st.sampled_from(["none", "the last", "another"]))
    def latch_goal(self, which: str) -> None:
        if which == "another":
            self.advance(0.001)
            self.stamps.append(max(self.ros_ns(), 1) + (self.ros_ns() == self.stamps[-1]))
        self.node_goal = None if which == "none" else (self.stamps[-1], False)

    @rule(stamp=st.sampled_from(ASKED))
    def set_foreign_goal(self, stamp: int) -> None:
        self.node_goal = (stamp + 100, True)

    @precondition(lambda self: not self.ended)
    @rule(stamp=st.sampled_from([*ASKED, None]), timeout_s=st.sampled_from([0.0, 0.0, 1.0]))
    def request_goal(self, stamp: int | None, timeout_s: float) -> None:
        self.goals_sent += 1
        handle = Handle(self.goals_sent, stamp or self.stamps[-1], timeout_s, self.now_s)
        handle.reach = self.node.reach_goal.tracker_of(handle)
        self.handle = None if self.stopped or self.silent else handle
        self.record_drive()
        self.run_callback(self.node.reach_goal.on_accepted, handle)

    @precondition(lambda self: not self.ended and self.node.controller.goal is not None)
    @rule()
    def accept_goal(self) -> None:
        reach = self.node.controller.goal
        reach.is_set = True
        self.node_goal = (reach.config.goal_ns, True)

    @precondition(lambda self: not self.ended and self.handle is not None)
    @rule()
    def cancel_goal(self) -> None:
        handle, self.handle = self.handle, None
        self.run_callback(self.node.reach_goal.on_cancel, handle)

    def run_callback(self, act: Any, handle: Handle) -> None:
        """Run a callback of the action server, which survives exceptions; the stop follows later."""
        try:
            act(handle)
        except RuntimeError:
            self.advance(PERIOD_S)

    @precondition(lambda self: not self.ended)
    @rule(stop=st.booleans())
    def send_stop_signal(self, stop: bool) -> None:
        if self.stopped or self.silent:
            self.past.update(self.stamps)
            self.record_drive()
        self.stopped, self.heard_s = stop, self.now_s
        if stop:
            self.handle, self.over_ns = None, self.latched_ns
        self.call(self.node.on_stop, Bool(data=stop))

    @precondition(lambda self: not self.ended)
    @rule(info=st.sampled_from([*MODELS, *MODELS, *MODELS, *NO_MODELS]))
    def announce_model(self, info: ModelInfo) -> None:
        self.announced, self.usable = info, any(info is each for each in MODELS)
        if self.usable:
            self.info = info
            low, high = (np.array(side, np.float32) for side in (info.action_low, info.action_high))
            max_change = self.chosen["max_change"]
            self.limits = ActionLimits(
                low=low,
                high=high,
                max_norm=info.action_max_norm or None,
                max_change=max_change * (high - low) if max_change < 1 else None,
            )
        self.call(self.node.on_model, info)
        assert self.ended or not self.moving

    @precondition(lambda self: not self.ended)
    @rule(timeout_s=st.sampled_from([0.1, 0.5, 60.0]))
    def set_timeout(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.node.set_parameters([Parameter("futures_timeout_s", value=timeout_s)])
        self.advance(PERIOD_S)

    @rule(energy=st.sampled_from([0.5, 5.0, 10.0]))
    def move_robot(self, energy: float) -> None:
        self.energy = energy

    @rule(count=st.integers(1, 3))
    def fail_publishing(self, count: int) -> None:
        self.deaf = count

    @rule(count=st.integers(0, 2))
    def set_subscribers(self, count: int) -> None:
        for wire in self.wires:
            wire.listeners = count

    @precondition(lambda self: not self.ended)
    @rule()
    def publish_diagnostics(self) -> None:
        self.node.publish_diagnostics()

    def end(self) -> None:
        self.deaf, self.ended = 0, True
        self.node.stop()


class SafetyBySilence(Safety):
    """Require repeated messages that the robot may drive."""

    stop_timeout_s = STOP_TIMEOUT_S


class SafetyOfPolicy(Safety):
    """Execute a policy that sends random chunks, some of them invalid, with each image."""

    chosen = CHOSEN | {
        "search_method": "policy", "max_change": 1.0, "critic_warmup": 20, "critic_trial_rate": 0.5
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def image(self, **hazard: Any) -> None:
        self.offer()
        super().image(**hazard)

    def offer(self) -> None:
        """Send candidates of which the futures, with those of the slower variant, are the stub's."""
        if self.limits is None:
            return
        count = SAMPLES - ("linear.x" in self.info.action_names)
        low, high = self.limits.low, self.limits.high
        drawn = self.rng.uniform(low, high, (count, 1, len(low))).astype(np.float32)
        actions = np.repeat(self.limits.clip(drawn), 2, axis=1)
        if self.rng.random() < 0.1:
            actions[0, 1] = self.rng.choice([np.nan, np.inf, 1e9])
        self.send_candidates(actions)

    @precondition(lambda self: not self.ended)
    @rule(shape=st.sampled_from([(1, 1, 2), (SAMPLES, HORIZON + 1, 2), (1, 2, 3), (0, 0, 0), (2,)]))
    def send_odd_candidates(self, shape: tuple[int, ...]) -> None:
        self.send_candidates(np.full(shape, 0.3, np.float32))

    def send_candidates(self, actions: Any) -> None:
        message = fill(ActionCandidates(), {"actions": messages.tensor("actions", actions)})
        self.call(self.node._policy.on_candidates, message)


Safety.TestCase.settings = SafetyBySilence.TestCase.settings = settings(
    max_examples=30, stateful_step_count=50
)
SafetyOfPolicy.TestCase.settings = Safety.TestCase.settings
TestSafety, TestSafetyBySilence = Safety.TestCase, SafetyBySilence.TestCase
TestSafetyOfPolicy = SafetyOfPolicy.TestCase


@pytest.fixture(autouse=True, scope="module")
def context():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        rclpy.init(domain_id=int(choose_domain()))
        yield
        rclpy.shutdown()
