"""OpenVINO's infer() on the encoder with nothing around it: the tail of the latency that the machine has."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import openvino

from jepa_runtime.bundle import Bundle


def bare_infer(bundle: Path, threads: int, rate_hz: float, seconds: float) -> list[float]:
    """How long each infer() of the encoder took, in seconds, called ``rate_hz`` times a second."""
    variant = Bundle.open(bundle).manifest.graphs.encoder[0]
    model = openvino.Core().read_model(bundle / variant.path)
    model.reshape({port: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.compile_model(model, "CPU", properties).create_infer_request()
    taken = []
    for due in time.perf_counter() + np.arange(1, round(rate_hz * seconds)) / rate_hz:
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        request.infer(share_outputs=True)
        taken.append(time.perf_counter() - began)
    return taken
