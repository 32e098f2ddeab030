"""What the world_model node knows about how it serves: ages, counters and clocks, for diagnostics and the
report."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from jepa_ros.diagnostics import Health, Level, Limits, Verdict, judge
from jepa_runtime.pipeline import Result, Stats

_MAX_SAMPLES = 100_000
_NEVER = float("inf")


class Watch:
    """Watches one activation of the node.

    Args:
        base: the pipeline's counters at activation; they count from its start.
    """

    def __init__(self, base: Stats | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.last_error = ""
        self.final: Stats | None = None
        self._base = base
        self._clock = clock
        self._began = clock()
        self._frame_at = self._result_at = -_NEVER
        self._miss_run = 0
        self._before: Health | None = None
        self._samples_ms: deque[dict[str, float]] = deque(maxlen=_MAX_SAMPLES)

    def frame_came(self) -> None:
        """An image arrived, fit or not."""
        self._frame_at = self._clock()

    def result_came(self, result: Result) -> None:
        """An image was processed."""
        self._result_at = self._clock()
        self._miss_run = self._miss_run + 1 if result.deadline_missed else 0
        self._samples_ms.append(result.timings_ms)

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
            self._before = None
            return Verdict(Level.OK, "not active" if stats else "not configured"), {}
        now = self._health(stats, bad_frames)
        before = self._before or Health(active_for_s=0.0, frame_age_s=_NEVER, result_age_s=_NEVER)
        self._before = now
        figures = {name: value for name, value in asdict(now).items() if name != "bad_frames"}
        figures |= {f"bad_frames/{reason}": count for reason, count in bad_frames.items()}
        if self._samples_ms:
            figures |= {f"{stage}_ms": round(value, 3) for stage, value in self._samples_ms[-1].items()}
        return judge(
            now,
            before,
            Limits(
                deadline_ms=limits["deadline_ms"],
                max_miss_run=limits["max_miss_run"],
                stale_after_s=limits["stale_after_s"],
            ),
        ), figures

    def report(self) -> dict[str, Any]:
        """Counters and every sample of the stage clocks [ms]."""
        stages = self._samples_ms[-1].keys() if self._samples_ms else ()
        samples = {stage: [round(sample[stage], 3) for sample in self._samples_ms] for stage in stages}
        counters = {} if self.final is None else self._since_base(self.final)
        return {"counters": counters, "samples_ms": samples}

    def _health(self, stats: Stats, bad_frames: dict[str, int]) -> Health:
        moment, since = self._clock(), self._since_base(stats)
        return Health(
            active_for_s=round(moment - self._began, 3),
            frame_age_s=round(moment - self._frame_at, 3),
            result_age_s=round(moment - self._result_at, 3),
            received=since["received"] + sum(bad_frames.values()),
            processed=since["processed"],
            dropped=since["dropped"],
            failed=since["failed"],
            deadline_misses=since["deadline_misses"],
            miss_run=self._miss_run,
            bad_frames=dict(bad_frames),
            last_error=self.last_error,
        )

    def _since_base(self, stats: Stats) -> dict[str, Any]:
        counters = asdict(stats)
        if self._base is not None:
            for name in ("received", "processed", "dropped", "failed", "callback_errors", "deadline_misses"):
                counters[name] -= getattr(self._base, name)
        return counters
