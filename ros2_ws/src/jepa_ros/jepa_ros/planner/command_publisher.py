"""Commands of the planner to the robot, including a stop whose delivery is monitored."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from geometry_msgs.msg import Twist
from numpy.typing import NDArray
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Header

from jepa_ros.common.action_commands import ActionCommands
from jepa_ros.common.conversions import to_time
from jepa_ros.common.duplicate_publishers import duplicate_publishers

_FINAL_STOP_TIMEOUT_S = 0.5
# The stop command is repeated for this long, since a best-effort subscriber may lose a message.
_REPEAT_S, _REPEAT_PERIOD_S = 0.5, 0.05
# Long enough for a middleware that requests acknowledgments only every few seconds.
_UNACKNOWLEDGED_AFTER_S = 5.0


class CommandPublisher:
    """Publish the commands of one robot.

    Args:
        node: Node that owns the publishers.
        commands: Conversion of actions to messages.
        size: Number of action components A.
        step_s: Step of the model [s].
        frame_id: frame_id of the commands.

    Attributes:
        publishers: Publishers, for the owner to destroy.
        last_command: Last commanded action [A].
    """

    def __init__(
        self, node: Node, commands: ActionCommands, *, size: int, step_s: float, frame_id: str
    ) -> None:
        self._node, self._commands = node, commands
        self.publishers = commands.create_publishers(node)
        self._zero = np.zeros(size)
        self._step_ns = round(step_s * 1e9) if commands.per_step else 0
        # Jitter of images that are one step apart, as in the world model.
        self._tolerance_ns = self._step_ns // 8
        self._frame_id = frame_id
        self.last_command: NDArray[np.floating] = self._zero
        # Stamp of the image of the last action, and the time at which that action is complete.
        self._sent_ns = self._complete_ns = 0
        # None: unknown, since another node may have commanded the robot before.
        self._moving: bool | None = None
        self._repeat_until_s = -math.inf
        # Time of the stop command, while a subscriber has not acknowledged it.
        self._unacknowledged_since_s: float | None = None
        self._subscribers = 0

    def send(self, action: NDArray[np.floating], stamp_ns: int) -> None:
        """Publish ``action`` [A], planned on the image with this stamp, unless the last is in progress."""
        # If the clock was set back, the recorded times are invalid.
        complete_ns = self._complete_ns if stamp_ns >= self._sent_ns else stamp_ns
        if stamp_ns < complete_ns - self._tolerance_ns:
            return
        # Before publishing: if that fails, a part of the command may have been received.
        self._moving, self._repeat_until_s = True, -math.inf
        self._publish(action, stamp_ns)
        self.last_command, self._unacknowledged_since_s = action, None
        # Jitter of the images must not change the rate of one action per step.
        begins_ns = complete_ns if stamp_ns <= complete_ns + self._tolerance_ns else stamp_ns
        self._sent_ns, self._complete_ns = stamp_ns, begins_ns + self._step_ns

    def conflicts(self) -> list[str]:
        """Return a warning for each other publisher of commands and for each message type conflict."""
        topics = [publisher.topic_name for publisher in self.publishers]
        others = duplicate_publishers(self._node, topics, "another node commands the robot too")
        return self._commands.conflicts(self._node) + others

    def twist(self, action: NDArray[np.floating]) -> Twist:
        """Return ``action`` [A] as a Twist for display."""
        return self._commands.twist(action)

    def stop(self) -> bool:
        """Command the robot to stop, and repeat it for half a second over successive calls.

        The repetition starts again for a new subscriber. It is limited so that it does not override other
        command sources for ever.

        Returns:
            Whether the robot was commanded to move before.
        """
        subscribers = sum(publisher.get_subscription_count() for publisher in self.publishers)
        moved, joined = self._moving, subscribers > self._subscribers
        now_s = time.monotonic()
        begins = moved is not False or joined
        if begins or now_s < self._repeat_until_s:
            self._publish(self._zero, 0)
        if begins:
            self._repeat_until_s = now_s + _REPEAT_S
            self.last_command, self._unacknowledged_since_s = self._zero, now_s
        self._subscribers, self._moving = subscribers, False
        return moved is True

    def stop_unacknowledged(self) -> bool:
        """Return whether a subscriber has not acknowledged the stop for too long.

        The middleware repeats it until then.
        """
        since_s = self._unacknowledged_since_s
        if since_s is not None and self._is_acknowledged(0.0):
            self._unacknowledged_since_s = since_s = None
        return since_s is not None and time.monotonic() - since_s > _UNACKNOWLEDGED_AFTER_S

    def close(self) -> None:
        """Command the robot to stop for the last time.

        Reliable subscribers have received it when this returns. If the robot was moving, the command is
        repeated for half a second.
        """
        repeats = round(_REPEAT_S / _REPEAT_PERIOD_S) if self._moving else 0
        self._publish(self._zero, 0)
        for _ in range(repeats):
            time.sleep(_REPEAT_PERIOD_S)
            self._publish(self._zero, 0)
        self._is_acknowledged(_FINAL_STOP_TIMEOUT_S)

    def _is_acknowledged(self, timeout_s: float) -> bool:
        return all(publisher.wait_for_all_acked(Duration(seconds=timeout_s)) for publisher in self.publishers)

    def _publish(self, action: NDArray[Any], stamp_ns: int) -> None:
        # A base stops if the stamp of a velocity is too old. A pose delta belongs to its image.
        stamp = to_time(stamp_ns) if self._commands.per_step else self._node.get_clock().now().to_msg()
        header = Header(stamp=stamp, frame_id=self._frame_id)
        for publisher, message in zip(self.publishers, self._commands.messages(action, header), strict=True):
            publisher.publish(message)
