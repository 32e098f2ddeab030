"""Measure plain_node.py as jepa_ros.nodes.profiler measures world_model: the same camera in a separate
process, the same schedule, and latency from the time an image was due until its futures arrive."""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import rclpy
from jepa_ros.profiler.frame_ledger import FrameLedger
from jepa_ros.profiler.processes import Child, camera_command
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import Float32MultiArray

from jepa_runtime import Bundle
from jepa_runtime.commands import frame_size
from jepa_runtime.errors import JepaRuntimeError, ProfileError
from jepa_runtime.profiling import Profile, Subject, write_profile
from jepa_runtime.telemetry import Monitor, read_environment

_TOPIC = "camera/image_raw"
_PATIENCE_S = 120.0
_WARM_UP_S = 1.0
_SILENCE_S = 2.0
_LEAD_NS = 100_000_000
_POLL_S = 0.05


class _Listener(Node):
    """Receive futures: ``answered_ns`` is the time of the last, ``ledger`` records the counted ones."""

    def __init__(self, values: int) -> None:
        super().__init__("listener")
        self.ledger: FrameLedger | None = None
        self.answered_ns = 0
        self._values = values
        self.create_subscription(Float32MultiArray, "futures", self._on_futures, QoSProfile(depth=100))

    def _on_futures(self, message: Float32MultiArray) -> None:
        now_ns = self.answered_ns = time.monotonic_ns()
        if len(message.data) != self._values:
            raise ProfileError(f"received futures of {len(message.data)} values, expected {self._values}")
        if self.ledger is not None:
            seconds, _, nanoseconds = message.layout.dim[0].label.partition(".")
            self.ledger.add_futures(int(seconds) * 10**9 + int(nanoseconds), now_ns)


class _Graph:
    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        self._options = options
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        manifest = Bundle.open(options.bundle).manifest
        latent = manifest.io.latent
        self._subject = Subject(
            model_id=manifest.model_id, engine="openvino", device="CPU", precision=options.precision,
            futures=manifest.num_samples, horizon=manifest.horizon, source=options.source,
            frame_size=options.size,
        )  # fmt: skip
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._frames = max(1, round(options.duration * options.rate))
        self._listener = _Listener(manifest.num_samples * manifest.horizon * latent.tokens * latent.dim)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._listener)
        node = [sys.executable, str(Path(__file__).with_name("plain_node.py"))]
        self._node = stack.enter_context(
            Child("plain_node", [*node, str(options.bundle), options.precision], logs / "node.log")
        )
        self._running = [self._node]
        self._until(lambda: self._listener.count_subscribers(_TOPIC), "did not subscribe to images")
        camera = camera_command(
            source=options.source, topic=_TOPIC, rate_hz=options.rate, frames=self._frames,
            offset_ns=self._offset_ns, size=options.size, actions=[],
        )  # fmt: skip
        self._camera = stack.enter_context(Child("camera", camera, logs / "camera.log", piped=True))
        self._running.append(self._camera)
        self._until(self._camera.read_messages, "has no camera")

    def measure(self) -> Profile:
        self._until(lambda: self._listener.answered_ns, "sent no futures")
        warm_s = time.monotonic() + _WARM_UP_S
        self._spin(lambda: time.monotonic() > warm_s)
        rate_hz = self._options.rate
        start_ns = time.monotonic_ns() + round(1e9 / rate_hz) + _LEAD_NS
        ledger = self._listener.ledger = FrameLedger(
            start_ns=start_ns, rate_hz=rate_hz, offset_ns=self._offset_ns, frames=self._frames
        )
        gc.freeze()
        self._camera.send({"start_ns": start_ns})
        with Monitor(pid=self._node.process.pid) as monitor:
            self._spin(lambda: self._over(ledger))
        return Profile(
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            tool="benchmarks/latency.py",
            kind="ros",
            subject=self._subject,
            environment=read_environment(),
            run=ledger.run(1e3 / rate_hz),
            readings=monitor.readings(),
        )

    def _over(self, ledger: FrameLedger) -> bool:
        for index, moment_ns in self._camera.read_messages():
            ledger.add_sent(index, moment_ns)
        if ledger.sent < self._frames:
            return False
        since_ns = max(self._listener.answered_ns, ledger.due_ns(self._frames - 1))
        return ledger.processed == self._frames or time.monotonic_ns() - since_ns > _SILENCE_S * 1e9

    def _until(self, condition: Callable[[], Any], fault: str) -> None:
        end = time.monotonic() + _PATIENCE_S
        self._spin(lambda: condition() or time.monotonic() > end)
        if time.monotonic() > end:
            raise ProfileError(f"the plain node {fault} within {_PATIENCE_S:g} s{self._node.log_excerpt()}")

    def _spin(self, over: Callable[[], Any]) -> None:
        while not over():
            for child in self._running:
                if child.process.poll():
                    raise ProfileError(f"{child.exit_message}{child.log_excerpt()}")
            self._executor.spin_once(timeout_sec=_POLL_S)


def main() -> int:
    """Measure and write the profile; return 1 after an error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--duration", type=float, required=True)
    parser.add_argument("--size", type=frame_size, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rclpy.init(args=[])
    try:
        with ExitStack() as stack:
            write_profile(_Graph(options, stack).measure(), options.output)
    except JepaRuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
