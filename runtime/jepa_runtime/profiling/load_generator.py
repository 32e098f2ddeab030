"""The load generator of a profile: open loop, closed loop, sweep and idle gaps.

Frames are preloaded and played in a loop, so that a decoder does not delay the schedule. In open loop, frame
i is scheduled at i / rate, independently of earlier frames, and its latency counts from then: a load that
waits for results omits the moments at which results are late (Tene, "How NOT to measure latency").

A model that reads the state of the robot gets a state of zeros with each frame.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from threading import Event
from typing import cast

import numpy as np

from jepa_runtime.bundle import Manifest
from jepa_runtime.errors import ProfileError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.profiling.profile import IdleGap, Run, Sweep, copy_absent_reason
from jepa_runtime.profiling.sweep import run_sweep
from jepa_runtime.serving.pipeline import STAGES, Pipeline, Result
from jepa_runtime.sources.base import Frame, Image
from jepa_runtime.sources.factory import open_source
from jepa_runtime.util.opencv import cv2
from jepa_runtime.util.statistics import Summary, summarize

# Of a camera.
_DEFAULT_RATE_HZ = 30.0
_MAX_FRAMES, _MAX_BYTES = 90, 64_000_000
_RECENT = 300
_TIMEOUT_S = 10.0
_LEAD_NS = 20_000_000
# Rates of a sweep, relative to that of the closed loop.
_SWEEP_RATIOS = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)


def default_rate_hz(manifest: Manifest) -> float:
    """Return the rate of a schedule: 30 Hz; with clips, where each frame completes a step, that of steps."""
    return _DEFAULT_RATE_HZ if manifest.io.clip is None else 1 / manifest.io.step_s


@dataclass(frozen=True)
class Workload:
    """Frames to play in a loop, uint8 [h, w, 3] RGB, and the mean time to read one [ms]."""

    name: str
    frames: Sequence[Image]
    read_ms: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames."""
        height, width = self.frames[0].shape[:2]
        return width, height

    @classmethod
    def read(cls, source: str, *, rate_hz: float, size: tuple[int, int] | None = None) -> Workload:
        """Read the first frames of a source, at most 90 and 64 MB.

        Args:
            source: See :func:`jepa_runtime.sources.factory.open_source`.
            rate_hz: The rate of a source that has none.
            size: Width and height to scale to (default: unchanged).

        Raises:
            SourceError: The source does not exist or cannot be read.
            ProfileError: The source has no frames.
        """
        frames: list[Image] = []
        with closing(open_source(source, rate_hz=rate_hz)) as opened:
            for frame in islice(opened.frames(), _MAX_FRAMES):
                if not frames:
                    # A source may read ahead before the first frame.
                    began = time.perf_counter()
                frames.append(frame.image if size is None else _scaled(frame.image, size))
                if sum(image.nbytes for image in frames) > _MAX_BYTES:
                    break
            name = opened.name
        if not frames:
            raise ProfileError(f"{source}: has no frames", code="profile.no_frames")
        return cls(name, frames, (time.perf_counter() - began) * 1e3 / max(1, len(frames) - 1))


@dataclass(frozen=True)
class Snapshot:
    """The state of an open-loop pass: frames sent, total, and latencies [ms] of the last ones."""

    sent: int
    of: int
    recent: Summary


