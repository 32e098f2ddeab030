"""The action ``~/teach_route``: one recording at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jepa_msgs.action import TeachRoute
from rclpy.action import CancelResponse, GoalResponse

from jepa_ros.common import raw_topics
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.routes import Route, RouteRecorder

# The latent of an image arrives after later images.
_IMAGES = 32


class NewestImages:
    """The newest images, serialized, and the newest latent. Thread-safe."""

    def __init__(self) -> None:
        self._images: deque[tuple[int, type[Any], bytes]] = deque(maxlen=_IMAGES)
        self._latent: Any = None

    def callback(self, message_type: type[Any]) -> Callable[[bytes], None]:
        """Return a callback that stores serialized images of this type."""
        return lambda cdr: self._images.append((raw_topics.stamp_ns(cdr), message_type, cdr))

    def on_latent(self, message: Any) -> None:
        """Store a latent."""
        self._latent = message

    def take(self) -> tuple[Any, tuple[type[Any], bytes]] | None:
        """Return the newest latent and its serialized image, once; None: there is no new pair."""
        latent = self._latent
        if latent is None:
            return None
        stamp_ns = latent.header.stamp.sec * 1_000_000_000 + latent.header.stamp.nanosec
        found = next(((kind, cdr) for stamp, kind, cdr in list(self._images) if stamp == stamp_ns), None)
        if found is None:
            return None
        self._latent = None
        return latent, found


class TeachServer:
    """Serve ``~/teach_route``.

    Args:
        log: Logger of the node.
        begin: Returns the folder of a new route and its recorder; raises JepaRuntimeError if it cannot.
        record: Adds the newest image to a recorder.
        parameters: Parameters of the node.
        is_active: Whether the node is active.
    """

    def __init__(
        self,
        *,
        log: Any,
        begin: Callable[[TeachRoute.Goal], tuple[Path, RouteRecorder]],
        record: Callable[[RouteRecorder], None],
        parameters: dict[str, Any],
        is_active: Callable[[], bool],
    ) -> None:
        self._log, self._begin, self._record = log, begin, record
        self._parameters, self._is_active = parameters, is_active
        self._lock = threading.Lock()
        self._busy = False
        self._finishing = threading.Event()
        self._abort_reason = ""

    @property
    def is_recording(self) -> bool:
        """Whether a recording is in progress."""
        return self._busy

    @property
    def is_finishing(self) -> bool:
        """Whether a recording has its last image: an energy that comes late is better than none."""
        return self._busy and self._finishing.is_set()

    def on_goal(self, goal: TeachRoute.Goal) -> GoalResponse:
        """Accept or reject a goal."""
        with self._lock:
            reason = ""
            if not self._is_active():
                reason = "the node is not active"
            elif self._busy:
                reason = "a recording is in progress: finish or cancel it first"
            elif not 0 <= goal.duration_s < 1e6:
                reason = "duration_s must be a number of seconds, not negative"
            else:
                self._busy, self._abort_reason = True, ""
                self._finishing.clear()
        if reason:
            self._log.warning(f"recording rejected: {reason}")
        return GoalResponse.REJECT if reason else GoalResponse.ACCEPT

    def on_cancel(self, _: Any) -> CancelResponse:
        """Accept every cancellation."""
        return CancelResponse.ACCEPT

    def finish(self) -> bool:
        """End the recording and write the route; return whether there is one."""
        with self._lock:
            if self._busy:
                self._finishing.set()
            return self._busy

    def end(self, reason: str) -> None:
        """Abort the recording."""
        self._abort_reason = reason

    def execute(self, handle: Any) -> TeachRoute.Result:
        """Record the route of a goal."""
        result = TeachRoute.Result(outcome=TeachRoute.Result.ABORTED)
        recorder: RouteRecorder | None = None
        try:
            folder, recorder = self._begin(handle.request)
            self._run(handle, result, folder, recorder)
        except JepaRuntimeError as error:
            result.reason = str(error)
        finally:
            with self._lock:
                self._busy = False
        if recorder is not None and recorder.skipped:
            result.reason += f"; {recorder.skipped} images skipped: their stamps do not increase"
        if result.outcome == TeachRoute.Result.SAVED:
            handle.succeed()
        elif result.outcome == TeachRoute.Result.CANCELED:
            handle.canceled()
        else:
            handle.abort()
        self._log.info(f"recording of {handle.request.name}: {result.outcome}: {result.reason}")
        return result

    def _run(self, handle: Any, result: TeachRoute.Result, folder: Path, recorder: RouteRecorder) -> None:
        period_s, duration_s = 1 / self._parameters["route_rate_hz"], handle.request.duration_s
        while not self._finishing.is_set() and not (duration_s and recorder.duration_s >= duration_s):
            due_s = time.monotonic() + period_s
            if handle.is_cancel_requested:
                result.outcome, result.reason = TeachRoute.Result.CANCELED, "canceled by a client"
                return
            if self._abort_reason:
                result.reason = self._abort_reason
                return
            self._record(recorder)
            result.key_frames, result.duration_s = len(recorder), recorder.duration_s
            handle.publish_feedback(
                TeachRoute.Feedback(key_frames=result.key_frames, duration_s=result.duration_s)
            )
            time.sleep(max(due_s - time.monotonic(), 0.0))
        self._finishing.set()
        route = recorder.finish(f"ROS 2, recorded as {handle.request.name}")
        route.save(folder)
        result.outcome, result.path, result.key_frames = TeachRoute.Result.SAVED, str(folder), len(route)
        result.reason = (
            f"{len(route)} key frames in {route.duration_s:.1f} s, {_odometry_of(route, recorder)}"
        )


def _odometry_of(route: Route, recorder: RouteRecorder) -> str:
    if route.poses is not None:
        return "with odometry"
    ended_s = recorder.odometry_ended_s
    lost = "" if ended_s is None else f", which was missing or jumped {ended_s:.1f} s after the start"
    return f"without odometry{lost}"
