"""Frames and commands of the robot, for the comparison of a candidate with the active model."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from jepa_ros.common import qos
from jepa_ros.common.action_commands import create_action_commands
from jepa_ros.common.conversions import from_time
from jepa_ros.world_model.image_reader import ImageReader
from jepa_runtime.errors import SourceError
from jepa_runtime.serving import History
from jepa_runtime.sources import Frame, PassiveSource

_MAX_WAITING = 8
_MAX_COMMANDS = 4096


class ExecutedActions:
    """Compute the executed action between two frames, from commands that apply until the next one.

    Args:
        size: Number of action components A.
    """

    def __init__(self, size: int) -> None:
        self._history = History(1, 1, action_size=size, tolerance_ns=0, max_gap_ns=1)
        self._pending: deque[tuple[int, NDArray[np.float32]]] = deque(maxlen=_MAX_COMMANDS)

    def add(self, stamp_ns: int, action: NDArray[np.float32]) -> None:
        """Add ``action`` [A], executed from ``stamp_ns`` on. Called on the executor's thread."""
        self._pending.append((stamp_ns, action))

    def mean(self, start_ns: int, end_ns: int) -> NDArray[np.float32] | None:
        """Return the mean action [A] over that time, or None if unknown. Called on the comparing thread."""
        while self._pending:
            stamp_ns, action = self._pending.popleft()
            if np.isfinite(action).all():
                self._history.add_action(stamp_ns, action)
        return self._history.mean_action(start_ns, end_ns)


class TopicSource(PassiveSource):
    """Read the images of a topic, raw or compressed, and the commands of another one.

    A frame is returned when the next one has arrived, since only then the action executed after it is known.
    When frames arrive faster than they are consumed, the oldest are dropped.

    Args:
        node: Node for the subscriptions. Another thread must spin it.
        images: Topic of the images.
        commands: Topic of the commands. Empty: the default for the action names.
        action_names: Action names of the compared models.
        stamped: See :func:`~jepa_ros.common.action_commands.create_action_commands`.
        timeout_s: Maximum time without an image [s].
        duration_s: Time after which the source ends [s].
        clock: Monotonic clock [s].

    Raises:
        ValueError: The actions are neither velocities nor pose deltas.
    """

    rate_hz: float | None = None
    live = True

    def __init__(
        self,
        node: Node,
        *,
        images: str,
        commands: str,
        action_names: tuple[str, ...],
        stamped: bool,
        timeout_s: float,
        duration_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = images
        self._node, self._clock = node, clock
        self._timeout_s, self._ends_at = timeout_s, clock() + duration_s
        action_commands = create_action_commands(action_names, stamped=stamped)
        self._executed = ExecutedActions(len(action_names))
        self._command: NDArray[np.float32] | None = None
        self._reader = ImageReader()
        self._pending: deque[Image | CompressedImage] = deque(maxlen=_MAX_WAITING)
        self._changed = Condition()
        subscribe = node.create_subscription
        self._subscriptions = [
            subscribe(Image, images, self._on_image, qos.SENSOR),
            subscribe(CompressedImage, f"{images}/compressed", self._on_image, qos.SENSOR),
            *action_commands.subscribe(node, self._on_action, commands),
        ]

    @property
    def command(self) -> NDArray[np.float32] | None:
        """Action executed between the last frame and the one after it."""
        return self._command

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the duration has passed.

        Raises:
            SourceError: No image arrived in time.
        """
        before: Frame | None = None
        while self._clock() < self._ends_at:
            frame = self._next()
            if before is not None:
                self._command = self._executed.mean(before.stamp_ns, frame.stamp_ns)
                yield before
            before = frame

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _next(self) -> Frame:
        deadline = self._clock() + self._timeout_s
        while True:
            message = self._take(deadline)
            image = self._reader.read(message)
            if image is not None:
                return Frame(
                    image, from_time(message.header.stamp), message.header.frame_id, self._reader.accepted - 1
                )

    def _take(self, deadline: float) -> Image | CompressedImage:
        with self._changed:
            if self._changed.wait_for(lambda: self._pending, deadline - self._clock()):
                return self._pending.popleft()
        rejection = f" (last rejected: {self._reader.last_rejection})" if self._reader.last_rejection else ""
        raise SourceError(
            f"{self.name}: no valid image for {self._timeout_s:g} s{rejection}: check the topic name",
            code="source.no_frames",
        )

    def _on_image(self, message: Image | CompressedImage) -> None:
        if not self._reader.needs(message):
            return
        with self._changed:
            self._pending.append(message)
            self._changed.notify_all()

    def _on_action(self, action: NDArray[np.float32]) -> None:
        self._executed.add(int(self._node.get_clock().now().nanoseconds), action)
