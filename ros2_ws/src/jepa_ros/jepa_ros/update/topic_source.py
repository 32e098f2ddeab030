"""The robot's own frames and commands, for the comparison of a candidate with what serves."""

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
from jepa_ros.common.action_commands import actions_of
from jepa_ros.common.conversions import from_time
from jepa_ros.world_model.image_reader import ImageReader
from jepa_runtime.errors import SourceError
from jepa_runtime.serving.history import History
from jepa_runtime.sources.base import Frame, PassiveSource

_MAX_WAITING = 8
_MAX_COMMANDS = 4096


class Executed:
    """What the robot executed between two frames, from commands that are held until the next one comes.

    Args:
        size: A, the components of an action.
    """

    def __init__(self, size: int) -> None:
        self._held = History(1, 1, action_size=size, tolerance_ns=0, max_gap_ns=1)
        self._come: deque[tuple[int, NDArray[np.float32]]] = deque(maxlen=_MAX_COMMANDS)

    def add(self, stamp_ns: int, action: NDArray[np.float32]) -> None:
        """``action`` [A] is executed from ``stamp_ns`` on; called on the executor's thread."""
        self._come.append((stamp_ns, action))

    def between(self, start_ns: int, end_ns: int) -> NDArray[np.float32] | None:
        """The mean action [A] over that time; None: unknown. Called on the thread that compares."""
        while self._come:
            stamp_ns, action = self._come.popleft()
            if np.isfinite(action).all():
                self._held.add_action(stamp_ns, action)
        return self._held.mean_action(start_ns, end_ns)


class TopicSource(PassiveSource):
    """The images of a topic, raw or compressed, as they come, and the commands of another.

    A frame is given when the next one has come: only then is it known what was executed from its stamp on.
    Of frames that come faster than they are taken, the oldest are left out.

    Args:
        node: subscribes; spun by another thread than the one that takes the frames.
        images, commands: the topics; of commands empty: as the names of the actions say.
        action_names: of the models that are compared.
        stamped: see :func:`~jepa_ros.common.action_commands.actions_of`.
        patience_s: without an image for so long it fails.
        duration_s: it ends after so long.

    Raises:
        ValueError: the actions are neither velocities nor pose deltas.
    """

    rate_hz = None
    live = True

    def __init__(
        self,
        node: Node,
        *,
        images: str,
        commands: str,
        action_names: tuple[str, ...],
        stamped: bool,
        patience_s: float,
        duration_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = images
        self._node, self._clock = node, clock
        self._patience_s, self._ends_at = patience_s, clock() + duration_s
        actions = actions_of(action_names, stamped=stamped)
        self._executed = Executed(len(action_names))
        self._command: NDArray[np.float32] | None = None
        self._reader = ImageReader()
        self._come: deque[Image | CompressedImage] = deque(maxlen=_MAX_WAITING)
        self._changed = Condition()
        subscribe = node.create_subscription
        self._subscriptions = [
            subscribe(Image, images, self._on_image, qos.SENSOR),
            subscribe(CompressedImage, f"{images}/compressed", self._on_image, qos.SENSOR),
            *actions.listen(node, self._on_action, commands),
        ]

    @property
    def command(self) -> NDArray[np.float32] | None:
        """What was executed between the last frame and the one after it."""
        return self._command

    def frames(self) -> Iterator[Frame]:
        """The frames, until the source has lasted long enough.

        Raises:
            SourceError: none came for a while.
        """
        before: Frame | None = None
        while self._clock() < self._ends_at:
            frame = self._next()
            if before is not None:
                self._command = self._executed.between(before.stamp_ns, frame.stamp_ns)
                yield before
            before = frame

    def close(self) -> None:
        """Listen no more."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _next(self) -> Frame:
        gives_up_at = self._clock() + self._patience_s
        while True:
            message = self._take(gives_up_at)
            image = self._reader.read(message)
            if image is not None:
                return Frame(
                    image, from_time(message.header.stamp), message.header.frame_id, self._reader.accepted - 1
                )

    def _take(self, gives_up_at: float) -> Image | CompressedImage:
        with self._changed:
            if self._changed.wait_for(lambda: self._come, gives_up_at - self._clock()):
                return self._come.popleft()
        why = f" ({self._reader.last})" if self._reader.last else ""
        raise SourceError(
            f"{self.name}: no usable image came for {self._patience_s:g} s{why}: is the topic right?"
        )

    def _on_image(self, message: Image | CompressedImage) -> None:
        if not self._reader.wants(message):
            return
        with self._changed:
            self._come.append(message)
            self._changed.notify_all()

    def _on_action(self, action: NDArray[np.float32]) -> None:
        self._executed.add(int(self._node.get_clock().now().nanoseconds), action)
