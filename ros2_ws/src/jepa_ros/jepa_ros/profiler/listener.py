"""The receiving end of a profile: takes what a world model says and notes when it came."""

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
from jepa_ros.profiler.frame_ledger import FrameLedger, Inside
from jepa_runtime.telemetry.diagnostics import Level

# Nothing may be lost here while a panel is drawn.
_EVERYTHING = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


class Listener(Node):
    """Listens to one world model, and from :meth:`listen` on to its results.

    Args:
        server: the name of its node.

    Attributes:
        info: which model serves; None until it is known.
        ledger: takes the moments; None: nothing is measured yet.
        answers: how many messages came, by ``futures``, ``latent`` and ``stage_times``.
        answered_ns: when the last one came, on CLOCK_MONOTONIC.
        verdict: what its diagnostics said last of the camera; empty while that is OK.
        pid: its process on this host; None: not known.
    """

    def __init__(self, server: str) -> None:
        super().__init__("profiler")
        self.info: ModelInfo | None = None
        self.ledger: FrameLedger | None = None
        self.answers: Counter[str] = Counter()
        self.answered_ns = 0
        self.verdict = ""
        self.pid: int | None = None
        self.create_subscription(ModelInfo, f"{server}/model_info", self._on_info, qos.LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, _EVERYTHING)
        self._server = self.resolve_topic_name(server)
        self._status_prefix = f"{self._server[1:]}: inference"
        self._camera = ""

    def listen(self, topic: str) -> None:
        """Listen to the results on the images of ``topic``: of several cameras each has its own, by its name
        in the namespace of the world model, which is to be known already."""
        space = self._server.rpartition("/")[0]
        camera = self.resolve_topic_name(topic).removeprefix(f"{space}/").lstrip("/")
        results = f"{self._server}/{camera}"
        if self.count_publishers(f"{results}/latent"):
            self._camera, self.verdict = f" {camera}", ""
        else:
            results = self._server
        # The futures first: of several messages that have come they are taken first.
        self.create_subscription(PredictedFutures, f"{results}/futures", self._on_futures, _EVERYTHING)
        self.create_subscription(LatentState, f"{results}/latent", self._on_latent, _EVERYTHING, raw=True)
        self.create_subscription(StageTimes, f"{results}/stage_times", self._on_times, _EVERYTHING)

    def seen(self) -> str:
        """Which world models are on this graph, for an error message."""
        infos = [
            name for name, kinds in self.get_topic_names_and_types() if "jepa_msgs/msg/ModelInfo" in kinds
        ]
        servers = sorted(name.rpartition("/")[0] for name in infos if self.count_publishers(name))
        return f"world models on this graph: {', '.join(servers) or 'none'}"

    def others(self) -> list[str]:
        """The nodes on this graph that are neither this one nor the world model's."""
        nodes = [f"{space.rstrip('/')}/{name}" for name, space in self.get_node_names_and_namespaces()]
        # One of each: a robot's own world model has the same name.
        for own in {self.get_fully_qualified_name(), self._server} & set(nodes):
            nodes.remove(own)
        # Nodes beside it answer its services.
        return sorted(node for node in nodes if not node.startswith(f"{self._server}_"))

    def _on_futures(self, message: PredictedFutures) -> None:
        now_ns = self._note("futures")
        if self.ledger is not None:
            self.ledger.add_futures(from_time(message.header.stamp), now_ns)

    def _on_latent(self, cdr: bytes) -> None:
        now_ns = self._note("latent")
        if self.ledger is not None:
            self.ledger.add_latent(raw_topics.stamp_ns(cdr), now_ns)

    def _on_times(self, message: StageTimes) -> None:
        self._note("stage_times")
        if self.ledger is None:
            return
        # The node stamps with the system's clock: a moment later its distance from the other is the same.
        offset_ns = time.time_ns() - time.monotonic_ns()
        published_ns = from_time(message.published)
        inside = Inside(
            received_ns=from_time(message.received) - offset_ns,
            published_ns=published_ns - offset_ns if published_ns else None,
            stages_ms=dict(zip(message.names, message.milliseconds, strict=True)),
            device_ms=dict(zip(message.device_names, message.device_milliseconds, strict=True)),
            error=message.error,
        )
        self.ledger.add_inside(from_time(message.header.stamp), inside)

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
            # A node on another host has a process of another number there.
            self.pid = next((pid for pid in pids if _is_world_model(pid)), None)

    def _note(self, what: str) -> int:
        now_ns = time.monotonic_ns()
        self.answers[what] += 1
        self.answered_ns = now_ns
        return now_ns


def _is_world_model(pid: int) -> bool:
    try:
        return b"world_model" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
