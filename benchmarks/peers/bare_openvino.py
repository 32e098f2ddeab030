"""OpenVINO's infer() on the encoder alone: the latency tail of the machine itself."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import openvino

from jepa_runtime.bundle import Bundle


def bare_infer(bundle: Path, threads: int, rate_hz: float, seconds: float) -> list[float]:
    """Return the duration of each infer() of the encoder [s], called ``rate_hz`` times per second."""
    variant = Bundle.open(bundle).manifest.graphs.encoder[0]
    model = openvino.Core().read_model(bundle / variant.path)
    model.reshape({port: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.compile_model(model, "CPU", properties).create_infer_request()
    durations_s = []
    for due in time.perf_counter() + np.arange(1, round(rate_hz * seconds)) / rate_hz:
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        request.infer(share_outputs=True)
        durations_s.append(time.perf_counter() - began)
    return durations_s
