"""The runtime of jepa-edge: encode frames to latent states, and predict futures under actions.

Example::

    model = WorldModel.open("models/two_rooms")
    latent = model.encode(frame)
    futures = model.predict(actions)
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepa_runtime.bundle import Bundle
    from jepa_runtime.errors import (
        BackendError,
        BundleError,
        FrameError,
        JepaRuntimeError,
        RecordingError,
        SourceError,
    )
    from jepa_runtime.model.world_model import Futures, WorldModel

__version__ = "0.1.0"

# OpenVINO reports each start to Google Analytics, from a fork of the process, unless this package is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
# ONNX Runtime reports graphs, their names and hashes to Microsoft, from a thread of its own.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "FrameError",
    "Futures",
    "JepaRuntimeError",
    "RecordingError",
    "SourceError",
    "WorldModel",
    "__version__",
]

# The command line starts without NumPy and pydantic.
_MODULES = {
    "Bundle": "jepa_runtime.bundle",
    "Futures": "jepa_runtime.model.world_model",
    "WorldModel": "jepa_runtime.model.world_model",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES.get(name, "jepa_runtime.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
