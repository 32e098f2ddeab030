"""Publishes the images of any source of :mod:`jepa_runtime.sources`: camera, video, image folder or bag."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from sensor_msgs.msg import Image

from jepa_ros.common import qos
from jepa_ros.common.conversions import to_image
from jepa_ros.common.parameters import declare_parameters, parameter_values
from jepa_ros.common.spin import create_steady_timer, run
from jepa_ros.nodes.camera_parameters import PARAMETERS
from jepa_ros.world_model import output_messages
from jepa_runtime.errors import JepaRuntimeError, SourceError
from jepa_runtime.sources import Frame, Source, open_source, view_name
from jepa_runtime.telemetry import Level, Verdict


class CameraNode(Node):
    """Publish the images of a source.

    A separate thread waits for the device, so that the node can always be stopped.
    """

    def __init__(self) -> None:
        super().__init__("camera")
        self.finished = threading.Event()
        self.failure = ""
        declare_parameters(self, PARAMETERS)
        self._values = parameter_values(self, PARAMETERS)
        self._published = self._views = 0
        self._frame_at = self._began = time.monotonic()
        self._stopping = threading.Event()
        self._source = self._open()
        self._images = self.create_publisher(Image, "camera/image_raw", qos.SENSOR)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RESULT)
        create_steady_timer(self, 1.0, self._publish_diagnostics)
        self._thread = threading.Thread(target=self._play, name="jepa-camera", daemon=True)
        self._thread.start()
        self.get_logger().info(f"playing {self._source.name}")

    def _open(self) -> Source:
        return open_source(self._values["source"], rate_hz=self._values["rate_hz"])

    def _play(self) -> None:
        try:
            while self._play_once() and self._values["loop"] and not self._stopping.is_set():
                self._views += 1
                self._source = self._open()
            if not self._stopping.is_set():
                self.get_logger().info(f"{self._source.name} ended after {self._published} images")
        except JepaRuntimeError as error:
            self.failure = str(error)
        except Exception as error:
            traceback.print_exc()
            self.failure = f"{type(error).__name__}: {error}"
        self.finished.set()

    def _play_once(self) -> int:
        """Publish the frames of the source at their rate and return their number."""
        source, count = self._source, 0
        began = first_ns = view = None
        try:
            for frame in source.frames():
                if not source.live:
                    if began is None or first_ns is None:
                        began, first_ns = time.monotonic(), frame.stamp_ns
                    due = began + (frame.stamp_ns - first_ns) / 1e9
                    self._stopping.wait(max(0.0, due - time.monotonic()))
                if self._stopping.is_set():
                    break
                self._views += view not in (None, frame.frame_id)
                view = frame.frame_id
                self.publish(frame, live=source.live)
                count += 1
        finally:
            source.close()
        if count == 0 and not self._stopping.is_set():
            raise SourceError(f"{source.name}: contains no frames", code="source.empty")
        return count

    def publish(self, frame: Frame, *, live: bool) -> None:
        """Publish an image."""
        # The clock of the graph may differ from the wall clock. Recorded frames are stamped with the current
        # time: old stamps would look like a camera that hangs.
        age_ns = time.time_ns() - frame.stamp_ns if live else 0
        stamp_ns = max(0, int(self.get_clock().now().nanoseconds) - age_ns)
        view = view_name(self._values["frame_id"], self._views)
        self._images.publish(to_image(frame.image, stamp_ns=stamp_ns, frame_id=view))
        self._published += 1
        self._frame_at = time.monotonic()

    def _publish_diagnostics(self) -> None:
        age_s = time.monotonic() - self._frame_at
        verdict = Verdict(Level.OK, "running")
        if age_s > self.get_parameter("stale_after_s").value:
            verdict = Verdict(Level.STALE, f"no image for {age_s:.1f} s from {self._source.name}")
        message = output_messages.diagnostics(
            verdict,
            name=f"{self.get_fully_qualified_name()[1:]}: images",
            hardware_id=self._source.name,
            values={"published": self._published, "age_s": round(age_s, 3)},
            stamp_ns=int(self.get_clock().now().nanoseconds),
        )
        self._diagnostics.publish(message)

    def stop(self) -> None:
        """End the thread. A device that hangs is closed when the process exits."""
        self._stopping.set()
        self._thread.join(2.0)

    def report(self) -> dict[str, Any]:
        """Return counters since the start."""
        return {"frames_published": self._published, "duration_s": self._frame_at - self._began}


def main() -> None:
    """Entry point of ``ros2 run jepa_ros camera``."""
    sys.exit(run(CameraNode))
