"""The measurements of a run, collected while it runs."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from threading import Lock
from typing import Any

from jepa_runtime.serving.pipeline import STAGES, Result
from jepa_runtime.util.statistics import Summary, summarize

_RECENT = 300
MAX_SAMPLES = 500_000

STAGE_DESCRIPTIONS = {
    "total": "total (frame submitted to result)",
    "wait": "wait in the mailbox",
    "preprocess": "preprocess (resize, copy)",
    "encode": "encode",
    "predict": "predict all futures",
    "energy": "energy to the goal",
    "relative_pose": "pose of the goal",
    "surprise": "surprise (one-step prediction)",
}


class Collector:
    """Collects stage times and surprises. Results come from one thread; readers may use another.

    Memory grows by about 80 bytes per frame, 9 MB per hour at 30 Hz, up to ``max_samples`` frames.

    Args:
        clock_ns: The clock.
        max_samples: Number of latest samples to retain of each stage.
    """

    def __init__(
        self, clock_ns: Callable[[], int] = time.perf_counter_ns, *, max_samples: int = MAX_SAMPLES
    ) -> None:
        self._clock_ns, self._max_samples = clock_ns, max_samples
        self._lock = Lock()
        self._start_ns: int | None = None
        self._stages = {stage: array("d") for stage in ("total", *STAGES)}
        self._times_s = array("d")
        self._surprises = array("d")
        self._surprising = array("b")
        self._latest: Result | None = None

    def add(self, result: Result) -> None:
        """Add a result; stages that it skipped do not count as zero."""
        now_ns = self._clock_ns()
        with self._lock:
            if self._start_ns is None:
                self._start_ns = now_ns
            self._times_s.append((now_ns - self._start_ns) / 1e9)
            outputs = {
                "predict": result.futures,
                "energy": result.current_energy,
                "relative_pose": result.goal_pose,
                "surprise": result.surprise,
            }
            for stage, samples in self._stages.items():
                if outputs.get(stage, result) is not None:
                    samples.append(result.timings_ms[stage])
            if result.surprise is not None:
                self._surprises.append(result.surprise)
                self._surprising.append(result.surprising)
            self._latest = result
            series: list[array[Any]] = [self._times_s, self._surprises, self._surprising]
            for samples in (*series, *self._stages.values()):
                if len(samples) > self._max_samples:
                    # A tenth at a time, because deletion moves all other samples.
                    del samples[: self._max_samples // 10 + 1]

    @property
    def latest(self) -> Result | None:
        """The last result."""
        with self._lock:
            return self._latest

    @property
    def times_s(self) -> list[float]:
        """The time of each result in seconds after the first."""
        with self._lock:
            return self._times_s.tolist()

    def stages_ms(self) -> dict[str, list[float]]:
        """Return all samples by stage, ``total`` first, without stages that never ran."""
        with self._lock:
            return {
                stage: samples.tolist()
                for stage, samples in self._stages.items()
                if len(samples) or stage == "total"
            }

    def recent(self) -> tuple[dict[str, Summary], float | None]:
        """Return summaries of the last samples by stage, and their rate in Hz."""
        with self._lock:
            stages = {name: samples[-_RECENT:] for name, samples in self._stages.items() if len(samples)}
            times = self._times_s[-_RECENT:]
        return {name: summarize(samples) for name, samples in stages.items()}, _rate(times)

    def rate_hz(self) -> float | None:
        """Return the rate of the retained results, or None if it is undefined."""
        with self._lock:
            return _rate(self._times_s)

    def surprise(self) -> tuple[Summary, int]:
        """Return the summary of the surprises, and how many exceeded the threshold."""
        with self._lock:
            return summarize(self._surprises), sum(self._surprising)


def _rate(times_s: array[float]) -> float | None:
    if not times_s or times_s[-1] <= times_s[0]:
        return None
    return (len(times_s) - 1) / (times_s[-1] - times_s[0])
