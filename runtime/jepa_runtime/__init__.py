"""The runtime of jepa-edge: encode frames to latent states, and predict futures under actions.

Example::

    import numpy as np
    from jepa_runtime import WorldModel

    with WorldModel.open("models/two_rooms") as model:
        latent = model.encode(np.zeros((480, 640, 3), np.uint8))
        futures = model.predict(np.zeros((1, 8, 2)))
    print(futures.latents[0, -1], futures.error_bounds)

The packages below have more: engines (:mod:`~jepa_runtime.backends`), planning
(:mod:`~jepa_runtime.planning`), real-time inference (:mod:`~jepa_runtime.serving`) and others. The names in
``__all__`` of a package are public; its modules are not.
"""

import os
import sys
from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

__version__ = "0.1.0"

# OpenVINO reports each start to Google Analytics, from a fork of the process, unless this package is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
# ONNX Runtime reports graphs, their names and hashes to Microsoft, from a thread of its own.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from jepa_runtime.backends.base import BackendOptions
    from jepa_runtime.bundle import Bundle
    from jepa_runtime.errors import (
        BackendError,
        BundleError,
        FrameError,
        JepaRuntimeError,
        RecordingError,
        SourceError,
    )
    from jepa_runtime.model import Futures, WorldModel
    from jepa_runtime.planning import Plan, Planner
    from jepa_runtime.serving import Pipeline, Result
    from jepa_runtime.sources import open_source
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "backends.base": ["BackendOptions"],
            "bundle": ["Bundle"],
            "errors": [
                "BackendError",
                "BundleError",
                "FrameError",
                "JepaRuntimeError",
                "RecordingError",
                "SourceError",
            ],
            "model": ["Futures", "WorldModel"],
            "planning": ["Plan", "Planner"],
            "serving": ["Pipeline", "Result"],
            "sources": ["open_source"],
        },
    )

__all__ = [
    "BackendError",
    "BackendOptions",
    "Bundle",
    "BundleError",
    "FrameError",
    "Futures",
    "JepaRuntimeError",
    "Pipeline",
    "Plan",
    "Planner",
    "RecordingError",
    "Result",
    "SourceError",
    "WorldModel",
    "__version__",
    "open_source",
]
