"""The receiving end of a profile: records when the messages of a world model arrive."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.msg import LatentState, ModelInfo, PredictedFutures, StageTimes
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from jepa_ros.common import qos, raw_topics
from jepa_ros.common.conversions import from_time
from jepa_ros.profiler.frame_ledger import FrameLedger, NodeTimes
from jepa_runtime.telemetry import Level

# Deep enough that no message is lost while the terminal is redrawn.
_EVERYTHING = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


class Listener(Node):
    """Subscribe to one world model, and from :meth:`subscribe_results` on to its results.

    Args:
        server: Name of the world_model node.

    Attributes:
        info: Description of the active model, or None until it is known.
        ledger: Receives the times. None: nothing is recorded.
        message_counts: Number of messages of ``futures``, ``latent`` and ``stage_times``.
        last_message_ns: When the last one arrived, on CLOCK_MONOTONIC.
        verdict: Latest diagnostics of the camera; empty while they are OK.
        pid: Process of the node on this host, or None if unknown.
    """

    def __init__(self, server: str) -> None:
        super().__init__("profiler")
        self.info: ModelInfo | None = None
        self.ledger: FrameLedger | None = None
        self.message_counts: Counter[str] = Counter()
        self.last_message_ns = 0
        self.verdict = ""
        self.pid: int | None = None
        self.create_subscription(ModelInfo, f"{server}/model_info", self._on_info, qos.LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, _EVERYTHING)
        self._server = self.resolve_topic_name(server)
        self._status_prefix = f"{self._server[1:]}: inference"
        self._camera = ""

    def subscribe_results(self, topic: str) -> None:
        """Subscribe to the results of the images on ``topic``, once the world model is known.

        With several cameras, each has its own result topics, named after its image topic relative to the
        namespace of the world model.
        """
        namespace = self._server.rpartition("/")[0]
        camera = self.resolve_topic_name(topic).removeprefix(f"{namespace}/").lstrip("/")
        results = f"{self._server}/{camera}"
        if self.count_publishers(f"{results}/latent"):
            self._camera, self.verdict = f" {camera}", ""
        else:
            results = self._server
        # Futures first: waiting messages are taken in the order of the subscriptions.
        self.create_subscription(PredictedFutures, f"{results}/futures", self._on_futures, _EVERYTHING)
        self.create_subscription(LatentState, f"{results}/latent", self._on_latent, _EVERYTHING, raw=True)
        self.create_subscription(StageTimes, f"{results}/stage_times", self._on_stage_times, _EVERYTHING)

    def describe_world_models(self) -> str:
        """Return which world models are on this graph, for an error message."""
        infos = [
            name for name, types in self.get_topic_names_and_types() if "jepa_msgs/msg/ModelInfo" in types
        ]
        servers = sorted(name.rpartition("/")[0] for name in infos if self.count_publishers(name))
        return f"world models on this graph: {', '.join(servers) or 'none'}"

    def other_nodes(self) -> list[str]:
        """Return the nodes on this graph other than this one and the world model's."""
        nodes = [
            f"{namespace.rstrip('/')}/{name}" for name, namespace in self.get_node_names_and_namespaces()
        ]
        # Only one of each: the world model of a robot may have the same name.
        for own in {self.get_fully_qualified_name(), self._server} & set(nodes):
            nodes.remove(own)
        # Helper nodes of the world model serve its services.
        return sorted(node for node in nodes if not node.startswith(f"{self._server}_"))

    def _on_futures(self, message: PredictedFutures) -> None:
        now_ns = self._count("futures")
        if self.ledger is not None:
            self.ledger.add_futures(from_time(message.header.stamp), now_ns)

    def _on_latent(self, cdr: bytes) -> None:
        now_ns = self._count("latent")
        if self.ledger is not None:
            self.ledger.add_latent(raw_topics.stamp_ns(cdr), now_ns)

    def _on_stage_times(self, message: StageTimes) -> None:
        self._count("stage_times")
        if self.ledger is None:
            return
        # The node uses the system clock. Its offset to CLOCK_MONOTONIC is the same a moment later.
        offset_ns = time.time_ns() - time.monotonic_ns()
        published_ns = from_time(message.published)
        node_times = NodeTimes(
            received_ns=from_time(message.received) - offset_ns,
            published_ns=published_ns - offset_ns if published_ns else None,
            stages_ms=dict(zip(message.names, message.milliseconds, strict=True)),
            device_ms=dict(zip(message.device_names, message.device_milliseconds, strict=True)),
            error=message.error,
        )
        self.ledger.add_node_times(from_time(message.header.stamp), node_times)

    def _on_info(self, message: ModelInfo) -> None:
        self.info = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if not status.name.startswith(self._status_prefix):
                continue
            if status.name == f"{self._status_prefix}{self._camera}":
                level = Level(status.level[0])
                self.verdict = "" if level is Level.OK else f"{level.name}: {status.message}"
            pids = [int(pair.value) for pair in status.values if pair.key == "pid" and pair.value.isdigit()]
            # The PID of a node on another host belongs to another process here.
            self.pid = next((pid for pid in pids if _is_world_model(pid)), None)

    def _count(self, topic: str) -> int:
        now_ns = time.monotonic_ns()
        self.message_counts[topic] += 1
        self.last_message_ns = now_ns
        return now_ns


def _is_world_model(pid: int) -> bool:
    try:
        return b"world_model" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
