"""Shows the graph live in the terminal and records every topic into an MCAP file.

Messages are taken raw: they are written as they came, and only the few small ones that are shown are
deserialised.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.msg import EpisodeResult, ModelInfo, PlannerStatus, Surprise
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription

from jepa_ros.common import raw_topics
from jepa_ros.common.monitor_view import GraphSnapshot, PlainLines, Terminal
from jepa_ros.common.parameters import REPORT_PATH, Parameter, declare, values
from jepa_ros.common.sample_window import SampleWindow, rounded
from jepa_ros.common.spin import every, run
from jepa_runtime.errors import RecordingError
from jepa_runtime.recording import McapRecorder

PARAMETERS = (
    Parameter(
        name="mcap",
        default="",
        description="MCAP file that takes all topics, and is not there yet; empty: none.",
        read_only=True,
    ),
    Parameter(
        name="view",
        default="auto",
        description="live (drawn in place), lines, none; auto: live on a terminal, otherwise lines.",
        choices=("auto", "live", "lines", "none"),
        read_only=True,
    ),
    Parameter(
        name="line_period_s",
        default=5.0,
        description="Time between two lines [s].",
        low=0.5,
        high=3600.0,
        read_only=True,
    ),
    REPORT_PATH,
)

_DISCOVERY_PERIOD_S = 0.25
_VIEW_PERIOD_S = 0.5


class MonitorNode(Node):
    """Listens to everything and changes nothing. See ros2_ws/README.md."""

    def __init__(self) -> None:
        super().__init__("monitor")
        self.finished = threading.Event()
        self.failure = ""
        declare(self, PARAMETERS)
        chosen = values(self, PARAMETERS)
        self._recorder = McapRecorder(chosen["mcap"]) if chosen["mcap"] else None
        # By topic: what its publishers have offered so far, and who hears it.
        self._offered: defaultdict[str, set[raw_topics.Offer]] = defaultdict(set)
        self._heard: dict[str, Subscription] = {}
        self._counts: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()
        self._latency_ms: dict[str, SampleWindow] = {}
        self._picture = GraphSnapshot(recorded=chosen["mcap"])
        self._began = self._drawn_at = time.monotonic()
        self._view = self._open_view(chosen["view"], chosen["line_period_s"])
        self._readers: dict[type[Any], Callable[[Any], None]] = {
            ModelInfo: self._picture.model_is,
            PlannerStatus: self._picture.plans,
            Surprise: self._picture.surprises,
            EpisodeResult: self._picture.ended,
            DiagnosticArray: self._read_diagnostics,
        }
        self._discover()
        every(self, _DISCOVERY_PERIOD_S, self._discover)
        every(self, _VIEW_PERIOD_S, self._draw)

    def _open_view(self, kind: str, line_period_s: float) -> Terminal | PlainLines | None:
        if kind == "none":
            return None
        if kind == "live" or (kind == "auto" and sys.stdout.isatty()):
            return Terminal()
        return PlainLines(line_period_s)

    # --- topics

    def _discover(self) -> None:
        for topic, types in self.get_topic_names_and_types():
            if "/msg/" not in types[0]:
                continue
            offered = self._offered[topic]
            offers = raw_topics.offers(self.get_publishers_info_by_topic(topic))
            if not offers <= offered:
                offered |= offers
                self._listen(topic, types[0], raw_topics.matching_qos(offered))

    def _listen(self, topic: str, type_name: str, profile: Any) -> None:
        try:
            message = raw_topics.message_class(type_name)
            stamped = raw_topics.begins_with_header(message)
        # Whoever publishes names the type, and importing what is called so may raise anything.
        except Exception:
            self.get_logger().warning(f"{topic} is left out: {type_name} is not installed here")
            return
        ages_ms = None
        if stamped:
            ages_ms = self._latency_ms.setdefault(topic, SampleWindow(np.float32))
        reader = self._readers.get(message)

        def take(cdr: bytes) -> None:
            now_ns = int(self.get_clock().now().nanoseconds)
            self._record(topic, type_name, cdr, now_ns)
            # Whatever others publish, in another version of its type for instance, ends no recording.
            try:
                if ages_ms is not None:
                    ages_ms.add((now_ns - raw_topics.stamp_ns(cdr)) / 1e6)
                if reader is not None:
                    reader(deserialize_message(cdr, message))
            except Exception as error:
                self.get_logger().warning(f"{topic} cannot be read: {error}", throttle_duration_sec=5.0)

        if topic in self._heard:
            self.destroy_subscription(self._heard[topic])
        self._heard[topic] = self.create_subscription(message, topic, take, profile, raw=True)

    def _record(self, topic: str, type_name: str, cdr: bytes, now_ns: int) -> None:
        self._counts[topic] += 1
        if self._recorder is None:
            return
        try:
            self._recorder.write(topic, type_name, cdr, now_ns)
        except RecordingError as error:
            self.failure = str(error)
            self.finished.set()

    # --- what is shown

    def _read_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._picture.diagnosed(status)

    def _draw(self) -> None:
        if self._view is None:
            return
        now = time.monotonic()
        elapsed, self._drawn_at = now - self._drawn_at, now
        grown = self._counts - self._counted
        self._counted = self._counts.copy()
        for topic in self._counts:
            fresh, old = grown[topic] / elapsed, self._picture.rates_hz.get(topic, 0.0)
            self._picture.rates_hz[topic] = 0.5 * old + 0.5 * fresh
        self._picture.elapsed_s = now - self._began
        self._view.show(self._picture)

    def stop(self) -> None:
        """Complete the recording."""
        if self._view is not None:
            self._view.close()
        if self._recorder is not None:
            self._recorder.close()

    def report(self) -> dict[str, Any]:
        """Messages by topic and the age of each stamped message on arrival [ms]."""
        samples = {topic: rounded(ages.latest()) for topic, ages in self._latency_ms.items()}
        return {"messages": dict(self._counts), "samples_ms": samples}


def main() -> None:
    """Entry point of ``ros2 run jepa_ros monitor``."""
    sys.exit(run(MonitorNode))
