"""Updates the model of a robot: verifies, tests and compares a release, swaps it in, monitors it, rolls back.

The comparison runs on the robot's own frames, and the swap happens between two images of the world_model
node. The manager is a separate process, so that no failure here interrupts the active model.
"""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import traceback
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.msg import UpdateEvent
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from std_msgs.msg import Bool

from jepa_ros.common import qos
from jepa_ros.common.parameters import STAMPED_CMD_VEL, declare_parameters, parameter_values, require_name
from jepa_ros.common.spin import create_steady_timer, run
from jepa_ros.update import status_messages
from jepa_ros.update.action_feedback import UpdateFeedback
from jepa_ros.update.health_watch import NodeHealthMonitor, SwitchPermission
from jepa_ros.update.parameters import PARAMETERS
from jepa_ros.update.services import UpdateServices
from jepa_ros.update.serving_node import ServingNodeClient
from jepa_ros.update.topic_source import TopicSource
from jepa_ros.update.worker import Worker
from jepa_ros.world_model import output_messages
from jepa_runtime.errors import JepaRuntimeError, SourceError, UpdateError
from jepa_runtime.ota import (
    Client,
    Installed,
    Phase,
    State,
    alarms,
    config,
    daemon,
    operator_requests,
    robot,
    state,
)
from jepa_runtime.ota.hawkbit import HawkbitAgent
from jepa_runtime.ota.storage import SlotStore
from jepa_runtime.telemetry import Level, Verdict
from jepa_runtime.util import atomic_files


