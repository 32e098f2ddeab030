"""The quality of service of every topic, in one place (REP-2003 for the classes used)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# Images: the newest matters, a lost one does not.
SENSOR = qos_profile_sensor_data

# Results and commands: every one should arrive, late ones are worthless.
RESULT = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)

# What is true until replaced: the model, the goal. Who comes late still learns it.
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)

# What happened: who comes late still learns the last of it.
EVENTS = QoSProfile(
    depth=50, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


def hear_all(node: Node, kind: type, topic: str, heard: Callable[[Any], None]) -> None:
    """Subscribe to all that publish on ``topic``, whatever they offer, and to what was latched before. A
    message may be heard several times, and the last one of a publisher is heard last."""
    for profile in (LATCHED, RESULT, SENSOR):
        # Each of the three hears some that another cannot, which would warn of them.
        quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
        node.create_subscription(kind, topic, heard, profile, event_callbacks=quiet)
