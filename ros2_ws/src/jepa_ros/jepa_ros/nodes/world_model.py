"""The world model as a lifecycle node: camera images in, latent states and predicted futures out.

``configure`` loads the model, ``activate`` starts subscribing and publishing. The model runs on the inference
thread of the pipeline, which also publishes. The callbacks here only validate, convert and hand over.
Services swap the model during operation.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.msg import (
    ActionCandidates,
    LatentState,
    ModelInfo,
    PredictedFutures,
    StageTimes,
    Surprise,
    SurpriseEvent,
)
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image

from jepa_ros.common import qos
from jepa_ros.common.action_commands import ActionCommands, create_action_commands
from jepa_ros.common.conversions import from_time
from jepa_ros.common.lifecycle_transitions import (
    activate_on_spin,
    reject_invalid_transitions,
    report_failures,
)
from jepa_ros.common.parameters import STAMPED_CMD_VEL, declare_parameters, parameter_values
from jepa_ros.common.spin import create_steady_timer, run
from jepa_ros.world_model import output_messages
from jepa_ros.world_model.calibration_report import black_box_values, degradation_warnings
from jepa_ros.world_model.camera_streams import CameraStream, create_camera_streams
from jepa_ros.world_model.evaluation_service import EvaluationService
from jepa_ros.world_model.goal_inputs import GoalInputs
from jepa_ros.world_model.model_opening import ServingSession
from jepa_ros.world_model.model_services import ModelServices
from jepa_ros.world_model.parameters import PARAMETERS
from jepa_ros.world_model.stage_times import StageTimer
from jepa_ros.world_model.state_input import StateInput
from jepa_runtime.errors import DeviceLostError, JepaRuntimeError
from jepa_runtime.model import WorldModel
from jepa_runtime.recording import CandidateProposals, Topics
from jepa_runtime.serving import FrozenStateCheck, Result
from jepa_runtime.sources import Frame
from jepa_runtime.telemetry import Level, Verdict, with_causes, with_warnings

# Upper limit for opening a model, during which no callback runs.
_HANG_TIMEOUT_S = 900.0
# How soon the planner learns of a second publisher on the image topic.
_COUNT_PERIOD_S = 0.2


class WorldModelNode(LifecycleNode):
    """Serve one model bundle. ros2_ws/README.md lists its topics and parameters.

    Attributes:
        session: Pipeline of the configured node, or None.
    """

    def __init__(self) -> None:
        super().__init__("world_model")
        self.finished = threading.Event()
        self.failure = ""
        self.fault = ""
        self.session: ServingSession | None = None
        self._info: ModelInfo | None = None
        self._active = False
        # None if no model is loaded, or if it takes no actions and commands are ignored.
        self._commands: ActionCommands | None = None
        # None if no model is loaded, or if it reads no state of the robot.
        self._states: StateInput | None = None
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._proposals = CandidateProposals()
        self._values: dict[str, Any] = {}
        declare_parameters(
            self,
            PARAMETERS,
            is_configured=lambda: self.session is not None,
            on_change=self._set_parameters,
        )
        self._set_parameters(parameter_values(self, PARAMETERS))
        self._cameras = create_camera_streams(self._values["cameras"])
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RESULT)
        create_steady_timer(self, 1.0, self.publish_diagnostics)
        create_steady_timer(self, _COUNT_PERIOD_S, self._count_publishers)
        reject_invalid_transitions(self)
        self._model_services = ModelServices(self, self._require_session)
        self._goals = GoalInputs(self, self._require_session, lambda: self._cameras)
        self._evaluations = EvaluationService(
            self, self._require_session, lambda: self._cameras, lambda: self._values["futures_dtype"]
        )
        if self._values["autostart"]:
            activate_on_spin(self)

    def _set_parameters(self, changed: Mapping[str, Any]) -> None:
        self._values = {**self._values, **changed}
        self._proposals.timeout_s = self._values["candidates_timeout_s"]
        self._proposals.actuation_delay_s = self._values["actuation_delay_s"]

    # --- lifecycle

    @report_failures
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model on the inference thread and create inactive publishers."""
        values = self._values
        self._cameras = create_camera_streams(values["cameras"])
        self.session = self._start_session(values)
        model = self.session.model
        manifest = model.manifest
        names, stamped = manifest.io.action.names, values[STAMPED_CMD_VEL.name]
        self._commands = create_action_commands(names, stamped=stamped) if manifest.takes_actions else None
        self._states = self._create_state_input(model)
        self._set_model_info(model)
        self._model_info = self._publisher(ModelInfo, "~/model_info", qos.LATCHED)
        for camera in self._cameras.values():
            camera.outputs = {
                kind: self._publisher(kind, f"{camera.prefix}/{topic}", qos.RESULT)
                for kind, topic in (
                    (LatentState, "latent"),
                    (PredictedFutures, "futures"),
                    (Surprise, "surprise"),
                    (SurpriseEvent, "events"),
                    (StageTimes, "stage_times"),
                )
            }
            camera.timer = StageTimer(camera.outputs)
        self._goals.subscribe()
        return super().on_configure(state)

    @report_failures
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start subscribing and publishing."""
        result = super().on_activate(state)
        for camera in self._cameras.values():
            camera.begin(self._require_session().pipeline.stats(camera.topic))
        self._active = True
        subscribe, when_active = self.create_subscription, self._while_active
        self._inputs = [
            *(self._commands.subscribe(self, when_active(self.on_action)) if self._commands else ()),
            *self._subscribe_states(),
            subscribe(ActionCandidates, "~/candidates", when_active(self._on_candidates), qos.RESULT),
        ]
        for camera in self._cameras.values():
            on_image = when_active(functools.partial(self._on_image, camera))
            self._inputs += [
                subscribe(Image, camera.topic, on_image, qos.SENSOR),
                subscribe(CompressedImage, f"{camera.topic}/compressed", on_image, qos.SENSOR),
            ]
        self._model_info.publish(self._info)
        return result

    @report_failures
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop subscribing and publishing. The model stays loaded."""
        self._unsubscribe()
        return super().on_deactivate(state)

    @report_failures
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the model."""
        self._release()
        return super().on_cleanup(state)

    @report_failures
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the model before the process ends."""
        self._release()
        return super().on_shutdown(state)

    @report_failures
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close all resources so that the node can be configured again."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _unsubscribe(self) -> None:
        self._active = False
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []

    def _release(self) -> None:
        self._unsubscribe()
        self._goals.close()
        session, self.session = self.session, None
        try:
            if session is not None:
                session.stop()
        finally:
            for publisher in self._outputs:
                self.destroy_lifecycle_publisher(publisher)
            self._outputs = []

    def _start_session(self, values: dict[str, Any]) -> ServingSession:
        session = ServingSession(
            values,
            on_model=self._on_model,
            on_futures=self._on_futures,
            on_result=self._on_result,
            on_calibration=self._on_calibration,
            on_error=self.on_inference_error,
            candidates=self._proposals.newest,
            deadline_ms=values["deadline_ms"],
            topics={
                topic: Topics(
                    self.resolve_topic_name(topic),
                    self.resolve_topic_name(f"{camera.prefix}/surprise").removesuffix("/surprise"),
                )
                for topic, camera in self._cameras.items()
            },
        )
        for setting in session.applied:
            if not setting.achieved:
                self.get_logger().warning(f"{setting.name}: {setting}")
        if session.pipeline.alarms_disabled_reason:
            self.get_logger().warning(f"alarms are disabled: {session.pipeline.alarms_disabled_reason}")
        return session

    def _create_state_input(self, model: WorldModel) -> StateInput | None:
        io = model.manifest.io
        if io.state is None:
            return None
        return StateInput(
            self,
            io.state,
            self._values,
            tolerance_s=io.step_s / 8,
            frozen=FrozenStateCheck(model.manifest),
            callback=self._require_session().add_state,
        )

    def _subscribe_states(self) -> list[Any]:
        if self._states is None:
            return []
        self._states.begin()
        return self._states.subscribe(self._while_active)

    def _set_model_info(self, model: WorldModel) -> None:
        """Log ``model`` and validate candidates against it."""
        info = self._info = output_messages.model_info(model, stamp_ns=self._now_ns())
        self._proposals.expect(model)
        self.get_logger().info(
            f"loaded {info.model_id} {info.version} ({info.precision}) on {info.engine}:{info.device}:"
            f" {info.num_samples} futures of {info.horizon} steps"
        )
        for reason in model.skipped_engines:
            self.get_logger().warning(f"preferred engine not used: {reason}")

    def _publisher(self, message_type: type, topic: str, profile: Any) -> Any:
        self._outputs.append(self.create_lifecycle_publisher(message_type, topic, profile))
        return self._outputs[-1]

    def _require_session(self) -> ServingSession:
        if self.session is None:
            raise JepaRuntimeError(
                "the node is not configured: configure it first", code="node.not_configured"
            )
        return self.session

    # --- inputs

    def _while_active(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        """Wrap ``callback`` to ignore messages that were queued before their subscription was destroyed."""

        def call(message: Any) -> None:
            if self._active:
                callback(message)

        return call

    def _on_image(self, camera: CameraStream, message: Image | CompressedImage) -> None:
        received_ns = time.time_ns()
        if not camera.reader.needs(message):
            return
        camera.monitor.on_frame()
        image = camera.reader.read(message)
        if image is None:
            self.get_logger().warning(
                f"frame of {camera.topic} rejected: {camera.reader.last_rejection}",
                throttle_duration_sec=5.0,
            )
            return
        frame = Frame(
            image=image,
            stamp_ns=from_time(message.header.stamp),
            frame_id=message.header.frame_id,
            sequence=camera.reader.accepted,
            stream=camera.topic,
        )
        camera.monitor.on_accepted_frame((self._now_ns() - frame.stamp_ns) / 1e9)
        camera.newest_ns = frame.stamp_ns
        camera.timer.frame_arrived(frame.stamp_ns, received_ns)
        self._require_session().submit(frame)

    def _count_publishers(self) -> None:
        if self._active:
            for camera in self._cameras.values():
                camera.count_publishers(self)
            if self._states is not None:
                self._states.count_publishers()

    def on_action(self, action: NDArray[np.float32]) -> None:
        """Record an executed action, stamped with the time of the graph."""
        self._require_session().add_action(self._now_ns(), action)

    def _on_candidates(self, message: ActionCandidates) -> None:
        rejection = self._proposals.offer(message)
        if rejection:
            self.get_logger().warning(f"candidates rejected: {rejection}", throttle_duration_sec=5.0)

    # --- outputs, on the inference thread

    def _on_futures(self, result: Result) -> None:
        if self._active:
            camera, model = self._cameras[result.stream], self._require_session().model
            dtype = self._values["futures_dtype"]
            requested = self._goals.is_requested(camera, result.goal_stamp_ns)
            camera.timer.publish(
                PredictedFutures,
                lambda: camera.futures.write(
                    result, model, dtype, goal_requested=requested, image_publishers=camera.publishers
                ),
            )

    def _on_result(self, result: Result) -> None:
        camera = self._cameras[result.stream]
        camera.monitor.on_result(result)
        if self._states is not None:
            self._states.add_result(result)
        if not self._active:
            return
        session = self._require_session()
        model = session.model
        if session.box is not None:
            session.box.add_result(result)
        try:
            camera.timer.publish(LatentState, lambda: output_messages.latent_state(result, model))
            if result.surprise is not None:
                camera.timer.publish(Surprise, lambda: output_messages.surprise(result, model))
        finally:
            camera.timer.finish(result)

    def _on_calibration(self, result: Result) -> None:
        if not self._active:
            return
        session = self._require_session()
        if session.box is not None:
            session.box.add_alarms(result)
        events = self._cameras[result.stream].outputs[SurpriseEvent]
        for alarm in result.alarms:
            events.publish(output_messages.surprise_event(alarm, result, session.model))

    def _on_model(self, model: WorldModel, history_kept: bool) -> None:
        """Publish the model that becomes active; called between two frames."""
        self._set_model_info(model)
        self._model_info.publish(self._info)

    def on_inference_error(self, error: Exception, frame: Frame | None) -> None:
        """Report an error of ``frame``, or of the pipeline; a lost device ends the node."""
        where = f"inference of {frame.stream}" if frame else "pipeline"
        self.get_logger().error(f"{where}: {error}", throttle_duration_sec=5.0)
        for camera in [self._cameras[frame.stream]] if frame else self._cameras.values():
            camera.monitor.on_error(error)
        if frame is not None and self._active:
            self._cameras[frame.stream].timer.fail(frame, error)
        if isinstance(error, DeviceLostError):
            self.failure = str(error)
            self.finished.set()

    # --- reports

    def publish_diagnostics(self) -> None:
        """Publish the current verdict on each camera; called every second and after each transition."""
        hardware = f"{self._info.engine}:{self._info.device}" if self._info else str(self._values["engine"])
        session = self.session
        node_values: dict[str, Any] = {"rejected_candidates": self._proposals.rejected, "pid": os.getpid()}
        applied = session.applied if session else []
        node_values |= {f"realtime/{setting.name}": str(setting) for setting in applied}
        skipped_engines = session.model.skipped_engines if session else ()
        box = session.box if session else None
        node_values |= black_box_values(box)
        alarms_disabled_reason = session.pipeline.alarms_disabled_reason if session else ""
        if session is not None:
            node_values["alarms"] = alarms_disabled_reason or "enabled"
        if self._states is not None:
            node_values |= {"states": self._states.accepted, "rejected_states": self._states.rejected}
        conflicts = self._commands.conflicts(self) if self._commands and self._active else []
        for camera in self._cameras.values():
            verdict, values = camera.monitor.verdict(
                stats=session.pipeline.stats(camera.topic) if session else None,
                bad_frames=dict(camera.reader.rejected),
                active=self._active,
                fault=self.fault,
                limits=self._values,
                clip_obstacle=session.pipeline.clip_obstacle(camera.topic) if session else "",
            )
            if self._active:
                warnings = degradation_warnings(
                    camera.monitor.calibration, box, skipped_engines, alarms_disabled_reason
                )
                verdict = with_warnings(verdict, warnings)
                verdict = self._with_state_problem(verdict, camera)
                verdict = with_causes(verdict, [*conflicts, *camera.duplicate_publishers(self)])
            self._diagnostics.publish(
                output_messages.diagnostics(
                    verdict,
                    name=f"{self.get_fully_qualified_name()[1:]}: {camera.label}",
                    hardware_id=hardware,
                    values=values | node_values,
                    stamp_ns=self._now_ns(),
                )
            )

    def _with_state_problem(self, verdict: Verdict, camera: CameraStream) -> Verdict:
        """Return at least an error if the newest image has no state that the model needs."""
        problem = self._states.problem(camera.newest_ns) if self._states is not None else ""
        if not problem:
            return verdict
        return Verdict(max(verdict.level, Level.ERROR), f"no futures: {problem}; {verdict.message}")

    def report(self) -> dict[str, Any]:
        """Return counters and stage times since the last activation, by image topic if there are several."""
        info = self._info
        cameras = {camera.topic: camera.report() for camera in self._cameras.values()}
        fields = ("version", "sha256", "engine", "device", "precision")
        model = {} if info is None else {"id": info.model_id} | {name: getattr(info, name) for name in fields}
        return {
            "model": model,
            "futures_per_frame": 0 if info is None else info.num_samples,
            "horizon": 0 if info is None else info.horizon,
            "deadline_ms": self._values["deadline_ms"],
            **(next(iter(cameras.values())) if len(cameras) == 1 else {"cameras": cameras}),
        }

    def stop(self) -> None:
        """Close the model in any lifecycle state."""
        self._model_services.close()
        if self.session is not None:
            for camera in self._cameras.values():
                camera.monitor.final = self.session.pipeline.stats(camera.topic)
        self._release()
        self._evaluations.close()

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main() -> None:
    """Entry point of ``ros2 run jepa_ros world_model``."""
    sys.exit(run(WorldModelNode, hang_timeout_s=_HANG_TIMEOUT_S))
