"""Convert results of the pipeline to the fields of ROS messages: nested mappings with the types of rosbags.

Both rosbags (:func:`jepa_runtime.ros_messages.definitions.build`) and rclpy (a node assigns the same names)
use them. Arrays are NumPy arrays; the data of a Tensor is a flat uint8 view of the array, not a copy.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle.manifest import POSE_SIZE
from jepa_runtime.calibration import Alarm
from jepa_runtime.errors import RecordingError
from jepa_runtime.imaging.conversion import to_jpeg
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.serving.pipeline import Result
from jepa_runtime.sources.base import Image

LATENT_STATE = "jepa_msgs/msg/LatentState"
PREDICTED_FUTURES = "jepa_msgs/msg/PredictedFutures"
SURPRISE = "jepa_msgs/msg/Surprise"
SURPRISE_EVENT = "jepa_msgs/msg/SurpriseEvent"
MODEL_INFO = "jepa_msgs/msg/ModelInfo"
ACTION_CANDIDATES = "jepa_msgs/msg/ActionCandidates"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
JOINT_STATE = "sensor_msgs/msg/JointState"
TWIST, TWIST_STAMPED = "geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped"

# Codes 1-10 are those of isaac_ros_tensor_list_interfaces; see Tensor.msg.
DTYPE_CODES = {
    "int8": 1,
    "uint8": 2,
    "int16": 3,
    "uint16": 4,
    "int32": 5,
    "uint32": 6,
    "int64": 7,
    "uint64": 8,
    "float32": 9,
    "float64": 10,
    "float16": 11,
}
_CODES = {np.dtype(name): code for name, code in DTYPE_CODES.items()}
_DTYPES = {code: np.dtype(name).newbyteorder("<") for name, code in DTYPE_CODES.items()}

Fields = dict[str, Any]


def time_message(stamp_ns: int) -> Fields:
    """Return the fields of a builtin_interfaces/Time.

    Raises:
        RecordingError: The time is after 2038, beyond the int32 seconds of the message.
    """
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    if sec >= 1 << 31:
        raise RecordingError(
            f"the stamp {sec} s since 1970 is out of range: stamps of ROS 2 end in 2038; check the clock",
            code="recording.stamp_out_of_range",
        )
    return {"sec": sec, "nanosec": nanosec}


def from_time(message: Any) -> int:
    """Return the nanoseconds of a builtin_interfaces/Time of rosbags or rclpy."""
    return int(message.sec) * 1_000_000_000 + int(message.nanosec)


def header(stamp_ns: int, frame_id: str) -> Fields:
    """Return the fields of a std_msgs/Header."""
    return {"stamp": time_message(stamp_ns), "frame_id": frame_id}


def tensor(name: str, array: NDArray[Any]) -> Fields:
    """Return the fields of a jepa_msgs/Tensor: row-major, little-endian.

    Raises:
        ValueError: Tensor has no code for the type of the array.
    """
    code = _CODES.get(array.dtype)
    if code is None:
        raise ValueError(
            f"tensor {name} has the unsupported type {array.dtype}; use one of {', '.join(DTYPE_CODES)}"
        )
    if sys.byteorder == "big":
        array = array.byteswap()
    shape, data = np.array(array.shape, np.uint32), array.ravel().view(np.uint8)
    return {"name": name, "dtype": code, "shape": shape, "data": data}


def array_of(message: Any) -> NDArray[Any]:
    """Return the array in a Tensor message of rosbags or rclpy, without a copy where possible.

    Raises:
        ValueError: The type code is unknown, or the data do not match the shape.
    """
    dtype = _DTYPES.get(message.dtype)
    if dtype is None:
        raise ValueError(f"tensor {message.name} has the unknown dtype code {message.dtype}")
    return np.frombuffer(message.data, dtype).reshape(tuple(int(size) for size in message.shape))


def latent_state(result: Result, model: WorldModel) -> Fields:
    """Return the fields of a jepa_msgs/LatentState."""
    return {
        "header": header(result.stamp_ns, result.frame_id),
        "model_id": model.manifest.model_id,
        "model_version": model.manifest.version,
        "sequence": result.sequence,
        "latent": tensor("latent", result.latent),
        "history_reset": "" if result.reset is None else result.reset.value,
        "preprocess_ms": result.timings_ms["preprocess"],
        "encode_ms": result.timings_ms["encode"],
    }


def predicted_futures(result: Result, model: WorldModel, *, image_publishers: int = 0) -> Fields | None:
    """Return the fields of a jepa_msgs/PredictedFutures, or None if the history was too short to predict.

    Args:
        result: The result.
        model: The model that produced it.
        image_publishers: The number of publishers on the image topic, or 0 if unknown.
    """
    futures, calibration = result.futures, result.calibration
    if futures is None or calibration is None:
        return None
    step_s, steps = model.manifest.io.step_s, futures.latents.shape[1]
    calibration = calibration.ahead(math.ceil(result.compensated_ns / round(step_s * 1e9)))
    energies = np.zeros((0, 0), np.float32) if futures.energies is None else futures.energies
    return {
        "header": header(result.stamp_ns, result.frame_id),
        "model_id": model.manifest.model_id,
        "sequence": result.sequence,
        "history_reset": "" if result.reset is None else result.reset.value,
        "image_publishers": image_publishers,
        "start": time_message(result.stamp_ns + result.compensated_ns),
        "horizon_s": result.compensated_ns / 1e9 + np.arange(1, steps + 1) * step_s,
        "actions": tensor("actions", futures.actions),
        "latents": tensor("latents", futures.latents),
        "has_goal": result.goal_stamp_ns is not None,
        "goal_requested": False,
        "goal_stamp": time_message(result.goal_stamp_ns or 0),
        "current_energy": math.nan if result.current_energy is None else result.current_energy,
        "goal_pose": np.array([] if result.goal_pose is None else astuple(result.goal_pose), np.float32),
        "energies": tensor("energies", energies),
        "error_bounds": np.asarray(futures.error_bounds, np.float32),
        "error_probability": calibration.probability,
        "error_coverage": np.array(
            [math.nan if share.value is None else share.value for share in calibration.recent[:steps]],
            np.float32,
        ),
        "errors_seen": np.array([share.errors for share in calibration.overall[:steps]], np.uint32),
        "candidates_source": result.candidates.source,
        "candidates_stamp": time_message(result.candidates.stamp_ns),
        "predict_ms": result.timings_ms["predict"],
        "deadline_missed": result.deadline_missed,
    }


def goal_pose_of(message: Any) -> RelativePose | None:
    """Return the goal pose in a jepa_msgs/PredictedFutures of rosbags or rclpy; None: it has none.

    Raises:
        ValueError: It does not have five values.
    """
    values = [float(value) for value in message.goal_pose]
    if not values:
        return None
    if len(values) != POSE_SIZE:
        raise ValueError(f"goal_pose must have {POSE_SIZE} values or none, got {len(values)}")
    return RelativePose(*values)


def surprise(result: Result, model: WorldModel) -> Fields | None:
    """Return the fields of a jepa_msgs/Surprise, or None if there was no prediction for this time."""
    if result.surprise is None:
        return None
    return {
        "header": header(result.stamp_ns, result.frame_id),
        "value": result.surprise,
        "threshold": model.manifest.surprise_threshold,
        "surprising": result.surprising,
        "executed": np.zeros(0, np.float32) if result.executed is None else result.executed,
        "response": result.response,
        "discontinuous": result.discontinuous,
    }


def surprise_event(alarm: Alarm, result: Result, model: WorldModel) -> Fields:
    """Return the fields of a jepa_msgs/SurpriseEvent for an alarm of ``result``."""
    event = alarm.event
    return {
        "header": header(result.stamp_ns, result.frame_id),
        "kind": alarm.kind,
        "start": time_message(event.start_ns),
        "ongoing": alarm.end_ns is None,
        "end": time_message(alarm.end_ns or 0),
        "peak": time_message(event.peak_ns),
        "score": event.score,
        "threshold": alarm.threshold.value,
        "horizon_s": event.horizon * model.manifest.io.step_s,
        "false_alarm_every_s": alarm.false_alarm_every_s,
        "confidence": alarm.threshold.confidence,
    }


def model_info(model: WorldModel, stamp_ns: int) -> Fields:
    """Return the fields of a jepa_msgs/ModelInfo."""
    manifest = model.manifest
    action = manifest.io.action
    return {
        "header": header(stamp_ns, ""),
        "model_id": manifest.model_id,
        "version": manifest.version,
        "release_seq": manifest.release_seq,
        "sha256": model.bundle.sha256,
        "engine": model.engine,
        "device": model.device,
        "precision": model.precision,
        "trained": manifest.trained,
        "history_size": manifest.history_size,
        "horizon": manifest.horizon,
        "num_samples": model.num_samples,
        "step_s": manifest.io.step_s,
        "frame_width": manifest.io.frame.width,
        "frame_height": manifest.io.frame.height,
        "latent_space": model.latent_space,
        "energy_space": model.energy_space,
        "tokens": manifest.io.latent.tokens,
        "dim": manifest.io.latent.dim,
        "action_names": list(action.names),
        "action_units": list(action.units),
        "action_low": np.asarray(action.low, np.float64),
        "action_high": np.asarray(action.high, np.float64),
        "action_max_norm": action.max_norm or 0.0,
        "goal_threshold": manifest.goal_threshold,
        "surprise_threshold": manifest.surprise_threshold,
        "reads_poses": model.reads_poses,
    }


def image(rgb: Image, stamp_ns: int, frame_id: str) -> Fields:
    """Return the fields of a sensor_msgs/Image of ``rgb`` (uint8 [h, w, 3])."""
    height, width, _ = rgb.shape
    return {
        "header": header(stamp_ns, frame_id),
        "height": height,
        "width": width,
        "encoding": "rgb8",
        "is_bigendian": 0,
        "step": width * 3,
        "data": rgb.ravel(),
    }


def compressed_image(rgb: Image, stamp_ns: int, frame_id: str) -> Fields:
    """Return the fields of a sensor_msgs/CompressedImage of ``rgb`` (uint8 [h, w, 3]), as JPEG."""
    data = np.frombuffer(to_jpeg(rgb), np.uint8)
    return {"header": header(stamp_ns, frame_id), "format": "jpeg", "data": data}


def twist(names: Sequence[str], action: NDArray[np.float32]) -> Fields | None:
    """Return the fields of a geometry_msgs/Twist, or None if a name is not a field such as ``linear.x``."""
    parts: Fields = {kind: dict.fromkeys("xyz", 0.0) for kind in ("linear", "angular")}
    for name, value in zip(names, action, strict=True):
        kind, _, axis = name.partition(".")
        if kind not in parts or axis not in parts[kind]:
            return None
        parts[kind][axis] = float(value)
    return parts


def joint_state(names: Sequence[str], state: NDArray[np.float32], stamp_ns: int) -> Fields:
    """Return the fields of a sensor_msgs/JointState with the components of a robot's ``state`` [S]."""
    return {
        "header": header(stamp_ns, ""),
        "name": list(names),
        "position": np.asarray(state, np.float64),
        "velocity": np.zeros(0),
        "effort": np.zeros(0),
    }
