"""What ``jepa-runtime run --mcap`` records: the topics that the ROS nodes would publish."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from jepa_runtime.pipeline import Result
from jepa_runtime.recording import McapRecorder, messages
from jepa_runtime.recording.definitions import build, prepare
from jepa_runtime.sources.base import Frame
from jepa_runtime.world_model import WorldModel

_JPEG_QUALITY = 90
_TYPES = (
    messages.MODEL_INFO,
    messages.LATENT_STATE,
    messages.PREDICTED_FUTURES,
    messages.SURPRISE,
    messages.COMPRESSED_IMAGE,
    messages.TWIST,
)


class RunRecording:
    """Frames (as JPEG), commands and results of one run, each logged at its frame's stamp.

    Raises:
        RecordingError: the file cannot be written.
    """

    def __init__(self, path: str, model: WorldModel) -> None:
        prepare(*_TYPES)
        self._recorder = McapRecorder(path)
        self._model = model
        self._told_model = False

    def serve(self, model: WorldModel) -> None:
        """From now on results come from ``model``."""
        self._model = model
        self._told_model = False

    def add_frame(self, frame: Frame, command: NDArray[np.float32] | None) -> None:
        """Record a frame, and the command in force from its stamp on."""
        if not self._told_model:
            self._told_model = True
            info = messages.model_info(self._model, frame.stamp_ns)
            self._write("/world_model/model_info", messages.MODEL_INFO, info, frame.stamp_ns)
        bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        image = messages.compressed_image(frame, np.asarray(jpeg, np.uint8).reshape(-1))
        self._write("/camera/image_raw/compressed", messages.COMPRESSED_IMAGE, image, frame.stamp_ns)
        if command is not None:
            twist = messages.twist(self._model.manifest.io.action.names, command)
            self._write("/cmd_vel", messages.TWIST, twist, frame.stamp_ns)

    def add_result(self, result: Result) -> None:
        """Record what came out of a frame."""
        state = messages.latent_state(result, self._model)
        futures = messages.predicted_futures(result, self._model)
        self._write("/world_model/latent", messages.LATENT_STATE, state, result.stamp_ns)
        self._write("/world_model/futures", messages.PREDICTED_FUTURES, futures, result.stamp_ns)
        self._write(
            "/world_model/surprise",
            messages.SURPRISE,
            messages.surprise(result, self._model),
            result.stamp_ns,
        )

    def close(self) -> None:
        """Complete the file."""
        self._recorder.close()

    def _write(self, topic: str, type_name: str, fields: dict[str, Any] | None, stamp_ns: int) -> None:
        if fields is not None:
            self._recorder.write_message(topic, build(type_name, fields), stamp_ns)
