"""Teach and repeat: records routes from the world model's latents, and drives along them with the planner.

The node sets goals only: the planner and its safety checks decide whether the robot moves. If this node dies,
the planner stops at the latest ``goal_deadline_s`` later.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.action import RepeatRoute, TeachRoute
from jepa_msgs.msg import LatentState, ModelInfo
from numpy.typing import NDArray
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from jepa_ros.common import qos
from jepa_ros.common.action_commands import create_action_commands
from jepa_ros.common.background_services import BackgroundServices
from jepa_ros.common.conversions import from_time
from jepa_ros.common.lifecycle_transitions import (
    activate_on_spin,
    reject_invalid_transitions,
    report_failures,
)
from jepa_ros.common.odometry import OdometryInput
from jepa_ros.common.parameters import (
    STAMPED_CMD_VEL,
    declare_parameters,
    parameter_values,
    require_relative,
)
from jepa_ros.common.spin import create_steady_timer, run
from jepa_ros.route.clients import Energies, NoAnswerError, Planner
from jepa_ros.route.parameters import ALWAYS, NEVER, PARAMETERS
from jepa_ros.route.repeating import RepeatServer, Repetition, route_folder, route_model
from jepa_ros.route.teaching import NewestImages, TeachServer
from jepa_ros.world_model import output_messages
from jepa_runtime.errors import JepaRuntimeError, OdometryError, RouteError
from jepa_runtime.imaging import image_from_message
from jepa_runtime.recording import messages
from jepa_runtime.routes import RecorderConfig, Route, RouteModel, RouteRecorder, check_absent
from jepa_runtime.telemetry import Level, Verdict, with_causes
from jepa_runtime.util import OdometryPose

# A goal in progress and one that replaces it, a recording, and their clients.
_THREADS = 8
# Time after the activation in which the publisher of the latched topic is discovered.
_MODEL_INFO_S = 5.0
_RESULT_S = 10
# Requests for the energies of a recording that has ended; one takes a second at most.
_ATTEMPTS = 20


class RouteNode(LifecycleNode):
    """Serve ``~/teach_route`` and ``~/repeat_route``. See ros2_ws/README.md."""

    def __init__(self) -> None:
        super().__init__("route")
        self.finished = threading.Event()
        self.failure = self.fault = ""
        self._values: dict[str, Any] = {}
        self._active = self._configured = False
        declare_parameters(
            self, PARAMETERS, is_configured=lambda: self._configured, on_change=self._on_parameters
        )
        self._values.update(parameter_values(self, PARAMETERS))
        camera = self._values["camera"]
        if camera:
            require_relative(camera, "camera")
        self._model: RouteModel | None = None
        self._has_model_info = threading.Event()
        self._model_info_until_s = 0.0
        self._model_reason = "no model is active: start the world model"
        self._command: NDArray[np.float32] | None = None
        self._commands_key: tuple[str, ...] = ()
        self._command_inputs: list[Any] = []
        self._images = NewestImages()
        self._reads_poses = False
        self._odometry: OdometryInput | None = None
        if self._values["use_odometry"] != NEVER:
            self._odometry = OdometryInput(self, self._values["odometry_timeout_s"])
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RESULT)
        self._subscribe(camera)
        self._background = BackgroundServices(self, "routes", MultiThreadedExecutor(_THREADS))
        self._energies = Energies(self, self._background, camera)
        self._planner = Planner(self, self._background, self._values["goal_deadline_s"])
        log, values = self.get_logger(), self._values
        self._repeat = RepeatServer(
            log=log, begin=self._begin_repeating, check_model=self._check_model, planner=self._planner,
            command=lambda: self._command, parameters=values, is_active=lambda: self._active,
        )  # fmt: skip
        self._teach = TeachServer(
            log=log, begin=self._begin_teaching, record=self._record, parameters=values,
            is_active=lambda: self._active,
        )  # fmt: skip
        self._serve()
        create_steady_timer(self, 1.0, self.publish_diagnostics)
        reject_invalid_transitions(self)
        if self._values["autostart"]:
            activate_on_spin(self)

    def _on_parameters(self, changed: Mapping[str, Any]) -> None:
        self._values.update(changed)
        if self._odometry is not None:
            self._odometry.set_timeout(self._values["odometry_timeout_s"])

    def _subscribe(self, camera: str) -> None:
        image, prefix = camera or "image", "/".join(filter(None, ("world_model", camera)))
        self.create_subscription(ModelInfo, "world_model/model_info", self.on_model, qos.LATCHED)
        self.create_subscription(LatentState, f"{prefix}/latent", self._images.on_latent, qos.RESULT)
        for message_type, topic in ((Image, image), (CompressedImage, f"{image}/compressed")):
            self.create_subscription(
                message_type, topic, self._images.callback(message_type), qos.SENSOR, raw=True
            )

    def _serve(self) -> None:
        self._background.add_action(
            RepeatRoute,
            "~/repeat_route",
            execute_callback=self._repeat.execute,
            goal_callback=self._repeat.on_goal,
            handle_accepted_callback=self._repeat.on_accepted,
            cancel_callback=self._repeat.on_cancel,
            result_timeout=_RESULT_S,
        )
        self._background.add_action(
            TeachRoute,
            "~/teach_route",
            execute_callback=self._teach.execute,
            goal_callback=self._teach.on_goal,
            cancel_callback=self._teach.on_cancel,
            result_timeout=_RESULT_S,
        )
        self._background.add_service(Trigger, "~/finish_teaching", self._on_finish)
        self._background.start()

    # --- lifecycle

    @report_failures
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the folder of the routes."""
        folder = self._values["routes_dir"]
        if folder and not Path(folder).is_dir():
            raise JepaRuntimeError(
                f"parameter routes_dir: {folder}: no such folder: create it", code="node.invalid_parameter"
            )
        self._configured = True
        return super().on_configure(state)

    @report_failures
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Accept goals."""
        self._active = True
        self._model_info_until_s = time.monotonic() + _MODEL_INFO_S
        self.get_logger().info(f"accepts goals; routes are in {self._values['routes_dir'] or '(none)'}")
        return super().on_activate(state)

    @report_failures
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the goals in progress, and accept none."""
        self._end("the node was deactivated")
        return super().on_deactivate(state)

    @report_failures
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Allow other parameters."""
        self._configured = False
        return super().on_cleanup(state)

    @report_failures
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the goals in progress."""
        self._end("the node is shutting down")
        return super().on_shutdown(state)

    def _end(self, reason: str) -> None:
        self._active = False
        self._repeat.end(reason)
        self._teach.end(reason)

    # --- inputs

    def on_model(self, info: ModelInfo) -> None:
        """Note the active model, and subscribe to its commands; abort a route that it cannot repeat."""
        try:
            model: RouteModel | None = route_model(info)
            self._model_reason = ""
        except ValueError as error:
            model, self._model_reason = None, f"{info.model_id} cannot be used: {error}"
            self.get_logger().error(self._model_reason)
        self._model, self._reads_poses = model, info.reads_poses
        self._has_model_info.set()
        self._repeat.on_model()
        names = tuple(info.action_names)
        if names == self._commands_key:
            return
        for subscription in self._command_inputs:
            self.destroy_subscription(subscription)
        self._commands_key, self._command_inputs, self._command = names, [], None
        try:
            commands = create_action_commands(names, stamped=self._values[STAMPED_CMD_VEL.name])
            self._command_inputs = commands.subscribe(self, self._on_command)
        except ValueError as error:
            self.get_logger().warning(f"commands are unknown: {error}")

    def _on_command(self, command: NDArray[np.float32]) -> None:
        self._command = command

    def _on_finish(self, _: Any, response: Trigger.Response) -> Trigger.Response:
        response.success = self._teach.finish()
        response.message = "writing the route" if response.success else "no recording is in progress"
        return response

    # --- goals, on their threads

    def _begin_repeating(self, goal: RepeatRoute.Goal) -> Repetition:
        folder = route_folder(self._values["routes_dir"], goal.name)
        taught = Route.open(folder)
        self._check_model(taught, str(folder))
        route = taught.reversed() if goal.reverse else taught
        place = 1 - goal.start if goal.reverse else goal.start
        start = None if goal.start < 0 else route.index_at(place * route.duration_s)
        return Repetition(
            route, start, self._energies, self._planner, self._values,
            odometry=self._odometry, reads_poses=self._reads_poses,
        )  # fmt: skip

    def _begin_teaching(self, goal: TeachRoute.Goal) -> tuple[Path, RouteRecorder]:
        folder = route_folder(self._values["routes_dir"], goal.name)
        check_absent(folder)
        model = self._active_model()
        config = RecorderConfig(
            spacing=self._values["key_frame_spacing"], max_gap_s=self._values["key_frame_max_gap_s"]
        )

        def score(latents: np.ndarray[Any, Any], goal: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            attempts = _ATTEMPTS if self._teach.is_finishing else 1
            return self._energies.score(latents, goal, model.latent_space, attempts=attempts).energies

        return folder, RouteRecorder(model, score, config)

    def _record(self, recorder: RouteRecorder) -> None:
        """Add the newest image; one that the world model does not score in time is left out."""
        taken = self._images.take()
        if taken is None:
            return
        latent, (message_type, cdr) = taken
        stamp_ns = from_time(latent.header.stamp)
        located = self._locate(stamp_ns)
        try:
            recorder.add(
                stamp_ns=stamp_ns,
                latent=messages.array_of(latent.latent).astype(np.float32),
                image=image_from_message(deserialize_message(cdr, message_type)),
                command=self._command,
                pose=None if located is None else located.pose,
                part=0 if located is None else located.part,
            )
        except NoAnswerError as error:
            self.get_logger().warning(f"image not recorded: {error}", throttle_duration_sec=5.0)
        if self._values["use_odometry"] == ALWAYS and recorder.odometry_ended_s is not None:
            raise RouteError(
                f"the odometry jumped {recorder.odometry_ended_s:.1f} s after the start: teach the route "
                "again",
                code="route.odometry_incomplete",
            )

    def _locate(self, stamp_ns: int) -> OdometryPose | None:
        """Return the pose at the stamp of an image; None: it is unknown.

        Raises:
            OdometryError: It is unknown, and the parameter use_odometry requires it.
        """
        if self._odometry is None:
            return None
        try:
            return self._odometry.at(stamp_ns)
        except OdometryError as error:
            if self._values["use_odometry"] == ALWAYS:
                raise
            if error.code != "odometry.missing":
                self.get_logger().warning(
                    f"image recorded without odometry: {error}", throttle_duration_sec=5.0
                )
            return None

    def _check_model(self, route: Route, where: str) -> None:
        route.check_model(self._active_model(), where)

    def _active_model(self) -> RouteModel:
        """Return the model; soon after the activation, wait for it."""
        self._has_model_info.wait(max(self._model_info_until_s - time.monotonic(), 0.0))
        if self._model is None:
            raise JepaRuntimeError(self._model_reason, code="node.no_model")
        return self._model

    # --- reports

    def publish_diagnostics(self) -> None:
        """Publish the state; called every second and after each transition."""
        level, message = Level.OK, self._repeat.state
        if self._teach.is_recording:
            message = "teaching"
        if self.fault:
            level, message = Level.ERROR, self.fault
        elif not self._active:
            message = "not active"
        elif message == "waiting":
            level = Level.WARN
        problem = "" if self._odometry is None else self._odometry.problem
        self._diagnostics.publish(
            output_messages.diagnostics(
                with_causes(Verdict(level, message), [problem] if problem else []),
                name=f"{self.get_fully_qualified_name()[1:]}: routes",
                hardware_id="",
                values={
                    "model": self._model_reason or (self._model.model_id if self._model else ""),
                    "reads_poses": self._reads_poses,
                },
                stamp_ns=int(self.get_clock().now().nanoseconds),
            )
        )

    def stop(self) -> None:
        """End the goals in progress, and wait until the robot stands."""
        self._end("the node is shutting down")
        self._repeat.join()
        self._planner.close()
        self._background.stop()

    def report(self) -> dict[str, Any]:
        """Return nothing: the results of the actions have it."""
        return {}


def main() -> None:
    """Entry point of ``ros2 run jepa_ros route``."""
    sys.exit(run(RouteNode))