class LoadGenerator:
    """A pipeline under load: a context manager that opens and closes the model.

    Args:
        open_model: See :class:`~jepa_runtime.serving.pipeline.Pipeline`.
        workload: The frames.
        stopping: When it is set, the current pass ends; its measurements count.
        with_goal: Whether the first frame of ``workload`` is the goal, to which every frame is compared.

    Attributes:
        began_s: Scheduled time of the first frame of the last open loop, by ``time.monotonic``.
    """

    def __init__(
        self,
        open_model: Callable[[], WorldModel],
        workload: Workload,
        *,
        stopping: Event,
        with_goal: bool = False,
    ) -> None:
        self._workload = workload
        self._with_goal = with_goal
        self._stopping = stopping
        self._pipeline = Pipeline(open_model, on_result=self._take, on_error=self._fail)
        self.began_s = 0.0
        self._sequence = self._stamp_ns = 0
        # Only the times of each result: retained futures would need new memory for each frame.
        self._results: dict[int, tuple[int, dict[str, float], dict[str, float]]] = {}
        self._failed: dict[int, str] = {}
        self._arrived = Event()

    def __enter__(self) -> LoadGenerator:
        self._pipeline.start()
        manifest = self.model.manifest
        self._step_s = manifest.io.step_s
        self._step_images = 1 if manifest.io.clip is None else manifest.io.clip.frames_per_step
        # A constant action (standing still), so that each frame is compared with its prediction.
        self._pipeline.add_action(0, np.zeros(manifest.action_size, np.float32))
        if self._with_goal:
            self._pipeline.set_goal(self._workload.frames[0])
        # Of a model that reads clips, each frame of the schedule completes a step.
        for _ in range(manifest.io.encoder_frames - self._step_images):
            self._submit_image(round(manifest.io.frame_interval_s * 1e9))
        return self

    def __exit__(self, *_: object) -> None:
        self._pipeline.stop()

    @property
    def model(self) -> WorldModel:
        """The open model."""
        return self._pipeline.model

    def open_loop(
        self,
        rate_hz: float,
        duration_s: float,
        *,
        deadline_ms: float | None = None,
        tick: Callable[[Snapshot], None] | None = None,
        on_last_result: Callable[[], None] = lambda: None,
        align_stamps: bool = False,
    ) -> Run:
        """Send frames on a fixed schedule. Frames that fill the history precede it.

        Args:
            rate_hz: The rate of the schedule.
            duration_s: Its duration.
            deadline_ms: The deadline of a frame.
            tick: Called twice per second.
            on_last_result: Called after the last result, before the summary, which takes time and memory.
            align_stamps: Stamp frames so that each is one step after another, at any rate. Otherwise frames
                may have no futures and no surprise, the most expensive outputs.

        Raises:
            ProfileError: No frame was processed.
        """
        period_ns = round(1e9 / rate_hz)
        reads_clips = self.model.manifest.io.clip is not None
        stamps_ns = self._aligned_period_ns(rate_hz) if align_stamps or reads_clips else period_ns
        lead = self._lead_frames(stamps_ns)
        count = count_frames(rate_hz, duration_s)
        scheduled: dict[int, int] = {}
        sent: dict[int, int] = {}
        for _ in range(lead):
            if self._stopping.wait(period_ns / 1e9):
                break
            # None may be dropped: the first frames of the schedule would have no prediction.
            self._submit_and_wait(stamps_ns)
        start_ns = time.perf_counter_ns() + _LEAD_NS
        self.began_s = time.monotonic() + _LEAD_NS / 1e9
        for index in range(count):
            scheduled_ns = start_ns + index * period_ns
            if self._stopping.wait(max(0.0, (scheduled_ns - time.perf_counter_ns()) / 1e9)):
                break
            sent_ns = time.perf_counter_ns()
            sequence = self._submit(stamps_ns)
            scheduled[sequence], sent[sequence] = scheduled_ns, sent_ns
            if tick is not None and index % max(1, round(rate_hz / 2)) == 0:
                tick(Snapshot(index, count, self._recent(scheduled)))
        self._pipeline.wait_idle(_TIMEOUT_S)
        on_last_result()
        return self._run(rate_hz, deadline_ms, scheduled, sent)

    def closed_loop(self, duration_s: float) -> Run:
        """Send each frame when the previous one has a result: the highest rate, without waiting times.

        Raises:
            ProfileError: No frame was processed, or one took longer than 10 s.
        """
        period_ns = self._aligned_period_ns(self.model.manifest.io.frame.rate_hz)
        lead = self._lead_frames(period_ns)
        sent: dict[int, int] = {}
        until_ns = None
        while until_ns is None or time.perf_counter_ns() < until_ns:
            if len(sent) == lead:
                until_ns = time.perf_counter_ns() + round(duration_s * 1e9)
            if self._stopping.is_set():
                break
            now_ns = time.perf_counter_ns()
            sent[self._process_one(period_ns)] = now_ns
        counted = {key: sent[key] for key in list(sent)[lead:]}
        return self._run(None, None, counted, counted)

    def sweep(
        self,
        fastest_hz: float,
        seconds: float,
        *,
        tick: Callable[[float], None] = lambda _: None,
        on_early_end: Callable[[str], None] = lambda _: None,
    ) -> Sweep:
        """Run open-loop passes at rates up to slightly more than ``fastest_hz``.

        Args:
            fastest_hz: The rate of the closed loop.
            seconds: Duration of each pass.
            tick: Called with the rate before each pass.
            on_early_end: See :func:`~jepa_runtime.profiling.sweep.run_sweep`.
        """

        def measure(rate_hz: float) -> Run:
            tick(rate_hz)
            return self.open_loop(rate_hz, seconds, deadline_ms=1e3 / rate_hz, align_stamps=True)

        rates_hz = (round(ratio * fastest_hz, 1) or 0.1 for ratio in _SWEEP_RATIOS)
        return run_sweep(measure, rates_hz, self._stopping, on_early_end=on_early_end)

    def idle_gap(self, gap_s: float, repetitions: int) -> IdleGap:
        """Measure the latency of the first frame after an idle gap of ``gap_s``."""
        latencies: list[float] = []
        period_ns = self._aligned_period_ns(self.model.manifest.io.frame.rate_hz)
        lead = self._lead_frames(period_ns)
        for _ in range(repetitions):
            for _ in range(lead):
                self._process_one(period_ns)
            if self._stopping.wait(gap_s):
                break
            began_ns = time.perf_counter_ns()
            finished_ns, *_ = self._results[self._process_one(period_ns)]
            latencies.append((finished_ns - began_ns) / 1e6)
        return IdleGap(gap_s=gap_s, latency_ms=latencies)

    def _recent(self, scheduled: dict[int, int]) -> Summary:
        results, latest = self._results, range(self._sequence, self._sequence - _RECENT, -1)
        return summarize(
            (results[key][0] - scheduled[key]) / 1e6 for key in latest if key in results and key in scheduled
        )

    def _lead_frames(self, period_ns: int) -> int:
        """Return the number of frames before the schedule.

        They fill the history, plus one step for the first surprise.
        """
        return math.ceil(self.model.manifest.history_size * self._step_s * 1e9 / period_ns) + 2

    def _aligned_period_ns(self, rate_hz: float) -> int:
        """Return the period nearest to ``rate_hz`` of which a step is a multiple; with clips, a step."""
        if self.model.manifest.io.clip is not None:
            return round(self._step_s * 1e9)
        return round(self._step_s * 1e9 / max(1, round(self._step_s * rate_hz)))

    def _submit(self, period_ns: int) -> int:
        """Submit a frame, after the images between it and the previous one that a clip needs."""
        for _ in range(self._step_images):
            sequence = self._submit_image(period_ns // self._step_images)
        return sequence

    def _submit_image(self, period_ns: int) -> int:
        self._sequence += 1
        self._stamp_ns += period_ns
        image = self._workload.frames[self._sequence % len(self._workload.frames)]
        if size := self.model.manifest.state_size:
            self._pipeline.add_state(self._stamp_ns, np.zeros(size, np.float32))
        self._pipeline.submit(Frame(image, self._stamp_ns, "profile", self._sequence))
        return self._sequence

    def _process_one(self, period_ns: int) -> int:
        """Submit one frame, wait for its result, and return its sequence number."""
        sequence = self._submit_and_wait(period_ns)
        if sequence in self._failed:
            raise ProfileError(f"a frame failed: {self._failed[sequence]}", code="profile.frame_failed")
        return sequence

    def _submit_and_wait(self, period_ns: int) -> int:
        """Submit one frame and wait until it has a result or failed."""
        self._arrived.clear()
        sequence = self._submit(period_ns)
        if not self._arrived.wait(_TIMEOUT_S):
            raise ProfileError(f"no result within {_TIMEOUT_S:g} s: the engine hangs", code="profile.timeout")
        return sequence

    def _take(self, result: Result) -> None:
        self._results[result.sequence] = time.perf_counter_ns(), result.timings_ms, result.device_ms
        self._arrived.set()

    def _fail(self, error: Exception, frame: Frame | None) -> None:
        if frame is not None:
            self._failed[frame.sequence] = f"{type(error).__name__}: {error}"
            self._arrived.set()

    def _run(
        self,
        rate_hz: float | None,
        deadline_ms: float | None,
        scheduled: dict[int, int],
        sent: dict[int, int],
    ) -> Run:
        """Return the run of the scheduled frames, and clear the results."""
        results, failed = self._results, self._failed
        self._results, self._failed = {}, {}
        done = [key for key in scheduled if key in results]
        if not done:
            reason = next(iter(failed.values()), "no results" if scheduled else "the pass was stopped")
            raise ProfileError(
                f"none of {len(scheduled)} frames was processed: {reason}", code="profile.no_frame_processed"
            )
        start_ns = min(scheduled.values())
        ends_ns, timings, device = zip(*(results[key] for key in done), strict=True)
        stages = {"receive": [(sent[key] - scheduled[key]) / 1e6 for key in done]}
        for stage in STAGES[:-1]:
            samples = [times[stage] for times in timings]
            if any(samples):
                stages[stage] = samples
        unpaired = f"no frame was one step ({self._step_s:g} s) after another"
        if rate_hz is not None:
            unpaired += f": use a multiple of {1 / self._step_s:.4g} Hz"
        absent = _ABSENT | {
            "copy": copy_absent_reason(self.model.engine, self.model.device),
            "predict": unpaired, "energy": "no goal was set", "surprise": unpaired,
        }  # fmt: skip
        if self.model.reads_poses:
            absent["relative_pose"] = absent["energy"]

        def moments_s(keys: Iterable[int]) -> list[float]:
            return [round((scheduled[key] - start_ns) / 1e9, 7) for key in keys]

        return Run(
            rate_hz=rate_hz,
            deadline_ms=deadline_ms,
            duration_s=(max(ends_ns) - start_ns) / 1e9,
            scheduled_s=moments_s(done),
            latency_ms=[
                round((end - scheduled[key]) / 1e6, 4) for key, end in zip(done, ends_ns, strict=True)
            ],
            stages_ms={name: [round(value, 4) for value in values] for name, values in stages.items()},
            dropped_s=moments_s(key for key in scheduled if key not in results and key not in failed),
            failed_s=moments_s(key for key in scheduled if key in failed),
            device_ms={
                stage: [round(times.get(stage, 0.0), 4) for times in device]
                for stage in dict.fromkeys(stage for times in device for stage in times)
            },
            absent={stage: reason for stage, reason in absent.items() if stage not in stages},
        )


_ABSENT = {
    "transport": "no messages without ROS 2 (--ros)",
    "decode": "frames were preloaded",
    "message": "no messages without ROS 2 (--ros)",
    "publish": "no messages without ROS 2 (--ros)",
}


def count_frames(rate_hz: float, duration_s: float) -> int:
    """Return the number of frames of an open loop that is not stopped."""
    return max(1, round(duration_s * rate_hz))


def _scaled(image: Image, size: tuple[int, int]) -> Image:
    return cast(Image, cv2.resize(image, size, interpolation=cv2.INTER_AREA))
