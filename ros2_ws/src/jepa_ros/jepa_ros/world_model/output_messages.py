"""Conversion of pipeline results to messages."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from jepa_msgs.msg import LatentState, ModelInfo, PredictedFutures, Surprise, SurpriseEvent
from numpy.typing import NDArray
from std_msgs.msg import Header

from jepa_ros.common.conversions import fill, to_time
from jepa_runtime.calibration import Alarm
from jepa_runtime.model import WorldModel
from jepa_runtime.recording import messages
from jepa_runtime.serving import Result
from jepa_runtime.telemetry import Verdict
from jepa_runtime.util import opencv


def model_info(model: WorldModel, *, stamp_ns: int) -> ModelInfo:
    """Return the description of the active model and its engine."""
    return fill(ModelInfo(), messages.model_info(model, stamp_ns))


class FuturesWriter:
    """Write PredictedFutures into one reusable message, which must be published before the next is written.

    The latents take a megabyte. Writing them in place avoids an allocation and a copy for every image.
    """

    def __init__(self) -> None:
        self._message = PredictedFutures()

    def write(
        self,
        result: Result,
        model: WorldModel,
        dtype: str,
        *,
        goal_requested: bool = False,
        image_publishers: int = 0,
    ) -> PredictedFutures:
        """Return the message of a result.

        Args:
            result: Result with futures.
            model: Model that predicted them.
            dtype: Type of the latents, float16 or float32.
            goal_requested: Whether the goal was set through ``~/set_goal``.
            image_publishers: Number of publishers on the image topic; 0 if unknown.

        Raises:
            ValueError: The result has no futures.
        """
        fields = messages.predicted_futures(result, model, image_publishers=image_publishers)
        if fields is None or result.futures is None:
            raise ValueError("the result has no futures")
        fields["goal_requested"] = goal_requested
        if dtype == "float16":
            latents, tensor = result.futures.latents, self._message.latents
            if len(tensor.data) != 2 * latents.size:
                tensor.data = array.array("B", bytes(2 * latents.size))
            # Assigning to the field would copy; its array is written in place.
            converted = np.frombuffer(tensor.data, np.float16).reshape(latents.shape)
            to_float16(latents, converted)
            fields["latents"]["dtype"] = messages.DTYPE_CODES["float16"]
            del fields["latents"]["data"]
        return fill(self._message, fields)


def latent_state(result: Result, model: WorldModel) -> LatentState:
    """Return the latent of the image."""
    return fill(LatentState(), messages.latent_state(result, model))


def surprise(result: Result, model: WorldModel) -> Surprise | None:
    """Return the prediction error of the image, or None if nothing was predicted for its time."""
    fields = messages.surprise(result, model)
    return None if fields is None else fill(Surprise(), fields)


def surprise_event(alarm: Alarm, result: Result, model: WorldModel) -> SurpriseEvent:
    """Return the begin or the end of an anomaly."""
    return fill(SurpriseEvent(), messages.surprise_event(alarm, result, model))


def to_float16(values: NDArray[np.float32], out: NDArray[np.float16]) -> None:
    """Convert ``values``, rounded to nearest as in NumPy, in an eighth of NumPy's time (OpenCV 5)."""
    flat, target = values.reshape(1, -1), out.reshape(1, -1)
    # The annotations of OpenCV do not include scalars.
    nothing: Any = 0.0
    try:
        written: object = opencv.cv2.add(flat, nothing, dst=target, dtype=opencv.cv2.CV_16F)
    except opencv.cv2.error:
        # OpenCV 4 does not convert to float16.
        written = None
    # OpenCV 5.1 takes an array of one element for a scalar and returns another array.
    if written is not target:
        np.copyto(target, flat, casting="same_kind")


def diagnostics(
    verdict: Verdict, *, name: str, hardware_id: str, values: dict[str, Any], stamp_ns: int
) -> DiagnosticArray:
    """Return a diagnostic status with its values as text."""
    status = DiagnosticStatus(
        level=bytes([verdict.level]),
        name=name,
        message=verdict.message,
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
    return DiagnosticArray(header=Header(stamp=to_time(stamp_ns)), status=[status])
