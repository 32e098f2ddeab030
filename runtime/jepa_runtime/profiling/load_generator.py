"""Puts a load on the pipeline and keeps what every frame went through: the passes of a profile.

Frames are read ahead and shown in turn: a schedule that waits for a decoder is not a schedule. In open loop,
frame i is due at i / rate whatever became of those before it, and its latency counts from then (Tene, "How
NOT to measure latency": a load that waits for answers omits the very moments at which the answers are late).
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

from jepa_runtime.errors import ProfileError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.profiling.profile import IdleGap, Run, Sweep, why_no_copy
from jepa_runtime.profiling.sweep import sweep
from jepa_runtime.serving.pipeline import STAGES, Pipeline, Result
from jepa_runtime.sources.base import Frame, Image
from jepa_runtime.sources.factory import open_source
from jepa_runtime.util.opencv import cv2
from jepa_runtime.util.statistics import Summary, summarize

_MAX_FRAMES, _MAX_BYTES = 90, 64_000_000
_RECENT = 300
_PATIENCE_S = 10.0
_LEAD_NS = 20_000_000
# Rates of a sweep, as shares of what closed loop reached.
_SHARES = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)


@dataclass(frozen=True)
class Workload:
    """Frames to show in turn, uint8 [h, w, 3] RGB, and what reading one took (ms, mean)."""

    name: str
    frames: Sequence[Image]
    read_ms: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        height, width = self.frames[0].shape[:2]
        return width, height

    @classmethod
    def read(cls, source: str, *, rate_hz: float, size: tuple[int, int] | None = None) -> Workload:
        """The first frames of a source, at most 90 and 64 MB.

        Args:
            source: see :func:`jepa_runtime.sources.factory.open_source`.
            size: width and height to scale to; None: as they come.

        Raises:
            SourceError: there is no such source, or it cannot be read.
            ProfileError: it has no frames.
        """
        frames: list[Image] = []
        began = time.perf_counter()
        with closing(open_source(source, rate_hz=rate_hz)) as opened:
            for frame in islice(opened.frames(), _MAX_FRAMES):
                frames.append(frame.image if size is None else _scaled(frame.image, size))
                if sum(image.nbytes for image in frames) > _MAX_BYTES:
                    break
            name = opened.name
        if not frames:
            raise ProfileError(f"{source}: has no frames to measure with")
        return cls(name, frames, (time.perf_counter() - began) * 1e3 / len(frames))


@dataclass(frozen=True)
class Snapshot:
    """An open-loop pass at one moment: frames sent, of how many; latencies (ms) of the last of them."""

    sent: int
    of: int
    recent: Summary


class LoadGenerator:
    """A pipeline under load; enter it to open the model, leave it to close.

    Args:
        open_model: see :class:`~jepa_runtime.serving.pipeline.Pipeline`.
        workload: what is shown to it.
        stopping: set from elsewhere to end the pass in work; what was measured is kept.

    Attributes:
        began_s: when the first frame that counts was due in the last open loop, by ``time.monotonic``.
    """

    def __init__(self, open_model: Callable[[], WorldModel], workload: Workload, *, stopping: Event) -> None:
        self._workload = workload
        self._stopping = stopping
        self._pipeline = Pipeline(open_model, on_result=self._take, on_error=self._fail)
        self.began_s = 0.0
        self._sequence = self._stamp_ns = 0
        # Of each result its clocks only: futures kept would cost each next frame fresh memory.
        self._results: dict[int, tuple[int, dict[str, float], dict[str, float]]] = {}
        self._failed: dict[int, str] = {}
        self._arrived = Event()

    def __enter__(self) -> LoadGenerator:
        self._pipeline.start()
        manifest = self.model.manifest
        self._step_s = manifest.io.step_s
        # The robot stands still: with a known action every frame is compared with what was predicted.
        self._pipeline.add_action(0, np.zeros(manifest.action_size, np.float32))
        return self

    def __exit__(self, *_: object) -> None:
        self._pipeline.stop()

    @property
    def model(self) -> WorldModel:
        """The open model, to read what it is."""
        return self._pipeline.model

    def open_loop(
        self,
        rate_hz: float,
        duration_s: float,
        *,
        deadline_ms: float | None = None,
        tick: Callable[[Snapshot], None] | None = None,
        over: Callable[[], None] = lambda: None,
        in_step: bool = False,
    ) -> Run:
        """Frames on a fixed schedule for ``duration_s``. The frames that fill the history come before it.

        Args:
            tick: called twice a second.
            over: called when no more results come, before the run is summed up, which costs time and memory.
            in_step: stamp frames so that each has another a step before it, whatever the rate: without one
                there are no futures and no surprise, and what costs most is not measured.

        Raises:
            ProfileError: no frame was processed.
        """
        period_ns = round(1e9 / rate_hz)
        stamps_ns = self._in_step_ns(rate_hz) if in_step else period_ns
        lead = self._lead(stamps_ns)
        count = count_frames(rate_hz, duration_s)
        due: dict[int, int] = {}
        sent: dict[int, int] = {}
        for _ in range(lead):
            if self._stopping.wait(period_ns / 1e9):
                break
            # None may be dropped: the first frames that count would have no prediction.
            self._submit_and_wait(stamps_ns)
        start_ns = time.perf_counter_ns() + _LEAD_NS
        self.began_s = time.monotonic() + _LEAD_NS / 1e9
        for index in range(count):
            due_ns = start_ns + index * period_ns
            if self._stopping.wait(max(0.0, (due_ns - time.perf_counter_ns()) / 1e9)):
                break
            sent_ns = time.perf_counter_ns()
            sequence = self._submit(stamps_ns)
            due[sequence], sent[sequence] = due_ns, sent_ns
            if tick is not None and index % max(1, round(rate_hz / 2)) == 0:
                tick(Snapshot(index, count, self._recent(due)))
        self._pipeline.wait_idle(_PATIENCE_S)
        over()
        return self._run(rate_hz, deadline_ms, due, sent)

    def closed_loop(self, duration_s: float) -> Run:
        """Each frame comes with the result of the last: the highest rate, and no waiting to be seen.

        Raises:
            ProfileError: no frame was processed, or one took longer than 10 s.
        """
        period_ns = self._in_step_ns(self.model.manifest.io.frame.rate_hz)
        lead = self._lead(period_ns)
        sent: dict[int, int] = {}
        until_ns = None
        while until_ns is None or time.perf_counter_ns() < until_ns:
            if len(sent) == lead:
                until_ns = time.perf_counter_ns() + round(duration_s * 1e9)
            if self._stopping.is_set():
                break
            now_ns = time.perf_counter_ns()
            sent[self._one(period_ns)] = now_ns
        counted = {key: sent[key] for key in list(sent)[lead:]}
        return self._run(None, None, counted, counted)

    def sweep(
        self,
        fastest_hz: float,
        seconds: float,
        *,
        tick: Callable[[float], None] = lambda _: None,
        ended: Callable[[str], None] = lambda _: None,
    ) -> Sweep:
        """Open-loop passes up to a little more than ``fastest_hz``, each told to ``tick`` before: see
        :func:`~jepa_runtime.profiling.sweep.sweep`."""

        def measure(rate_hz: float) -> Run:
            tick(rate_hz)
            return self.open_loop(rate_hz, seconds, deadline_ms=1e3 / rate_hz, in_step=True)

        rates_hz = (round(share * fastest_hz, 1) or 0.1 for share in _SHARES)
        return sweep(measure, rates_hz, self._stopping, ended=ended)

    def idle_gap(self, gap_s: float, repetitions: int) -> IdleGap:
        """Latency of the first frame after nothing was to do for ``gap_s``."""
        latencies: list[float] = []
        period_ns = self._in_step_ns(self.model.manifest.io.frame.rate_hz)
        lead = self._lead(period_ns)
        for _ in range(repetitions):
            for _ in range(lead):
                self._one(period_ns)
            if self._stopping.wait(gap_s):
                break
            began_ns = time.perf_counter_ns()
            finished_ns, *_ = self._results[self._one(period_ns)]
            latencies.append((finished_ns - began_ns) / 1e6)
        return IdleGap(gap_s=gap_s, latency_ms=latencies)

    def _recent(self, due: dict[int, int]) -> Summary:
        results, latest = self._results, range(self._sequence, self._sequence - _RECENT, -1)
        return summarize(
            (results[key][0] - due[key]) / 1e6 for key in latest if key in results and key in due
        )

    def _lead(self, period_ns: int) -> int:
        """How many frames come before the first that counts: they fill the history, and a step more, of which
        the first surprise is computed."""
        return math.ceil(self.model.manifest.history_size * self._step_s * 1e9 / period_ns) + 2

    def _in_step_ns(self, rate_hz: float) -> int:
        """Of the periods that a step is a multiple of, the one of the nearest rate."""
        return round(self._step_s * 1e9 / max(1, round(self._step_s * rate_hz)))

    def _submit(self, period_ns: int) -> int:
        self._sequence += 1
        self._stamp_ns += period_ns
        image = self._workload.frames[self._sequence % len(self._workload.frames)]
        self._pipeline.submit(Frame(image, self._stamp_ns, "profile", self._sequence))
        return self._sequence

    def _one(self, period_ns: int) -> int:
        """Submit one frame and wait for its result."""
        sequence = self._submit_and_wait(period_ns)
        if sequence in self._failed:
            raise ProfileError(f"a frame failed: {self._failed[sequence]}")
        return sequence

    def _submit_and_wait(self, period_ns: int) -> int:
        """Submit one frame and wait until it has a result, or has failed."""
        self._arrived.clear()
        sequence = self._submit(period_ns)
        if not self._arrived.wait(_PATIENCE_S):
            raise ProfileError(f"no result within {_PATIENCE_S:g} s: the engine hangs")
        return sequence

    def _take(self, result: Result) -> None:
        self._results[result.sequence] = time.perf_counter_ns(), result.timings_ms, result.device_ms
        self._arrived.set()

    def _fail(self, error: Exception, frame: Frame | None) -> None:
        if frame is not None:
            self._failed[frame.sequence] = f"{type(error).__name__}: {error}"
            self._arrived.set()

    def _run(
        self, rate_hz: float | None, deadline_ms: float | None, due: dict[int, int], sent: dict[int, int]
    ) -> Run:
        """What became of the frames that were due, and forget them."""
        results, failed = self._results, self._failed
        self._results, self._failed = {}, {}
        done = [key for key in due if key in results]
        if not done:
            told = next(iter(failed.values()), "the pass was stopped" if not due else "nothing came back")
            raise ProfileError(f"not one of {len(due)} frames was processed: {told}")
        start_ns = min(due.values())
        ends_ns, timings, device = zip(*(results[key] for key in done), strict=True)
        stages = {"receive": [(sent[key] - due[key]) / 1e6 for key in done]}
        for stage in STAGES[:-1]:
            samples = [times[stage] for times in timings]
            if any(samples):
                stages[stage] = samples
        alone = f"no image had another a step ({self._step_s:g} s) before it"
        if rate_hz is not None:
            alone += f": multiples of {1 / self._step_s:.4g} Hz fit"
        absent = _ABSENT | {
            "copy": why_no_copy(self.model.engine, self.model.device),
            "predict": alone, "energy": "no goal was set", "surprise": alone,
        }  # fmt: skip

        def moments_s(keys: Iterable[int]) -> list[float]:
            return [round((due[key] - start_ns) / 1e9, 7) for key in keys]

        return Run(
            rate_hz=rate_hz,
            deadline_ms=deadline_ms,
            duration_s=(max(ends_ns) - start_ns) / 1e9,
            scheduled_s=moments_s(done),
            latency_ms=[round((end - due[key]) / 1e6, 4) for key, end in zip(done, ends_ns, strict=True)],
            stages_ms={name: [round(value, 4) for value in values] for name, values in stages.items()},
            dropped_s=moments_s(key for key in due if key not in results and key not in failed),
            failed_s=moments_s(key for key in due if key in failed),
            device_ms={
                stage: [round(times.get(stage, 0.0), 4) for times in device]
                for stage in dict.fromkeys(stage for times in device for stage in times)
            },
            absent={stage: reason for stage, reason in absent.items() if stage not in stages},
        )


_ABSENT = {
    "transport": "no messages without ROS 2 (--ros)",
    "decode": "frames were read ahead",
    "message": "no messages without ROS 2 (--ros)",
    "publish": "no messages without ROS 2 (--ros)",
}


def count_frames(rate_hz: float, duration_s: float) -> int:
    """How many frames are due in an open loop that is not stopped."""
    return max(1, round(duration_s * rate_hz))


def _scaled(image: Image, size: tuple[int, int]) -> Image:
    return cast(Image, cv2.resize(image, size, interpolation=cv2.INTER_AREA))
