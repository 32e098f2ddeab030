"""The encoder of jepa_runtime alone, like a graph in benchmark_app: one frame after the other, with nothing
in between that would replace it in the caches."""

from __future__ import annotations

import time
from typing import Any

from serving import WARM_UP, Task, serve

from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions
from jepa_runtime.telemetry import peak_rss_mb


class _Encoder:
    def __init__(self, task: Task) -> None:
        task.graph("encoder", "openvino")
        began = time.perf_counter()
        self._images = task.images
        self._model = WorldModel.open(
            task.bundle,
            precision=task.precision,
            options=BackendOptions(threads=task.threads),
            allow_untrained=True,
        )
        self.facts: dict[str, Any] = {"open_s": round(time.perf_counter() - began, 3)}

    def run(self, count: int) -> dict[str, Any]:
        """See :class:`serving.Server`."""
        latency_ms, encode_ms, cpu_s = [], [], 0.0
        for number in range(WARM_UP + count):
            if number == WARM_UP:
                cpu_s = time.process_time()
            began = time.perf_counter()
            self._model.encode(self._images[number % len(self._images)])
            if number >= WARM_UP:
                latency_ms.append((time.perf_counter() - began) * 1e3)
                encode_ms.append(self._model.timings["encode"])
        return {
            "latency_ms": latency_ms,
            "stages_ms": {"encode": encode_ms},
            "cpu_s": time.process_time() - cpu_s,
            "peak_rss_mb": peak_rss_mb(),
        }


if __name__ == "__main__":
    serve(_Encoder)
