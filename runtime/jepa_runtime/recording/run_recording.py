"""Record a run into a bag with the topics that the ROS nodes would publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.recording import McapRecorder, messages
from jepa_runtime.ros_messages.definitions import build, prepare
from jepa_runtime.serving.pipeline import Result
from jepa_runtime.sources.base import Frame, Image

NODE = "/world_model"
IMAGE_TOPIC, GOAL_TOPIC, COMMAND_TOPIC = "/camera/image_raw", "/goal_image", "/cmd_vel"
STATE_TOPIC = "/robot_state"
_TYPES = (
    messages.MODEL_INFO,
    messages.LATENT_STATE,
    messages.PREDICTED_FUTURES,
    messages.SURPRISE,
    messages.IMAGE,
    messages.SURPRISE_EVENT,
    messages.COMPRESSED_IMAGE,
    messages.TWIST,
    messages.JOINT_STATE,
)


class RunRecording:
    """The frames, goals, commands, states and results of one run.

    They are logged at the stamp of their frame or as specified.

    Args:
        path: The MCAP file to write.
        model: The model that produces the results.
        jpeg: Store frames as JPEG, which takes a fraction of the space, instead of the exact pixels, which
            are needed to reproduce the results.
        half: Store the latents of futures as float16.

    Attributes:
        frames: The number of frames.
        stamp_decreases: How often a frame had an earlier stamp than the previous one, as when the clock is
            set: readers of the file return messages in the order of stamps, not of arrival.

    Raises:
        RecordingError: The file cannot be written.
    """

    def __init__(self, path: str | Path, model: WorldModel, *, jpeg: bool = True, half: bool = False) -> None:
        prepare(*_TYPES)
        self._recorder = McapRecorder(path)
        self._model = model
        self._jpeg, self._half = jpeg, half
        self.frames = self.stamp_decreases = 0
        self._last_ns = 0
        self._has_recorded_model = False

    def set_model(self, model: WorldModel) -> None:
        """Set the model that produces the results from now on."""
        self._model = model
        self._has_recorded_model = False

    def add_frame(self, frame: Frame, command: NDArray[np.float32] | None) -> None:
        """Record a frame, and the command in effect from its stamp on."""
        self.frames += 1
        self.stamp_decreases += frame.stamp_ns < self._last_ns
        self._last_ns = frame.stamp_ns
        self.add_model(frame.stamp_ns, frame.stamp_ns)
        if self._jpeg:
            fields = messages.compressed_image(frame.image, frame.stamp_ns, frame.frame_id)
            topic = f"{IMAGE_TOPIC}/compressed"
            self._write(topic, messages.COMPRESSED_IMAGE, fields, frame.stamp_ns)
        else:
            fields = messages.image(frame.image, frame.stamp_ns, frame.frame_id)
            self._write(IMAGE_TOPIC, messages.IMAGE, fields, frame.stamp_ns)
        if command is not None:
            twist = messages.twist(self._model.manifest.io.action.names, command)
            self._write(COMMAND_TOPIC, messages.TWIST, twist, frame.stamp_ns)

    def add_state(self, stamp_ns: int, state: NDArray[np.float32]) -> None:
        """Record a ``state`` [S] of the robot, if the model reads it."""
        spec = self._model.manifest.io.state
        if spec is not None:
            fields = messages.joint_state(spec.names, state, stamp_ns)
            self._write(STATE_TOPIC, messages.JOINT_STATE, fields, stamp_ns)

    def add_goal(self, image: Image | None, stamp_ns: int) -> None:
        """Record the goal from ``stamp_ns`` on, or that there is none."""
        pixels = np.zeros((0, 0, 3), np.uint8) if image is None else image
        self._write(GOAL_TOPIC, messages.IMAGE, messages.image(pixels, stamp_ns, ""), stamp_ns)

    def add_model(self, stamp_ns: int, log_ns: int) -> None:
        """Record the model information unless this model's has been recorded."""
        if not self._has_recorded_model:
            self._has_recorded_model = True
            info = messages.model_info(self._model, stamp_ns)
            self._write(f"{NODE}/model_info", messages.MODEL_INFO, info, log_ns)

    def add_result(self, result: Result, log_ns: int | None = None) -> None:
        """Record the result of a frame."""
        log_ns = result.stamp_ns if log_ns is None else log_ns
        state = messages.latent_state(result, self._model)
        futures = messages.predicted_futures(result, self._model)
        if self._half and futures is not None and result.futures is not None:
            futures["latents"] = messages.tensor("latents", result.futures.latents.astype(np.float16))
        self._write(f"{NODE}/latent", messages.LATENT_STATE, state, log_ns)
        self._write(f"{NODE}/futures", messages.PREDICTED_FUTURES, futures, log_ns)
        self._write(f"{NODE}/surprise", messages.SURPRISE, messages.surprise(result, self._model), log_ns)

    def add_alarms(self, result: Result, log_ns: int | None = None) -> None:
        """Record the alarms that began or ended with an evaluated result."""
        log_ns = result.stamp_ns if log_ns is None else log_ns
        for alarm in result.alarms:
            event = messages.surprise_event(alarm, result, self._model)
            self._write(f"{NODE}/events", messages.SURPRISE_EVENT, event, log_ns)

    def add_message(self, topic: str, type_name: str, cdr: bytes, log_ns: int) -> None:
        """Record an unchanged message of another bag."""
        self._recorder.write(topic, type_name, cdr, log_ns)

    def close(self) -> None:
        """Complete the file."""
        self._recorder.close()

    def discard(self) -> None:
        """Stop recording and remove the file."""
        self._recorder.discard()

    def _write(self, topic: str, type_name: str, fields: dict[str, Any] | None, stamp_ns: int) -> None:
        if fields is not None:
            self._recorder.write_message(topic, build(type_name, fields), stamp_ns)
