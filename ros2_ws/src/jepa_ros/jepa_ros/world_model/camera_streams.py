"""What the world_model node knows about its cameras and how it serves them: ages, counters and clocks, for
diagnostics and the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jepa_msgs.msg import LatentState
from rclpy.node import Node

from jepa_ros.common.duplicate_publishers import rivals
from jepa_ros.common.parameters import require_relative
from jepa_ros.common.sample_window import SampleWindow, rounded
from jepa_ros.world_model.calibration_report import figures_of, report_of
from jepa_ros.world_model.image_reader import ImageReader
from jepa_ros.world_model.output_messages import FuturesWriter
from jepa_ros.world_model.stage_times import StageClock
from jepa_runtime.calibration import Calibration
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.serving.pipeline import STAGES, Result, Stats
from jepa_runtime.telemetry.diagnostics import Health, Level, Limits, Verdict, assess

_TIMES = np.dtype([(stage, np.float32) for stage in STAGES])
_NEVER = float("inf")


class StreamWatch:
    """Watches how one camera is served in one activation of the node.

    Args:
        base: the counters of its stream at activation; they count from the pipeline's start.
    """

    def __init__(self, base: Stats | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.final: Stats | None = None
        self.calibration: Calibration | None = None
        self._base = base
        self._clock = clock
        self._began = clock()
        self._frame_at = self._result_at = -_NEVER
        self._stamp_age_s = 0.0
        self._errors, self._last_error = 0, ""
        # Since when images have come without futures, and since when without surprise; None: the last had it.
        self._unforeseen_at: float | None = None
        self._unjudged_at: float | None = None
        # Of late results, now and at most since the last verdict.
        self._miss_run = self._longest = 0
        self._before: Health | None = None
        self._samples_ms = SampleWindow(_TIMES)

    def frame_came(self) -> None:
        """An image arrived, fit or not."""
        self._frame_at = self._clock()

    def frame_is_fit(self, stamp_age_s: float) -> None:
        """It is going to be processed; so old is its stamp."""
        self._stamp_age_s = stamp_age_s

    def error_came(self, error: Exception) -> None:
        """Something went wrong, with an image or beside them."""
        self._errors, self._last_error = self._errors + 1, str(error) or type(error).__name__

    def result_came(self, result: Result) -> None:
        """An image was processed."""
        self._result_at = self._clock()
        if result.futures is not None:
            self._unforeseen_at = None
        elif self._unforeseen_at is None:
            self._unforeseen_at = self._result_at
        if result.surprise is not None:
            self._unjudged_at = None
        elif self._unjudged_at is None:
            self._unjudged_at = self._result_at
        self.calibration = result.calibration or self.calibration
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
    ) -> tuple[Verdict, dict[str, Any]]:
        """The verdict on the time since the last call, and the figures it rests on."""
        if fault:
            return Verdict(Level.ERROR, fault), {}
        if not active or stats is None:
            return Verdict(Level.OK, "not active" if stats else "not configured"), {}
        now = self._health(stats, bad_frames)
        self._longest = self._miss_run
        if now.frame_age_s > limits["stale_after_s"]:
            # After a silence a history begins anew.
            self._unforeseen_at = self._unjudged_at = None
        before = self._before or Health(active_for_s=0.0, frame_age_s=_NEVER, result_age_s=_NEVER)
        self._before = now
        figures = {name: value for name, value in asdict(now).items() if name != "bad_frames"}
        figures |= {f"bad_frames/{reason}": count for reason, count in bad_frames.items()}
        if self.calibration is not None:
            figures |= figures_of(self.calibration)
        if (sample := self._samples_ms.last()) is not None:
            figures |= {f"{stage}_ms": round(float(sample[stage]), 3) for stage in STAGES}
        return assess(
            now,
            before,
            Limits(
                deadline_ms=limits["deadline_ms"],
                max_miss_run=limits["max_miss_run"],
                stale_after_s=limits["stale_after_s"],
            ),
        ), figures

    def report(self) -> dict[str, Any]:
        """Counters, every sample of the stage clocks [ms], and how often error bounds held; None: nothing
        was predicted."""
        found = self._samples_ms.latest()
        samples = {stage: rounded(found[stage]) for stage in STAGES} if len(found) else {}
        counters = {} if self.final is None else self._since_base(self.final)
        known = self.calibration
        return {
            "counters": counters,
            "samples_ms": samples,
            "error_bounds": None if known is None else report_of(known),
        }

    def _health(self, stats: Stats, bad_frames: dict[str, int]) -> Health:
        # Set on the inference thread.
        unforeseen_at, unjudged_at = self._unforeseen_at, self._unjudged_at
        moment, since = self._clock(), self._since_base(stats)
        return Health(
            active_for_s=round(moment - self._began, 3),
            frame_age_s=round(moment - self._frame_at, 3),
            result_age_s=round(moment - self._result_at, 3),
            unforeseen_s=0.0 if unforeseen_at is None else round(moment - unforeseen_at, 3),
            unjudged_s=0.0 if unjudged_at is None else round(moment - unjudged_at, 3),
            stamp_age_s=round(self._stamp_age_s, 3),
            received=since["received"] + sum(bad_frames.values()),
            processed=since["processed"],
            dropped=since["dropped"],
            failed=since["failed"],
            undelivered=since["callback_errors"],
            errors=self._errors,
            deadline_misses=since["deadline_misses"],
            miss_run=self._longest,
            bad_frames=dict(bad_frames),
            last_error=self._last_error,
        )

    def _since_base(self, stats: Stats) -> dict[str, Any]:
        counters = asdict(stats)
        if self._base is not None:
            for name in ("received", "processed", "dropped", "failed", "callback_errors", "deadline_misses"):
                counters[name] -= getattr(self._base, name)
        return counters


class CameraStream:
    """One camera of the node: where its images come from, how they are read, what is published about them.

    Args:
        topic: of its images; it names the camera's stream in the pipeline too.
        alone: the node has no other camera: its topics are not told apart by its name.

    Attributes:
        goal_topic: of the images of its goal.
        prefix: of the topics of its results.
        label: its name in the diagnostics.
        outputs: its publishers by type of message.
        futures: makes the largest of these messages.
        clock: where the time of its images goes.
        publishers: on the topic of its images; 0: not counted yet.
        reader, watch: how its images are read and served in this activation.
    """

    clock: StageClock

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
        """A new activation: forget what came before; ``base`` are the stream's counters now."""
        self.reader = ImageReader()
        self.watch = StreamWatch(base)

    def count_publishers(self, node: Node) -> None:
        """Count who sends its images. A driver sends them raw and compressed."""
        self.publishers = max(node.count_publishers(topic) for topic in self._image_topics(node))

    def _image_topics(self, node: Node) -> list[str]:
        return [node.resolve_topic_name(topic) for topic in (self.topic, f"{self.topic}/compressed")]

    def rivals(self, node: Node) -> list[str]:
        """Who else sends its images, or tells of them as ``node`` does, which is active."""
        return [
            *rivals(node, self._image_topics(node), "which is the camera?"),
            *rivals(node, [self.outputs[LatentState].topic_name], "who serves by the name of this node?"),
        ]

    def report(self) -> dict[str, Any]:
        """Counters and clocks of this activation."""
        return {"bad_frames": dict(self.reader.refused), **self.watch.report()}


def cameras_of(topics: Sequence[str]) -> dict[str, CameraStream]:
    """The cameras of a node by their topics.

    Raises:
        JepaRuntimeError: there is none, a topic is not a relative name, or two are the same.
    """
    if not topics or len(set(topics)) < len(topics):
        raise JepaRuntimeError(
            f"parameter cameras must name at least one topic, each once, got {list(topics)}"
        )
    for topic in topics:
        require_relative(topic, "cameras")
    return {topic: CameraStream(topic, alone=len(topics) == 1) for topic in topics}


def camera_named(cameras: Mapping[str, CameraStream], topic: str) -> CameraStream:
    """The camera whose images come on ``topic``; empty: the only one.

    Raises:
        JepaRuntimeError: there is none, or there are several to choose from.
    """
    if not topic and len(cameras) == 1:
        return next(iter(cameras.values()))
    if topic not in cameras:
        raise JepaRuntimeError(f"camera must be one of {', '.join(cameras)}, got {topic!r}")
    return cameras[topic]
