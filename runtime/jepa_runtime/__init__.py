"""The runtime of jepa-edge: encode frames to latent states, and predict futures under actions.

Example::

    model = WorldModel.open("models/two_rooms")
    latent = model.encode(frame)
    futures = model.predict(actions)
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
