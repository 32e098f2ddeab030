"""Inputs of a planner (models, goals) and the publishers of its commands, for the safety tests."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_msgs.action import ReachGoal
from jepa_msgs.msg import ModelInfo
from jepa_ros.common.action_commands import PoseDeltaCommands
from jepa_ros.common.conversions import TwistActions

from tests.ros.goals import goal_image
from tests.ros.test_command_publisher import Publisher

SAMPLES, HORIZON = 8, 3


def model(**fields: Any) -> ModelInfo:
    return ModelInfo(**{
        "model_id": "stub", "horizon": HORIZON, "num_samples": SAMPLES, "step_s": 0.2, "goal_threshold": 1.0,
        "action_names": ["linear.x", "linear.y"], "action_units": ["m/s", "m/s"], "action_low": [-1.0, -1.0],
        "action_high": [1.0, 1.0], "action_max_norm": 1.0,
    } | fields)  # fmt: skip


MODELS = (
    model(),
    model(step_s=0.1, action_low=[-0.5, -0.25], action_max_norm=0.0),
    model(action_names=["linear.x", "angular.z"], action_units=["m/s", "rad/s"], action_low=[0.25, -1.0]),
    model(
        action_names=["x", "yaw"],
        action_units=["m", "rad"],
        action_low=[-0.05, -0.1],
        action_high=[0.05, 0.1],
    ),
    model(action_low=[0.0, -1.0], action_high=[0.0, 1.0]),
)
NO_MODELS = tuple(
    model(**fields)
    for fields in (
        {"step_s": 0.0}, {"step_s": math.nan}, {"horizon": 0}, {"num_samples": 0},
        {"goal_threshold": math.inf}, {"action_names": []}, {"action_names": ["color", "taste"]},
        {"action_names": ["x", "linear.x"]}, {"action_units": ["m/s", "deg/s"]}, {"action_units": ["m/s"]},
        {"action_names": ["linear.x", "angular.z"], "action_units": ["m/s", "deg/s"]},
        {"action_low": [1.0, 1.0], "action_high": [0.0, 0.0]},
        {"action_high": [math.nan, 1.0]}, {"action_high": [1e30, 1.0]}, {"action_high": [1.0]},
        {"action_max_norm": math.nan}, {"action_max_norm": -1.0},
        {"action_low": [0.9, 0.9], "action_max_norm": 0.5},
    )
)  # fmt: skip


class Wire(Publisher):
    """Check each published command against the state of its ``case``."""

    def __init__(self, case: Any) -> None:
        super().__init__()
        self._case, names = case, case.announced.action_names
        self._per_step = "x" in names
        self._read = PoseDeltaCommands(names).read if self._per_step else TwistActions(names).from_twist
        self.action = np.zeros(len(names), np.float32)
        # Stamp of the image of the last command with motion.
        self.stamp_ns, self.publish = -(10**18), self._take

    def _take(self, message: Any) -> None:
        case, action = self._case, self._read(message)
        if case.deaf:
            case.deaf -= 1
            raise RuntimeError("no room to publish")
        if action.any():
            # The planner would handle an exception raised here as its own fault.
            case.violations += [case.stop_reason(), *self._beyond(action)]
            self.stamp_ns = case.image_ns
        self.action = action

    def _beyond(self, action: Any) -> list[str]:
        """Return the limits that ``action`` exceeds: box or norm, change, one action per step."""
        case, limits, step_s = self._case, self._case.limits, self._case.info.step_s
        passed_s = step_s if self._per_step else (case.image_ns - case.before_ns) / 1e9
        commanded_s = (case.image_ns - self.stamp_ns) / 1e9
        allowed, before = (limits.clip(each[None], None)[0] for each in (action, self.action))
        reach = math.inf
        if limits.max_change is not None:
            reach = limits.max_change * min(max(passed_s / step_s, 0.0), 1.0)
        beyond = {
            "box or norm": not np.allclose(allowed, action, rtol=0, atol=1e-6),
            "change": np.any(np.abs(action - before) > reach + 1e-5),
            # The previous one may be late by an eighth of a step, and this one as early.
            "step": self._per_step and 0 <= commanded_s < step_s * 6 / 8 - 1e-6,
        }
        return [f"{limit}: {action} after {before}" for limit, is_beyond in beyond.items() if is_beyond]


class Handle:
    """Fake the goal handle of the action server."""

    is_active = is_cancel_requested = True

    def __init__(self, number: int, goal_ns: int, timeout_s: float, now_s: float) -> None:
        self.goal_id = SimpleNamespace(uuid=number.to_bytes(16, "little"))
        self.request = ReachGoal.Goal(image=goal_image(goal_ns), timeout_s=timeout_s)
        self.goal_ns = goal_ns
        self.ends_s = now_s + timeout_s if timeout_s else math.inf
        self.execute, self.publish_feedback = Mock(), Mock()
