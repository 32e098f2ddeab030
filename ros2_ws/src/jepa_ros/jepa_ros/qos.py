"""The quality of service of every topic, in one place (REP-2003 for the classes used)."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data

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
