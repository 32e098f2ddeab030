"""Duration of each processing stage of an image inside the node, published on ``~/stage_times``."""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from builtin_interfaces.msg import Time
from jepa_msgs.msg import StageTimes
from std_msgs.msg import Header

from jepa_ros.common.conversions import to_time
from jepa_runtime.serving import Result
from jepa_runtime.sources import Frame

_MAX_WAITING = 256


class StageTimer:
    """Time the images of one camera from their callback to their first result.

    Images arrive on the executor's thread. Everything else runs on the inference thread.

    Args:
        publishers: Publishers by message type. StageTimes are published only while there is a subscriber.
    """

    def __init__(self, publishers: Mapping[type, Any]) -> None:
        self._publishers = publishers
        # Stamp, start of the callback, duration of decoding. Bounded, since images may be dropped.
        self._arrivals: deque[tuple[int, int, int]] = deque(maxlen=_MAX_WAITING)
        self._reset()

    def _reset(self) -> None:
        self._published_ns = 0
        self._publish_ms: dict[str, float] = {}

    def frame_arrived(self, stamp_ns: int, received_ns: int) -> None:
        """Add a decoded image whose callback began at ``received_ns`` (system clock)."""
        self._arrivals.append((stamp_ns, received_ns, time.time_ns() - received_ns))

    def publish(self, message_type: type, create_message: Callable[[], Any]) -> None:
        """Create and publish a message. The first one of each image is timed."""
        began_ns = time.perf_counter_ns()
        message = create_message()
        created_ns = time.perf_counter_ns()
        self._publishers[message_type].publish(message)
        if not self._published_ns:
            ended_ns, self._published_ns = time.perf_counter_ns(), time.time_ns()
            self._publish_ms = {
                "message": (created_ns - began_ns) / 1e6,
                "publish": (ended_ns - created_ns) / 1e6,
            }

    def finish(self, result: Result) -> None:
        """Publish the stage times up to the first message, after all messages of the image are sent."""
        # If futures were sent first, the surprise was computed after them.
        later = {"total", "surprise"} if result.futures is not None else {"total"}
        stages_ms = {name: value for name, value in result.timings_ms.items() if name not in later}
        self._publish_times(
            result, to_time(self._published_ns), stages_ms | self._publish_ms, result.device_ms
        )
        self._reset()

    def fail(self, frame: Frame, error: Exception) -> None:
        """Publish that ``frame`` has no result."""
        self._publish_times(frame, Time(), {}, {}, str(error) or type(error).__name__)
        self._reset()

    def _publish_times(
        self,
        about: Result | Frame,
        published: Time,
        stages_ms: Mapping[str, float],
        device_ms: Mapping[str, float],
        error: str = "",
    ) -> None:
        received_ns, decode_ns = self._arrival(about.stamp_ns)
        publisher = self._publishers[StageTimes]
        if not (received_ns or error) or not publisher.get_subscription_count():
            return
        stages_ms = {"decode": decode_ns / 1e6, **stages_ms}
        publisher.publish(
            StageTimes(
                header=Header(stamp=to_time(about.stamp_ns), frame_id=about.frame_id),
                received=to_time(received_ns),
                published=published,
                names=list(stages_ms),
                milliseconds=array("f", stages_ms.values()),
                device_names=list(device_ms),
                device_milliseconds=array("f", device_ms.values()),
                error=error,
            )
        )

    def _arrival(self, stamp_ns: int) -> tuple[int, int]:
        """Return when the image arrived and how long decoding took; earlier images were dropped."""
        while self._arrivals:
            stamp, received_ns, decode_ns = self._arrivals.popleft()
            if stamp == stamp_ns:
                return received_ns, decode_ns
        return 0, 0
