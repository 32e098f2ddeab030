"""What the planner tells the robot. Its last word is to stand, and whether that has arrived is known."""

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

from jepa_ros.common.action_commands import Actions
from jepa_ros.common.conversions import to_time
from jepa_ros.common.duplicate_publishers import rivals

_LAST_WORD_S = 0.5
# A command to stand is repeated for so long: best-effort listeners may lose one.
_REPEAT_S, _REPEAT_PERIOD_S = 0.5, 0.05
# Middleware that asks for acknowledgements every few seconds is to have asked once.
_UNHEARD_AFTER_S = 5.0


class CommandPublisher:
    """The commands of one robot, as one kind of action tells them.

    Args:
        size: A, the components of an action.
        step_s: of the model.
        frame_id: of the frame in which they are.

    Attributes:
        publishers: made on ``node``, for whoever takes them back.
        told: [A], what it was told last.
    """

    def __init__(self, node: Node, actions: Actions, *, size: int, step_s: float, frame_id: str) -> None:
        self._node, self._actions = node, actions
        self.publishers = actions.publishers(node)
        self._rest = np.zeros(size)
        self._step_ns = round(step_s * 1e9) if actions.per_step else 0
        # By which images are off that are a step apart, as for the world model.
        self._tolerance_ns = self._step_ns // 8
        self._frame_id = frame_id
        self.told: NDArray[np.floating] = self._rest
        # Of the last action: the stamp of its image, and when it is done.
        self._sent_ns = self._due_ns = 0
        # None: what it was told by others before is not known.
        self._moving: bool | None = None
        # Until when the command to stand is repeated.
        self._repeat_until_s = -math.inf
        # When it was told to stand, while not all who listen have acknowledged that.
        self._unheard_since_s: float | None = None
        self._listeners = 0

    def send(self, action: NDArray[np.floating], stamp_ns: int) -> None:
        """Tell ``action`` [A], planned on the image of this stamp, unless the last is still to be done."""
        # Where time was set back, moments noted before mean nothing.
        due_ns = self._due_ns if stamp_ns >= self._sent_ns else stamp_ns
        if stamp_ns < due_ns - self._tolerance_ns:
            return
        # Before it is published: where that fails, a part of it may have been heard.
        self._moving, self._repeat_until_s = True, -math.inf
        self._publish(action, stamp_ns)
        self.told, self._unheard_since_s = action, None
        # Images are a little early and a little late, and there is one action for each step all the same.
        begins_ns = due_ns if stamp_ns <= due_ns + self._tolerance_ns else stamp_ns
        self._sent_ns, self._due_ns = stamp_ns, begins_ns + self._step_ns

    def conflicts(self) -> list[str]:
        """That others command the robot too, and see
        :meth:`~jepa_ros.common.action_commands.Actions.conflicts`."""
        topics = [publisher.topic_name for publisher in self.publishers]
        others = rivals(self._node, topics, "who commands the robot beside this planner?")
        return self._actions.conflicts(self._node) + others

    def twist(self, action: NDArray[np.floating]) -> Twist:
        """``action`` [A] for people."""
        return self._actions.twist(action)

    def stand(self) -> bool:
        """Command the robot to stand, and every new listener, for half a second, as often as this is called:
        what else may command it is not to be overruled for ever. Whether it was commanded to move before."""
        listeners = sum(publisher.get_subscription_count() for publisher in self.publishers)
        moved, joined = self._moving, listeners > self._listeners
        now_s = time.monotonic()
        begins = moved is not False or joined
        if begins or now_s < self._repeat_until_s:
            self._publish(self._rest, 0)
        if begins:
            self._repeat_until_s = now_s + _REPEAT_S
            self.told, self._unheard_since_s = self._rest, now_s
        self._listeners, self._moving = listeners, False
        return moved is True

    def is_unheard(self) -> bool:
        """Whether somebody who listens has not acknowledged that for too long; until then the
        middleware repeats it."""
        since_s = self._unheard_since_s
        if since_s is not None and self._is_acknowledged(0.0):
            self._unheard_since_s = since_s = None
        return since_s is not None and time.monotonic() - since_s > _UNHEARD_AFTER_S

    def close(self) -> None:
        """Command the robot to stand, for the last time; whoever acknowledges commands has it when this
        returns. A robot that moved is commanded so for half a second."""
        repeats = round(_REPEAT_S / _REPEAT_PERIOD_S) if self._moving else 0
        self._publish(self._rest, 0)
        for _ in range(repeats):
            time.sleep(_REPEAT_PERIOD_S)
            self._publish(self._rest, 0)
        self._is_acknowledged(_LAST_WORD_S)

    def _is_acknowledged(self, patience_s: float) -> bool:
        return all(
            publisher.wait_for_all_acked(Duration(seconds=patience_s)) for publisher in self.publishers
        )

    def _publish(self, action: NDArray[Any], stamp_ns: int) -> None:
        # Bases stop where a velocity was told too long ago; a change of pose belongs to its image.
        stamp = to_time(stamp_ns) if self._actions.per_step else self._node.get_clock().now().to_msg()
        header = Header(stamp=stamp, frame_id=self._frame_id)
        for publisher, message in zip(self.publishers, self._actions.messages(action, header), strict=True):
            publisher.publish(message)
