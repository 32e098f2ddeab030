"""Displays the graph in the terminal and records every topic into an MCAP file.

Messages are received in serialized form and recorded as they are. Only the few small ones that are displayed
are deserialized.
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
from jepa_ros.common.parameters import declare_parameters, parameter_values
from jepa_ros.common.sample_window import SampleWindow, round_ms
from jepa_ros.common.spin import create_steady_timer, run
from jepa_ros.nodes.monitor_parameters import PARAMETERS
from jepa_runtime.errors import RecordingError
from jepa_runtime.recording import McapRecorder

_DISCOVERY_PERIOD_S = 0.25
_VIEW_PERIOD_S = 0.5
_LARGE_BYTES = 100_000


class MonitorNode(Node):
    """Subscribe to all topics without changing anything. See ros2_ws/README.md."""

    def __init__(self) -> None:
        super().__init__("monitor")
        self.finished = threading.Event()
        self.failure = ""
        declare_parameters(self, PARAMETERS)
        values = parameter_values(self, PARAMETERS)
        self._recorder = McapRecorder(values["mcap"]) if values["mcap"] else None
        # By topic: what its publishers have offered so far, and the subscription.
        self._offered: defaultdict[str, set[raw_topics.OfferedQos]] = defaultdict(set)
        self._topic_subscriptions: dict[str, Subscription] = {}
        rate_hz: float = values["large_messages_hz"]
        self._large_period_ns = round(1e9 / rate_hz) if rate_hz else 0
        # By topic: when the next large message is recorded.
        self._large_due_ns: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        self._previous_counts: Counter[str] = Counter()
        self._latency_ms: dict[str, SampleWindow] = {}
        self._snapshot = GraphSnapshot(recorded=values["mcap"])
        self._began = self._drawn_at = time.monotonic()
        self._view = self._open_view(values["view"], values["line_period_s"])
        self._readers: dict[type[Any], Callable[[Any], None]] = {
            ModelInfo: self._snapshot.set_model,
            PlannerStatus: self._snapshot.add_planner_status,
            Surprise: self._snapshot.set_surprise,
            EpisodeResult: self._snapshot.add_episode,
            DiagnosticArray: self._on_diagnostics,
        }
        self._discover()
        create_steady_timer(self, _DISCOVERY_PERIOD_S, self._discover)
        create_steady_timer(self, _VIEW_PERIOD_S, self._draw)

    def _open_view(self, view: str, line_period_s: float) -> Terminal | PlainLines | None:
        if view == "none":
            return None
        if view == "live" or (view == "auto" and sys.stdout.isatty()):
            return Terminal()
        return PlainLines(line_period_s)

    # --- topics

    def _discover(self) -> None:
        for topic, types in self.get_topic_names_and_types():
            if "/msg/" not in types[0]:
                continue
            offered = self._offered[topic]
            new = raw_topics.offered_qos(self.get_publishers_info_by_topic(topic))
            if not new <= offered:
                offered |= new
                self.subscribe(topic, types[0], raw_topics.matching_qos(offered))

    def subscribe(self, topic: str, type_name: str, profile: Any) -> None:
        """Subscribe to a topic, in place of an earlier subscription to it."""
        try:
            message = raw_topics.message_class(type_name)
            stamped = raw_topics.begins_with_header(message)
        # The publisher chooses the type name, and importing a module of that name may raise anything.
        except Exception:
            self.get_logger().warning(f"topic {topic} skipped: {type_name} is not installed")
            return
        ages_ms = None
        if stamped:
            ages_ms = self._latency_ms.setdefault(topic, SampleWindow(np.float32))
        reader = self._readers.get(message)

        def on_message(cdr: bytes) -> None:
            now_ns = int(self.get_clock().now().nanoseconds)
            self._record(topic, type_name, cdr, now_ns)
            # An invalid message, for example of another version of its type, must not end the recording.
            try:
                if ages_ms is not None:
                    ages_ms.add((now_ns - raw_topics.stamp_ns(cdr)) / 1e6)
                if reader is not None:
                    reader(deserialize_message(cdr, message))
            except Exception as error:
                self.get_logger().warning(
                    f"invalid message on topic {topic}: {error}", throttle_duration_sec=5.0
                )

        if topic in self._topic_subscriptions:
            self.destroy_subscription(self._topic_subscriptions[topic])
        self._topic_subscriptions[topic] = self.create_subscription(
            message, topic, on_message, profile, raw=True
        )

    def _record(self, topic: str, type_name: str, cdr: bytes, now_ns: int) -> None:
        self._counts[topic] += 1
        if self._recorder is None or not self._is_due(topic, len(cdr), now_ns):
            return
        try:
            self._recorder.write(topic, type_name, cdr, now_ns)
        except RecordingError as error:
            self.failure = str(error)
            self.finished.set()

    def _is_due(self, topic: str, size: int, now_ns: int) -> bool:
        """Return whether to record a message, as the rate of large ones is limited."""
        if size <= _LARGE_BYTES or not self._large_period_ns:
            return True
        due_ns = self._large_due_ns.get(topic, now_ns)
        if now_ns < due_ns:
            return False
        # The next one is due a period later, not a period after an image that came late.
        self._large_due_ns[topic] = max(due_ns, now_ns - self._large_period_ns) + self._large_period_ns
        return True

    # --- display

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._snapshot.set_diagnostics(status)

    def _draw(self) -> None:
        if self._view is None:
            return
        now = time.monotonic()
        elapsed, self._drawn_at = now - self._drawn_at, now
        new = self._counts - self._previous_counts
        self._previous_counts = self._counts.copy()
        for topic in self._counts:
            rate, previous = new[topic] / elapsed, self._snapshot.rates_hz.get(topic, 0.0)
            self._snapshot.rates_hz[topic] = 0.5 * previous + 0.5 * rate
        self._snapshot.elapsed_s = now - self._began
        self._view.show(self._snapshot)

    def stop(self) -> None:
        """Close the recording."""
        if self._view is not None:
            self._view.close()
        if self._recorder is not None:
            self._recorder.close()

    def report(self) -> dict[str, Any]:
        """Return the number of messages by topic and the age of each stamped message on arrival [ms]."""
        samples = {topic: round_ms(ages.latest()) for topic, ages in self._latency_ms.items()}
        return {"messages": dict(self._counts), "samples_ms": samples}


def main() -> None:
    """Entry point of ``ros2 run jepa_ros monitor``."""
    sys.exit(run(MonitorNode))
