"""Where the time of an image goes inside the node, for whoever listens to ``~/stage_times``."""

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
from jepa_runtime.serving.pipeline import Result
from jepa_runtime.sources.base import Frame

_MAX_WAITING = 256


class StageClock:
    """Follows the images of one camera from their callback to their first result.

    Images arrive on the executor's thread; the rest is done on the inference thread.

    Args:
        publishers: by type of message; that of StageTimes tells nothing while nobody subscribes to it.
    """

    def __init__(self, publishers: Mapping[type, Any]) -> None:
        self._publishers = publishers
        # Stamp, beginning of the callback, duration of decoding; bounded, for images may be dropped.
        self._arrivals: deque[tuple[int, int, int]] = deque(maxlen=_MAX_WAITING)
        self._begin()

    def _begin(self) -> None:
        self._published_ns = 0
        self._sending_ms: dict[str, float] = {}

    def arrived(self, stamp_ns: int, received_ns: int) -> None:
        """An image is decoded whose callback began at ``received_ns`` (the system's clock)."""
        self._arrivals.append((stamp_ns, received_ns, time.time_ns() - received_ns))

    def send(self, kind: type, make: Callable[[], Any]) -> None:
        """Publish what ``make`` makes, a message of ``kind``; the first one of each image is timed."""
        began_ns = time.perf_counter_ns()
        message = make()
        made_ns = time.perf_counter_ns()
        self._publishers[kind].publish(message)
        if not self._published_ns:
            ended_ns, self._published_ns = time.perf_counter_ns(), time.time_ns()
            self._sending_ms = {"message": (made_ns - began_ns) / 1e6, "publish": (ended_ns - made_ns) / 1e6}

    def finish(self, result: Result) -> None:
        """All messages about an image are sent: tell where its time went until the first one was."""
        # Where futures were sent first, the surprise came after them.
        later = {"total", "surprise"} if result.futures is not None else {"total"}
        stages_ms = {name: value for name, value in result.timings_ms.items() if name not in later}
        self._tell(result, to_time(self._published_ns), stages_ms | self._sending_ms, result.device_ms)
        self._begin()

    def fail(self, frame: Frame, error: Exception) -> None:
        """Say that ``frame`` gives no result."""
        self._tell(frame, Time(), {}, {}, str(error) or type(error).__name__)
        self._begin()

    def _tell(
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
        """When the image arrived and how long it took to decode; those before it were dropped."""
        while self._arrivals:
            stamp, received_ns, decode_ns = self._arrivals.popleft()
            if stamp == stamp_ns:
                return received_ns, decode_ns
        return 0, 0
