"""Reader of the odometry on one topic of a bag."""

from __future__ import annotations

import math

from jepa_runtime.errors import OdometryError, SourceError
from jepa_runtime.ros_messages.odometry import ODOMETRY, planar_pose
from jepa_runtime.sources.bag_file import BagFile, message_stamp_ns
from jepa_runtime.util.odometry_history import OdometryHistory


def read_odometry(bag: BagFile, topic: str) -> OdometryHistory:
    """Return all odometry on a topic.

    Raises:
        SourceError: The bag has none on this topic, or a message is invalid.
    """
    connections = [entry for entry in bag.connections_on({topic}) if entry.msgtype == ODOMETRY]
    if not connections:
        listed = ", ".join(bag.topics(ODOMETRY)) or "none"
        raise SourceError(
            f"{bag.path}: no odometry on topic {topic}; topics of {ODOMETRY}: {listed}",
            code="source.topic_not_found",
        )
    history = OdometryHistory(memory_s=math.inf)
    for sequence, (connection, log_ns, raw) in enumerate(bag.messages(connections)):
        message = bag.deserialize(connection, raw, sequence)
        try:
            history.add(message_stamp_ns(message, log_ns), planar_pose(message))
        except OdometryError as error:
            raise SourceError(
                f"{bag.path}: message {sequence} on {topic}: {error}", code="source.odometry_invalid"
            ) from error
    return history
