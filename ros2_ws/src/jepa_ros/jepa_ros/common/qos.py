"""Quality of service profiles of all topics (classes as in REP 2003)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# Images: only the newest matters, and loss is acceptable.
SENSOR = qos_profile_sensor_data

# Results and commands: each one should arrive, and a late one is useless.
RESULT = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)

# State that is valid until replaced, such as the model or the goal. Late subscribers receive it.
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)

# Events: late subscribers receive the most recent ones.
EVENTS = QoSProfile(
    depth=50, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


def subscribe_any_qos(node: Node, message_type: type, topic: str, callback: Callable[[Any], None]) -> None:
    """Subscribe to all publishers on ``topic``, whatever QoS they offer, including latched messages.

    ``callback`` may receive a message several times, and receives the last message of a publisher last.
    """
    for profile in (LATCHED, RESULT, SENSOR):
        # Each of the three is incompatible with some publishers and would log a warning.
        no_warnings = SubscriptionEventCallbacks(use_default_callbacks=False)
        node.create_subscription(message_type, topic, callback, profile, event_callbacks=no_warnings)
