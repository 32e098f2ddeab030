"""State of each camera of the world_model node: ages, counters and stage times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from jepa_msgs.msg import LatentState
from rclpy.node import Node

from jepa_ros.common.duplicate_publishers import duplicate_publishers
from jepa_ros.common.parameters import require_relative
from jepa_ros.common.sample_window import SampleWindow, round_ms
from jepa_ros.world_model.calibration_report import calibration_report, calibration_values
from jepa_ros.world_model.image_reader import ImageReader
from jepa_ros.world_model.output_messages import FuturesWriter
from jepa_ros.world_model.stage_times import StageTimer
from jepa_runtime.calibration import Calibration
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.serving import STAGES, Result, Stats
from jepa_runtime.telemetry import Health, Level, Limits, Verdict, assess

_TIMES = np.dtype([(stage, np.float32) for stage in STAGES])
_NEVER = float("inf")


class StreamMonitor:
    """Monitor the results of one camera during one activation of the node.

    Args:
        base: Counters of the stream at activation. The pipeline counts from its own start.
        clock: Monotonic clock [s].
    """

    def __init__(self, base: Stats | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.final: Stats | None = None
        self.calibration: Calibration | None = None
        self._base = base
        self._clock = clock
        self._began = clock()
        self._frame_at = self._result_at = -_NEVER
        self._stamp_age_s = 0.0
        self._compensated_ms = 0.0
        self._errors, self._last_error = 0, ""
        # Since when images have had no futures, and no surprise. None: the last image had it.
        self._without_futures_at: float | None = None
        self._without_surprise_at: float | None = None
        # Consecutive late results: now, and the maximum since the last verdict.
        self._miss_run = self._longest = 0
        self._before: Health | None = None
        self._samples_ms = SampleWindow(_TIMES)

    def on_frame(self) -> None:
        """Record that an image arrived, valid or not."""
        self._frame_at = self._clock()

    def on_accepted_frame(self, stamp_age_s: float) -> None:
        """Record the stamp age of an image that will be processed."""
        self._stamp_age_s = stamp_age_s

    def on_error(self, error: Exception) -> None:
        """Record an error, of an image or unrelated to images."""
        self._errors, self._last_error = self._errors + 1, str(error) or type(error).__name__

    def on_result(self, result: Result) -> None:
        """Record a processed image."""
        self._result_at = self._clock()
        if result.futures is not None:
            self._without_futures_at = None
        elif self._without_futures_at is None:
            self._without_futures_at = self._result_at
        if result.surprise is not None:
            self._without_surprise_at = None
        elif self._without_surprise_at is None:
            self._without_surprise_at = self._result_at
        self.calibration = result.calibration or self.calibration
        self._compensated_ms = result.compensated_ns / 1e6
        self._miss_run = self._miss_run + 1 if result.deadline_missed else 0
        self._longest = max(self._longest, self._miss_run)
        self._samples_ms.add(tuple(result.timings_ms[stage] for stage in STAGES))

    def verdict(
        self,
        *,
        stats: Stats | None,
        bad_frames: dict[str, int],
        active: bool,
        fault: str,
        limits: Mapping[str, Any],
        clip_obstacle: str = "",
    ) -> tuple[Verdict, dict[str, Any]]:
        """Return the verdict on the time since the last call, and the values behind it.

        ``clip_obstacle``: see :meth:`jepa_runtime.serving.Pipeline.clip_obstacle`.
        """
        if fault:
            return Verdict(Level.ERROR, fault), {}
        if not active or stats is None:
            return Verdict(Level.OK, "not active" if stats else "not configured"), {}
        now = replace(self._health(stats, bad_frames), clip_obstacle=clip_obstacle)
        self._longest = self._miss_run
        if now.frame_age_s > limits["stale_after_s"]:
            # After a gap the history starts from scratch.
            self._without_futures_at = self._without_surprise_at = None
        before = self._before or Health(active_for_s=0.0, frame_age_s=_NEVER, result_age_s=_NEVER)
        self._before = now
        values = {name: value for name, value in asdict(now).items() if name != "bad_frames"}
        values["compensated_ms"] = round(self._compensated_ms, 3)
        values |= {f"bad_frames/{reason}": count for reason, count in bad_frames.items()}
        if self.calibration is not None:
            values |= calibration_values(self.calibration)
        if (sample := self._samples_ms.last()) is not None:
            values |= {f"{stage}_ms": round(float(sample[stage]), 3) for stage in STAGES}
        return assess(
            now,
            before,
            Limits(
                deadline_ms=limits["deadline_ms"],
                max_miss_run=limits["max_miss_run"],
                stale_after_s=limits["stale_after_s"],
            ),
        ), values

    def report(self) -> dict[str, Any]:
        """Return the counters, all samples of the stage times [ms], and the coverage of the error bounds."""
        latest = self._samples_ms.latest()
        samples = {stage: round_ms(latest[stage]) for stage in STAGES} if len(latest) else {}
        counters = {} if self.final is None else self._since_base(self.final)
        return {
            "counters": counters,
            "samples_ms": samples,
            "error_bounds": None if self.calibration is None else calibration_report(self.calibration),
        }

    def _health(self, stats: Stats, bad_frames: dict[str, int]) -> Health:
        # The inference thread sets these.
        no_futures_at, no_surprise_at = self._without_futures_at, self._without_surprise_at
        now, since = self._clock(), self._since_base(stats)
        return Health(
            active_for_s=round(now - self._began, 3),
            frame_age_s=round(now - self._frame_at, 3),
            result_age_s=round(now - self._result_at, 3),
            without_futures_s=0.0 if no_futures_at is None else round(now - no_futures_at, 3),
            without_surprise_s=0.0 if no_surprise_at is None else round(now - no_surprise_at, 3),
            stamp_age_s=round(self._stamp_age_s, 3),
            received=since["received"] + sum(bad_frames.values()),
            processed=since["processed"],
            skipped=since["skipped"],
            dropped=since["dropped"],
            failed=since["failed"],
            unpublished=since["callback_errors"],
            errors=self._errors,
            late=since["late"],
            miss_run=self._longest,
            bad_frames=dict(bad_frames),
            last_error=self._last_error,
        )

    def _since_base(self, stats: Stats) -> dict[str, Any]:
        counters = asdict(stats)
        if self._base is not None:
            for name in ("received", "processed", "dropped", "failed", "callback_errors", "late", "skipped"):
                counters[name] -= getattr(self._base, name)
        return counters


class CameraStream:
    """Represent one camera of the node: its topics, reader, publishers and monitor.

    Args:
        topic: Topic of its images. It is also the name of the camera's stream in the pipeline.
        alone: Whether the node has no other camera, so that result topics need no camera name.

    Attributes:
        goal_topic: Topic of its goal images.
        prefix: Prefix of its result topics.
        label: Name in the diagnostics.
        outputs: Publishers by message type.
        futures: Writer of PredictedFutures.
        timer: Stage times of its images.
        newest_ns: Stamp of its newest image in this activation; None: there is none.
        publishers: Number of publishers on the image topic; 0 before the first count.
        reader: Reader of its images in this activation.
        monitor: Monitor of its results in this activation.
    """

    timer: StageTimer

    def __init__(self, topic: str, *, alone: bool) -> None:
        self.topic = topic
        self.goal_topic = "goal_image" if alone else f"{topic}/goal_image"
        self.prefix = "~" if alone else f"~/{topic}"
        self.label = "inference" if alone else f"inference {topic}"
        self.outputs: dict[type, Any] = {}
        self.futures = FuturesWriter()
        self.publishers = 0
        self.begin(None)

    def begin(self, base: Stats | None) -> None:
        """Reset the state for a new activation; ``base`` are the current counters of the stream."""
        self.reader = ImageReader()
        self.newest_ns: int | None = None
        self.monitor = StreamMonitor(base)

    def count_publishers(self, node: Node) -> None:
        """Count the publishers of its images. A driver publishes raw and compressed images."""
        self.publishers = max(node.count_publishers(topic) for topic in self._image_topics(node))

    def _image_topics(self, node: Node) -> list[str]:
        return [node.resolve_topic_name(topic) for topic in (self.topic, f"{self.topic}/compressed")]

    def duplicate_publishers(self, node: Node) -> list[str]:
        """Return warnings about other publishers of its images, or of the results of the active ``node``."""
        latent_topic = self.outputs[LatentState].topic_name
        return [
            *duplicate_publishers(node, self._image_topics(node), "run one camera driver per topic"),
            *duplicate_publishers(node, [latent_topic], "another node has the name of this node"),
        ]

    def report(self) -> dict[str, Any]:
        """Return the counters and stage times of this activation."""
        return {"bad_frames": dict(self.reader.rejected), **self.monitor.report()}


def create_camera_streams(topics: Sequence[str]) -> dict[str, CameraStream]:
    """Return the cameras of a node by topic.

    Raises:
        JepaRuntimeError: There is no topic, a topic is not a relative name, or two are the same.
    """
    if not topics or len(set(topics)) < len(topics):
        raise JepaRuntimeError(
            f"parameter cameras must contain at least one topic and no duplicates, got {list(topics)}",
            code="node.invalid_parameter",
        )
    for topic in topics:
        require_relative(topic, "cameras")
    return {topic: CameraStream(topic, alone=len(topics) == 1) for topic in topics}


def find_camera(cameras: Mapping[str, CameraStream], topic: str) -> CameraStream:
    """Return the camera with the image topic ``topic``, or the only one if ``topic`` is empty.

    Raises:
        JepaRuntimeError: There is no such camera, or ``topic`` is empty and there are several.
    """
    if not topic and len(cameras) == 1:
        return next(iter(cameras.values()))
    if topic not in cameras:
        raise JepaRuntimeError(
            f"camera must be one of {', '.join(cameras)}, got {topic!r}", code="node.unknown_camera"
        )
    return cameras[topic]