class UpdateManagerNode(Node):
    """Update the model of one robot. ros2_ws/README.md lists its topics, services and parameters."""

    def __init__(self) -> None:
        super().__init__("update_manager")
        self.finished = threading.Event()
        self.failure = ""
        declare_parameters(self, PARAMETERS)
        values = self._values = parameter_values(self, PARAMETERS)
        if not values["root"]:
            raise JepaRuntimeError(
                "parameter root is empty: set it to the folder of a robot", code="node.invalid_parameter"
            )
        for parameter in ("world_model", "image_topic", "action_topic"):
            if values[parameter] or parameter == "world_model":
                require_name(values[parameter], parameter)
        self._root = Path(values["root"]).absolute()
        self._settings = config.load(self._root / robot.CONFIG)
        self._state = state.load(self._root / robot.STATE)
        self._results: Counter[str] = Counter()
        self._events = self.create_publisher(UpdateEvent, "~/events", qos.EVENTS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RESULT)
        self._permission = SwitchPermission(
            required=values["require_safe"], timeout_s=values["safe_timeout_s"]
        )
        # Publishers may latch the permission or repeat it.
        for profile in (qos.LATCHED, qos.RESULT):
            self.create_subscription(Bool, "~/safe_to_switch", self._on_safe_to_switch, profile)
        self._worker = Worker(
            self._open_client,
            poll_s=self._poll_s,
            root=self._root,
            log=self._log,
            on_idle=self._correct_active_model,
            fleet=self._fleet(),
        )
        self._serving = self._create_serving_client()
        self._feedback = UpdateFeedback(lambda feedback: self._update_services.publish_feedback(feedback))
        self._last_event = ("", "", "", "")
        self._publish_event(self._state, self._state.reason)
        self._update_services = UpdateServices(
            self, self._root, self._worker, rollback=self._rollback, on_change=self._on_operator_change
        )
        create_steady_timer(self, 1.0, self._publish_diagnostics)
        self._thread = threading.Thread(target=self._run_worker, name="jepa-updates")
        self._thread.start()

    def _create_serving_client(self) -> ServingNodeClient:
        values = self._values
        name = expand_topic_name(values["world_model"], self.get_name(), self.get_namespace())
        return ServingNodeClient(
            self,
            name,
            good=self._root / "good",
            permission=self._permission,
            monitor=NodeHealthMonitor(name, silent_after_s=values["silent_after_s"]),
            discovery_s=values["discovery_s"],
            response_timeout_s=values["response_timeout_s"],
            budget_ms=values["latency_p99_ms"] or None,
            stopping=self._worker.stopping,
        )

    def _fleet(self) -> HawkbitAgent | None:
        configured = self._settings.hawkbit is not None
        return HawkbitAgent(self._root, self._open_client, log=self._log) if configured else None

    def _log(self, level: int, line: str) -> None:
        logger = self.get_logger()
        # rclpy rejects a call with another level at the same place.
        if level >= logging.ERROR:
            logger.error(line)
        elif level == logging.WARNING:
            logger.warning(line)
        else:
            logger.info(line)

    # --- the update thread

    def _run_worker(self) -> None:
        try:
            self._worker.run()
        except Exception as error:
            self.get_logger().error(traceback.format_exc())
            self.failure = f"update thread failed: {type(error).__name__}: {error}"
        finally:
            self.finished.set()

    def _open_client(
        self, *, callbacks: robot.UpdateCallbacks | None = None, **arguments: Any
    ) -> AbstractContextManager[Client]:
        """Open the client. The callbacks of a fleet agent are called in addition to those of this node."""

        def enter(entered: State, reason: str) -> None:
            self._on_state(entered, reason)
            if callbacks is not None:
                callbacks.on_state(entered, reason)

        def fetched(done: int, total: int) -> None:
            self._feedback.on_download(done, total)
            if callbacks is not None:
                callbacks.on_progress(done, total)

        return robot.open_client(
            self._root,
            callbacks=robot.UpdateCallbacks(
                on_state=enter,
                on_progress=fetched,
                on_comparison=self._feedback.on_comparison,
                on_end=self._on_update_ended,
            ),
            components=robot.UpdateComponents(
                serving=self._serving,
                frames=self._open_frames if self._values["image_topic"] else None,
            ),
            **arguments,
        )

    def _open_frames(self) -> TopicSource:
        store, values = SlotStore(self._root), self._values
        active = store.current()
        if active is None:
            raise SourceError(
                f"{self._root / 'current'}: there is no active model to compare with", code="source.no_model"
            )
        io = store.manifest(active).io
        if io.state is not None:
            raise SourceError(
                f"{values['image_topic']}: the active model reads the measured state of the robot "
                f"({', '.join(io.state.names)}), which is not read from topics for a comparison: start this "
                "node without image_topic, and set shadow in config.json to a recorded bag with ?action= and "
                "?state=",
                code="source.state_missing",
            )
        try:
            return TopicSource(
                self,
                images=values["image_topic"],
                commands=values["action_topic"],
                action_names=io.action.names,
                stamped=values[STAMPED_CMD_VEL.name],
                timeout_s=values["frames_timeout_s"],
                duration_s=values["compare_for_s"],
            )
        except ValueError as error:
            raise SourceError(f"commands of the robot: {error}", code="source.unsupported_actions") from error

    def _poll_s(self) -> float | None:
        """Return the poll interval [s], also without ``auto`` while an update is in progress."""
        enabled = self.get_parameter("auto").value or self._state.phase is not Phase.IDLE
        return daemon.pause_s(self._state, self._settings.poll_s) if enabled else None

    def _rollback(self, reason: str) -> State:
        saved = operator_requests.rollback(self._root, reason, serving=self._serving)
        self._serving.commit(saved)
        return saved

    def _correct_active_model(self) -> None:
        """Make the node serve the model that the robot's folder states, while no update is in progress.

        They differ after a command-line operation, or after a swap that ended later than its timeout.
        """
        expected = _expected_model(self._state)
        if expected is None or not self._serving.needs_correction(expected.manifest_sha256):
            return
        try:
            with atomic_files.locked(self._root / robot.LOCK, purpose="the update manager", wait_s=0.0):
                saved = state.load(self._root / robot.STATE)
                if expected == _expected_model(saved):
                    self.get_logger().warning(
                        f"the node serves another model: switching to {expected.version}"
                    )
                    self._serving.swap(SlotStore(self._root).folder(expected.manifest_sha256))
                    self._serving.commit(saved)
        except (JepaRuntimeError, OSError) as error:
            self.get_logger().warning(f"the node serves another model and cannot be switched: {error}")

    def _on_update_ended(self, ended: State) -> None:
        self._results[ended.result] += 1
        self._serving.commit(ended)

    # --- outputs

    def _on_state(self, entered: State, reason: str) -> None:
        """Report a state that was entered and saved."""
        if entered.phase is Phase.IDLE:
            reason = reason or entered.reason
        self._state = entered
        self._worker.on_state(entered)
        self._serving.on_state(entered)
        self._feedback.on_state(entered, reason)
        self._publish_event(entered, reason)

    def _on_operator_change(self, saved: State) -> None:
        """Report a change by an operator. An update in progress reports it by itself."""
        if saved.phase is Phase.IDLE:
            self._on_state(saved, saved.reason)

    def _publish_event(self, entered: State, reason: str) -> None:
        event = status_messages.event(entered, reason, stamp_ns=self.get_clock().now().nanoseconds)
        key = (event.state, event.reason, event.release.sha256, event.result)
        if key != self._last_event:
            self._last_event = key
            self._events.publish(event)

    def _publish_diagnostics(self) -> None:
        """Publish the state on disk, which other processes change too."""
        now = robot.utc_now()
        values: dict[str, Any] = {}
        try:
            self._settings = config.load(self._root / robot.CONFIG)
            self._state = state.load(self._root / robot.STATE)
            verdict, values = status_messages.verdict(
                self._state,
                self._settings,
                alarms(self._root, self._state),
                info=self._serving.info,
                polls=bool(self.get_parameter("auto").value),
                now=now,
                free_bytes=shutil.disk_usage(self._root).free,
            )
        except (UpdateError, OSError) as error:
            verdict = Verdict(Level.ERROR, str(error))
        self._diagnostics.publish(
            output_messages.diagnostics(
                verdict,
                name=f"{self.get_fully_qualified_name()[1:]}: updates",
                hardware_id=self._settings.device_id,
                values=values,
                stamp_ns=self.get_clock().now().nanoseconds,
            )
        )

    def _on_safe_to_switch(self, message: Bool) -> None:
        was_granted = self._permission.granted
        self._permission.set(message.data)
        awaits_approval = status_messages.status(self._state, self._settings).awaits_approval
        if message.data and not was_granted and self._serving.active_sha256 and not awaits_approval:
            self._worker.wake()

    # --- shutdown

    def report(self) -> dict[str, Any]:
        """Return the results of updates since the start, and the version of the active model."""
        active = self._state.current
        return {"results": dict(self._results), "active_version": "" if active is None else active.version}

    def stop(self) -> None:
        """Interrupt an update in progress at a safe point. It resumes at the next start."""
        self._worker.stopping.set()
        self._thread.join()
        self._update_services.close()


def _expected_model(saved: State) -> Installed | None:
    """Return the model that the node should serve, or None during an update or a pending rollback."""
    return saved.current if saved.phase is Phase.IDLE and not saved.rollback_pending else None


def main() -> None:
    """Entry point of ``ros2 run jepa_ros update_manager``."""
    # The worker has a watchdog of its own, and a process has only one.
    sys.exit(run(UpdateManagerNode, hang_timeout_s=None))
