"""The candidates of a policy, from which a search of the planner starts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from jepa_msgs.msg import ActionCandidates, ModelInfo
from numpy.typing import NDArray
from rclpy.node import Node

from jepa_ros.common import qos
from jepa_ros.common.duplicate_publishers import duplicate_publishers
from jepa_runtime.control import PolicyProposals
from jepa_runtime.recording import messages


class ProposalInput:
    """Subscribes to ``~/policy_candidates`` for a search that requires proposals.

    Args:
        node: The planner node.
        parameters: Its parameters.
        lock: Guards the proposals.
    """

    def __init__(self, node: Node, parameters: Mapping[str, Any], lock: threading.RLock) -> None:
        self._node, self._lock = node, lock
        self._timeout_s, self._missing_after_s = parameters["policy_timeout_s"], parameters["stuck_after_s"]
        self._proposals: PolicyProposals | None = None
        self._counts: Counter[str] = Counter()
        self._topic = node.resolve_topic_name("~/policy_candidates")
        node.create_subscription(ActionCandidates, "~/policy_candidates", self.on_candidates, qos.RESULT)

    def set_model(self, info: ModelInfo) -> None:
        """Accept actions of this model from now on; earlier ones are dropped."""
        self._proposals = PolicyProposals(
            action_size=len(info.action_names),
            step_s=info.step_s,
            timeout_s=self._timeout_s,
            clock=time.monotonic,
        )

    def on_candidates(self, message: ActionCandidates) -> None:
        """Store valid candidates; others are counted and logged."""
        with self._lock:
            try:
                if self._proposals is None:
                    raise ValueError("there is no usable model: see the diagnostics of the planner")
                self._proposals.offer(messages.array_of(message.actions))
                self._counts["proposals/received"] += 1
            except ValueError as error:
                self._counts["proposals/rejected"] += 1
                self._node.get_logger().warning(
                    f"candidates of the policy are ignored: {error}", throttle_duration_sec=5.0
                )

    def remaining(self) -> NDArray[np.float32] | None:
        """Return the actions [n, h, A] of the policy from now on; None: there are none."""
        found = None if self._proposals is None else self._proposals.remaining()
        self._counts["proposals/images_without"] += found is None
        return found

    def warnings(self, *, is_driving: bool) -> list[str]:
        """Return what the diagnostics warn about.

        Args:
            is_driving: Whether there is a goal to drive to, for which a policy has to send candidates.
        """
        warnings = duplicate_publishers(self._node, [self._topic], "keep one policy and stop the others")
        proposals = self._proposals
        if is_driving and proposals is not None and proposals.age_s > self._missing_after_s:
            warnings.append(
                f"no valid candidates of the policy arrived for {proposals.age_s:.1f} s: the planner "
                "searches without them"
            )
        return warnings

    def values(self) -> dict[str, Any]:
        """Return values for the diagnostics and the report."""
        return dict(self._counts)
