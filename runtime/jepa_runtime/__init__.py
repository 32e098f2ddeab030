"""jepa-edge on the robot: what it sees becomes a latent state, and actions become predicted futures.

model = WorldModel.open("models/two_rooms")
latent = model.encode(frame)
futures = model.predict(actions)
"""

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import (
    BackendError,
    BundleError,
    FrameError,
    JepaRuntimeError,
    RecordingError,
    SourceError,
)
from jepa_runtime.world_model import Futures, WorldModel

__version__ = "0.1.0"

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
