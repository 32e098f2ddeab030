"""The world model as a lifecycle node: images of its cameras in, latent states and predicted futures out.

``configure`` loads the model, ``activate`` starts to listen and publish. The model lives on the pipeline's
inference thread, which also publishes; the callbacks here only check, convert and hand over. Services
exchange the model while it serves.
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
from jepa_ros.common.action_commands import Actions, actions_of
from jepa_ros.common.conversions import from_time
from jepa_ros.common.lifecycle_transitions import answer_impossible, reported
from jepa_ros.common.parameters import STAMPED, declare, values
from jepa_ros.common.spin import every, run
from jepa_ros.world_model import output_messages
from jepa_ros.world_model.calibration_report import complaints_about, figures_of_box
from jepa_ros.world_model.camera_streams import CameraStream, cameras_of
from jepa_ros.world_model.evaluation_service import Evaluations
from jepa_ros.world_model.goal_inputs import Goals
from jepa_ros.world_model.model_opening import Served
from jepa_ros.world_model.model_services import ModelServices
from jepa_ros.world_model.parameters import PARAMETERS
from jepa_ros.world_model.stage_times import StageClock
from jepa_runtime.errors import DeviceLostError, JepaRuntimeError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.recording.black_box import Topics
from jepa_runtime.recording.candidate_proposals import CandidateProposals
from jepa_runtime.serving.pipeline import Result
from jepa_runtime.sources.base import Frame
from jepa_runtime.telemetry.diagnostics import with_causes, with_warnings

# Opening a model takes less: nobody is answered meanwhile.
_OPENING_S = 900.0
# A second camera on the topic of the images is reported to the planner so soon.
_COUNT_PERIOD_S = 0.2


class WorldModelNode(LifecycleNode):
    """Serves one model bundle. See ros2_ws/README.md for its topics and parameters."""

    def __init__(self) -> None:
        super().__init__("world_model")
        self.finished = threading.Event()
        self.failure = ""
        self.fault = ""
        self._served: Served | None = None
        self._info: ModelInfo | None = None
        self._active = False
        # None: no model is loaded, or it takes no actions, and no commands are heard.
        self._actions: Actions | None = None
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._proposals = CandidateProposals()
        self._values: dict[str, Any] = {}
        declare(self, PARAMETERS, configured=lambda: self._served is not None, changed=self._take_parameters)
        self._take_parameters(values(self, PARAMETERS))
        self._cameras = cameras_of(self._values["cameras"])
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RESULT)
        every(self, 1.0, self.publish_diagnostics)
        every(self, _COUNT_PERIOD_S, self._count_publishers)
        answer_impossible(self)
        self._model_services = ModelServices(self, self._require_served)
        self._goals = Goals(self, self._require_served, lambda: self._cameras)
        self._evaluations = Evaluations(
            self, self._require_served, lambda: self._cameras, lambda: self._values["futures_dtype"]
        )
        if self._values["autostart"]:
            self._start_timer = every(self, 0.0, self._autostart)

    def _take_parameters(self, changed: Mapping[str, Any]) -> None:
        self._values = {**self._values, **changed}
        self._proposals.timeout_s = self._values["candidates_timeout_s"]

    def _autostart(self) -> None:
        self._start_timer.cancel()
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                self.failure = self.fault
                self.finished.set()
                return

    # --- lifecycle

    @reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model on the inference thread; publishers exist afterwards and are silent."""
        chosen = self._values
        self._cameras = cameras_of(chosen["cameras"])
        self._served = self._serve(chosen)
        model = self._served.model
        manifest = model.manifest
        names, stamped = manifest.io.action.names, chosen[STAMPED.name]
        self._actions = actions_of(names, stamped=stamped) if manifest.takes_actions else None
        self._describe(model)
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
            camera.clock = StageClock(camera.outputs)
        self._goals.listen()
        return super().on_configure(state)

    @reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen and publish."""
        answer = super().on_activate(state)
        for camera in self._cameras.values():
            camera.begin(self._require_served().pipeline.stats(camera.topic))
        self._active = True
        subscribe, only = self.create_subscription, self._while_active
        self._inputs = [
            *(self._actions.listen(self, only(self._on_action)) if self._actions else ()),
            subscribe(ActionCandidates, "~/candidates", only(self._on_candidates), qos.RESULT),
        ]
        for camera in self._cameras.values():
            on_image = only(functools.partial(self._on_image, camera))
            self._inputs += [
                subscribe(Image, camera.topic, on_image, qos.SENSOR),
                subscribe(CompressedImage, f"{camera.topic}/compressed", on_image, qos.SENSOR),
            ]
        self._model_info.publish(self._info)
        return answer

    @reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening and publishing; the model stays loaded."""
        self._stop_listening()
        return super().on_deactivate(state)

    @reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the model."""
        self._release()
        return super().on_cleanup(state)

    @reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the model for good."""
        self._release()
        return super().on_shutdown(state)

    @reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close what is open, so that the node can be configured again."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _stop_listening(self) -> None:
        self._active = False
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []

    def _release(self) -> None:
        self._stop_listening()
        self._goals.forget()
        served, self._served = self._served, None
        try:
            if served is not None:
                served.stop()
        finally:
            for publisher in self._outputs:
                self.destroy_lifecycle_publisher(publisher)
            self._outputs = []

    def _serve(self, chosen: dict[str, Any]) -> Served:
        served = Served(
            chosen,
            on_model=self._on_model,
            on_futures=self._on_futures,
            on_result=self._on_result,
            on_calibration=self._on_calibration,
            on_error=self._on_error,
            candidates=self._proposals.newest,
            deadline_ms=chosen["deadline_ms"],
            topics={
                topic: Topics(
                    self.resolve_topic_name(topic),
                    self.resolve_topic_name(f"{camera.prefix}/surprise").removesuffix("/surprise"),
                )
                for topic, camera in self._cameras.items()
            },
        )
        for setting in served.applied:
            if not setting.achieved:
                self.get_logger().warning(f"{setting.name}: {setting}")
        if served.pipeline.alarms_disabled_reason:
            self.get_logger().warning(f"no surprise will be found: {served.pipeline.alarms_disabled_reason}")
        return served

    def _describe(self, model: WorldModel) -> None:
        """Tell, and have the candidates judged by, what ``model`` is."""
        info = self._info = output_messages.model_info(model, stamp_ns=self._now_ns())
        self._proposals.expect(model)
        self.get_logger().info(
            f"loaded {info.model_id} {info.version} ({info.precision}) on {info.engine}:{info.device}:"
            f" {info.num_samples} futures of {info.horizon} steps"
        )
        for reason in model.passed_over:
            self.get_logger().warning(f"a preferred engine does not serve: {reason}")

    def _publisher(self, kind: type, topic: str, profile: Any) -> Any:
        self._outputs.append(self.create_lifecycle_publisher(kind, topic, profile))
        return self._outputs[-1]

    def _require_served(self) -> Served:
        if self._served is None:
            raise JepaRuntimeError("the node is not configured: configure it first")
        return self._served

    # --- messages in

    def _while_active(self, take: Callable[[Any], None]) -> Callable[[Any], None]:
        """What waits in the executor when a subscription is destroyed still comes: it is left out."""

        def taking(message: Any) -> None:
            if self._active:
                take(message)

        return taking

    def _on_image(self, camera: CameraStream, message: Image | CompressedImage) -> None:
        received_ns = time.time_ns()
        if not camera.reader.wants(message):
            return
        camera.watch.frame_came()
        image = camera.reader.read(message)
        if image is None:
            self.get_logger().warning(
                f"frame of {camera.topic} refused: {camera.reader.last}", throttle_duration_sec=5.0
            )
            return
        frame = Frame(
            image=image,
            stamp_ns=from_time(message.header.stamp),
            frame_id=message.header.frame_id,
            sequence=camera.reader.accepted,
            stream=camera.topic,
        )
        camera.watch.frame_is_fit((self._now_ns() - frame.stamp_ns) / 1e9)
        camera.clock.arrived(frame.stamp_ns, received_ns)
        self._require_served().submit(frame)

    def _count_publishers(self) -> None:
        if self._active:
            for camera in self._cameras.values():
                camera.count_publishers(self)

    def _on_action(self, action: NDArray[np.float32]) -> None:
        self._require_served().add_action(self._now_ns(), action)

    def _on_candidates(self, message: ActionCandidates) -> None:
        refusal = self._proposals.offer(message)
        if refusal:
            self.get_logger().warning(f"candidates refused: {refusal}", throttle_duration_sec=5.0)

    # --- results out, on the inference thread

    def _on_futures(self, result: Result) -> None:
        if self._active:
            camera, model = self._cameras[result.stream], self._require_served().model
            dtype = self._values["futures_dtype"]
            asked = self._goals.is_asked(camera, result.goal_stamp_ns)
            camera.clock.send(
                PredictedFutures,
                lambda: camera.futures.write(
                    result, model, dtype, goal_asked=asked, image_publishers=camera.publishers
                ),
            )

    def _on_result(self, result: Result) -> None:
        camera = self._cameras[result.stream]
        camera.watch.result_came(result)
        if not self._active:
            return
        served = self._require_served()
        model = served.model
        if served.box is not None:
            served.box.add_result(result)
        try:
            camera.clock.send(LatentState, lambda: output_messages.latent_state(result, model))
            if result.surprise is not None:
                camera.clock.send(Surprise, lambda: output_messages.surprise(result, model))
        finally:
            camera.clock.finish(result)

    def _on_calibration(self, result: Result) -> None:
        if not self._active:
            return
        served = self._require_served()
        if served.box is not None:
            served.box.add_alarms(result)
        events = self._cameras[result.stream].outputs[SurpriseEvent]
        for alarm in result.alarms:
            events.publish(output_messages.surprise_event(alarm, result, served.model))

    def _on_model(self, model: WorldModel, kept: bool) -> None:
        """Another model is about to serve: called between two frames."""
        self._describe(model)
        self._model_info.publish(self._info)

    def _on_error(self, error: Exception, frame: Frame | None) -> None:
        where = f"inference of {frame.stream}" if frame else "pipeline"
        self.get_logger().error(f"{where}: {error}", throttle_duration_sec=5.0)
        for camera in [self._cameras[frame.stream]] if frame else self._cameras.values():
            camera.watch.error_came(error)
        if frame is not None and self._active:
            self._cameras[frame.stream].clock.fail(frame, error)
        if isinstance(error, DeviceLostError):
            self.failure = str(error)
            self.finished.set()

    # --- reports

    def publish_diagnostics(self) -> None:
        """Publish the present verdict on each camera; called every second and after each transition."""
        hardware = f"{self._info.engine}:{self._info.device}" if self._info else str(self._values["engine"])
        of_node = {"refused_candidates": self._proposals.rejected, "pid": os.getpid()}
        applied = self._served.applied if self._served else []
        of_node |= {f"realtime/{setting.name}": str(setting) for setting in applied}
        passed_over = self._served.model.passed_over if self._served else ()
        box = self._served.box if self._served else None
        of_node |= figures_of_box(box)
        alarms_disabled_reason = self._served.pipeline.alarms_disabled_reason if self._served else ""
        if self._served is not None:
            of_node["alarms"] = alarms_disabled_reason or "given"
        conflicts = self._actions.conflicts(self) if self._actions and self._active else []
        for camera in self._cameras.values():
            verdict, figures = camera.watch.verdict(
                stats=self._served.pipeline.stats(camera.topic) if self._served else None,
                bad_frames=dict(camera.reader.refused),
                active=self._active,
                fault=self.fault,
                limits=self._values,
            )
            if self._active:
                complaints = complaints_about(
                    camera.watch.calibration, box, passed_over, alarms_disabled_reason
                )
                verdict = with_warnings(verdict, complaints)
                verdict = with_causes(verdict, [*conflicts, *camera.rivals(self)])
            self._diagnostics.publish(
                output_messages.diagnostics(
                    verdict,
                    name=f"{self.get_fully_qualified_name()[1:]}: {camera.label}",
                    hardware_id=hardware,
                    values=figures | of_node,
                    stamp_ns=self._now_ns(),
                )
            )

    def report(self) -> dict[str, Any]:
        """Counters and clocks since the last activation; with several cameras under the topic of each."""
        info = self._info
        cameras = {camera.topic: camera.report() for camera in self._cameras.values()}
        told = ("version", "sha256", "engine", "device", "precision")
        model = {} if info is None else {"id": info.model_id} | {name: getattr(info, name) for name in told}
        return {
            "model": model,
            "futures_per_frame": 0 if info is None else info.num_samples,
            "horizon": 0 if info is None else info.horizon,
            "deadline_ms": self._values["deadline_ms"],
            **(next(iter(cameras.values())) if len(cameras) == 1 else {"cameras": cameras}),
        }

    def stop(self) -> None:
        """Close the model, whatever state the node is in."""
        self._model_services.close()
        if self._served is not None:
            for camera in self._cameras.values():
                camera.watch.final = self._served.pipeline.stats(camera.topic)
        self._release()
        self._evaluations.close()

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main() -> None:
    """Entry point of ``ros2 run jepa_ros world_model``."""
    sys.exit(run(WorldModelNode, hang_s=_OPENING_S))
