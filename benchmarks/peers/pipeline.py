"""The pipeline of jepa_runtime, back to back: each frame is submitted with the result of the last."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import numpy as np
from serving import STAGES, WARM_UP, Task, serve

from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions
from jepa_runtime.serving import Pipeline, Result
from jepa_runtime.sources import Frame
from jepa_runtime.telemetry import peak_rss_mb

_PATIENCE_S = 300.0


class _BackToBack:
    def __init__(self, task: Task) -> None:
        task.graph("encoder", "openvino")
        manifest = task.bundle.manifest
        self._images = task.images
        # Stamps of a camera, so that work done once per step is done as often as on a robot.
        rate_hz, step_s = manifest.io.frame.rate_hz, manifest.io.step_s
        self._period_ns = round(1e9 / rate_hz)
        # The past context must be full before anything is predicted.
        self._uncounted = WARM_UP + math.ceil((manifest.history_size - 1) * step_s * rate_hz) + 1
        self._sequence = self._remaining = self._count = 0
        self._submitted = self._cpu_s = 0.0
        self._clocks: list[tuple[float, dict[str, float]]] = []
        self._failure: Exception | None = None
        self._done = threading.Event()
        options = BackendOptions(threads=task.threads)
        began = time.perf_counter()
        self._pipeline = Pipeline(
            lambda: WorldModel.open(
                task.bundle, precision=task.precision, options=options, allow_untrained=True
            ),
            on_result=self._take,
            on_error=self._fail,
        )
        self._pipeline.start()
        if manifest.history_size > 1:
            # Predictions from several frames need the actions between them.
            self._pipeline.add_action(0, np.zeros(manifest.action_size, np.float32))
        self.facts: dict[str, Any] = {"open_s": round(time.perf_counter() - began, 3)}

    def run(self, count: int) -> dict[str, Any]:
        """See :class:`serving.Server`."""
        self._clocks, self._count, self._remaining = [], count, self._uncounted + count
        self._done.clear()
        self._submit()
        if not self._done.wait(_PATIENCE_S):
            raise TimeoutError(f"{self._remaining} frames remained after {_PATIENCE_S:g} s")
        if self._failure is not None:
            raise self._failure
        return {
            "latency_ms": [latency for latency, _ in self._clocks],
            "stages_ms": {
                name: [stages[name] for _, stages in self._clocks] for name in (*STAGES, "surprise")
            },
            "cpu_s": self._cpu_s,
            "peak_rss_mb": peak_rss_mb(),
        }

    def _submit(self) -> None:
        image = self._images[self._sequence % len(self._images)]
        frame = Frame(image, self._sequence * self._period_ns, "benchmark", self._sequence)
        self._sequence += 1
        self._submitted = time.perf_counter()
        self._pipeline.submit(frame)

    def _take(self, result: Result) -> None:
        latency_ms = (time.perf_counter() - self._submitted) * 1e3
        self._remaining -= 1
        if self._remaining == self._count:
            self._cpu_s = time.process_time()
        elif self._remaining < self._count:
            assert result.futures is not None, "a frame with a full past context has no futures"
            # Only the times of each result: retained futures would cost each next frame new memory.
            self._clocks.append((latency_ms, result.timings_ms))
        if self._remaining:
            self._submit()
        else:
            self._cpu_s = time.process_time() - self._cpu_s
            self._done.set()

    def _fail(self, error: Exception, _: Frame | None) -> None:
        self._failure = error
        self._done.set()


if __name__ == "__main__":
    serve(_BackToBack)
