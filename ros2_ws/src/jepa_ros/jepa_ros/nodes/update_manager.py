"""Brings models to the robot: signed, tried, compared on its own frames, switched to between two images of
the world_model node, watched there, and taken back if they fail.

A process of its own: whatever happens to it, the node that serves serves on.
"""

from __future__ import annotations

import shutil
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.msg import UpdateEvent
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from std_msgs.msg import Bool

from jepa_ros.common import qos
from jepa_ros.common.parameters import STAMPED, declare, require_name, values
from jepa_ros.common.spin import every, run
from jepa_ros.update import status_messages
from jepa_ros.update.action_feedback import Feedback
from jepa_ros.update.health_watch import HealthWatch, SafeWord
from jepa_ros.update.parameters import PARAMETERS
from jepa_ros.update.services import UpdateServices
from jepa_ros.update.serving_node import NodeServing
from jepa_ros.update.topic_source import TopicSource
from jepa_ros.update.worker import Worker
from jepa_ros.world_model import output_messages
from jepa_runtime.errors import JepaRuntimeError, SourceError, UpdateError
from jepa_runtime.ota import config, daemon, operator_requests, robot, state
from jepa_runtime.ota.client import Client
from jepa_runtime.ota.hawkbit.agent import HawkbitAgent
from jepa_runtime.ota.operator_alarms import alarms
from jepa_runtime.ota.state import Installed, Phase, State
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.ota.transport.fetch import Progress
from jepa_runtime.telemetry.diagnostics import Level, Verdict
from jepa_runtime.util import atomic_files

Tell = Callable[[State, str], None]


class UpdateManagerNode(Node):
    """Updates the model of one robot. See ros2_ws/README.md for its topics, services and parameters."""

    def __init__(self) -> None:
        super().__init__("update_manager")
        self.finished = threading.Event()
        self.failure = ""
        declare(self, PARAMETERS)
        chosen = self._chosen = values(self, PARAMETERS)
        if not chosen["root"]:
            raise JepaRuntimeError("parameter root is empty: set it to the folder of a robot")
        for parameter in ("world_model", "image_topic", "action_topic"):
            if chosen[parameter] or parameter == "world_model":
                require_name(chosen[parameter], parameter)
        self._root = Path(chosen["root"]).absolute()
        self._settings = config.load(self._root / robot.CONFIG)
        self._kept = state.load(self._root / robot.STATE)
        self._ended: Counter[str] = Counter()
        self._events = self.create_publisher(UpdateEvent, "~/events", qos.EVENTS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RESULT)
        self._safe = SafeWord(required=chosen["require_safe"], timeout_s=chosen["safe_timeout_s"])
        # Whoever says it once, latched, and whoever says it again and again.
        for profile in (qos.LATCHED, qos.RESULT):
            self.create_subscription(Bool, "~/safe_to_switch", self._on_safe, profile)
        self._worker = Worker(
            self._opened,
            poll_s=self._poll_s,
            root=self._root,
            log=self._log,
            rest=self._agree,
            fleet=self._fleet(),
        )
        self._serving = self._serve()
        self._feedback = Feedback(lambda feedback: self._doors.tell(feedback))
        self._told = ("", "", "", "")
        self._announce(self._kept, self._kept.reason)
        self._doors = UpdateServices(
            self, self._root, self._worker, rollback=self._rollback, changed=self._change
        )
        every(self, 1.0, self._look)
        self._thread = threading.Thread(target=self._work, name="jepa-updates")
        self._thread.start()

    def _serve(self) -> NodeServing:
        chosen = self._chosen
        name = expand_topic_name(chosen["world_model"], self.get_name(), self.get_namespace())
        return NodeServing(
            self,
            name,
            good=self._root / "good",
            safe=self._safe,
            watch=HealthWatch(name, silent_after_s=chosen["silent_after_s"]),
            discovery_s=chosen["discovery_s"],
            answer_s=chosen["answer_timeout_s"],
            budget_ms=chosen["latency_p99_ms"] or None,
            stopping=self._worker.stopping,
        )

    def _fleet(self) -> HawkbitAgent | None:
        ordered = self._settings.hawkbit is not None
        return HawkbitAgent(self._root, self._opened, log=self._log) if ordered else None

    def _log(self, line: str) -> None:
        self.get_logger().info(line)

    # --- the thread that updates

    def _work(self) -> None:
        try:
            self._worker.run()
        except Exception as error:
            self.get_logger().error(traceback.format_exc())
            self.failure = f"updating failed: {type(error).__name__}: {error}"
        finally:
            self.finished.set()

    def _opened(
        self, *, tell: Tell = robot.nothing, progress: Progress = robot.nothing, **asked: Any
    ) -> AbstractContextManager[Client]:
        """The client; a fleet's round is told as well."""

        def enter(entered: State, reason: str) -> None:
            self._enter(entered, reason)
            tell(entered, reason)

        def fetched(done: int, total: int) -> None:
            self._feedback.fetched(done, total)
            progress(done, total)

        return robot.open_client(
            self._root,
            serving=self._serving,
            frames=self._open_frames if self._chosen["image_topic"] else None,
            report=self._report_end,
            progress=fetched,
            compared=self._feedback.compared,
            tell=enter,
            **asked,
        )

    def _open_frames(self) -> TopicSource:
        store, chosen = SlotStore(self._root), self._chosen
        serves = store.current()
        if serves is None:
            raise SourceError(f"{self._root / 'current'}: nothing serves that could be compared with")
        try:
            return TopicSource(
                self,
                images=chosen["image_topic"],
                commands=chosen["action_topic"],
                action_names=store.manifest(serves).io.action.names,
                stamped=chosen[STAMPED.name],
                patience_s=chosen["frames_timeout_s"],
                duration_s=chosen["compare_for_s"],
            )
        except ValueError as error:
            raise SourceError(f"commands of the robot: {error}") from error

    def _poll_s(self) -> float | None:
        """An update in work is carried to its end whoever began it."""
        wanted = self.get_parameter("auto").value or self._kept.phase is not Phase.IDLE
        return daemon.pause_s(self._kept, self._settings.poll_s) if wanted else None

    def _rollback(self, reason: str) -> State:
        kept = operator_requests.rollback(self._root, reason, serving=self._serving)
        self._serving.settle(kept)
        return kept

    def _agree(self) -> None:
        """Nothing is in work: the node serves what the robot's folder says, whoever decided that. The command
        line cannot tell it, and a swap may end after nobody waits for it any more."""
        settled = _settled(self._kept)
        if settled is None or not self._serving.disagrees(settled.manifest_sha256):
            return
        try:
            with atomic_files.locked(self._root / robot.LOCK, purpose="the update manager", wait_s=0.0):
                kept = state.load(self._root / robot.STATE)
                if settled == _settled(kept):
                    self._log(f"the node serves something else: it is to serve {settled.version}")
                    self._serving.swap(SlotStore(self._root).folder(settled.manifest_sha256))
                    self._serving.settle(kept)
        except (JepaRuntimeError, OSError) as error:
            self.get_logger().warning(f"the node serves something else than it should: {error}")

    def _report_end(self, ended: State) -> None:
        self._ended[ended.result] += 1
        self._serving.settle(ended)

    # --- what is told

    def _enter(self, entered: State, reason: str) -> None:
        """A state was entered, and kept."""
        if entered.phase is Phase.IDLE:
            reason = reason or entered.reason
        self._kept = entered
        self._worker.follow(entered)
        self._serving.follow(entered)
        self._feedback.entered(entered, reason)
        self._announce(entered, reason)

    def _change(self, kept: State) -> None:
        """Somebody changed what was kept; where an update goes on, it tells by itself."""
        if kept.phase is Phase.IDLE:
            self._enter(kept, kept.reason)

    def _announce(self, entered: State, reason: str) -> None:
        event = status_messages.event(entered, reason, stamp_ns=self.get_clock().now().nanoseconds)
        told = (event.state, event.reason, event.release.sha256, event.result)
        if told != self._told:
            self._told = told
            self._events.publish(event)

    def _look(self) -> None:
        """How updates stand, from the disk: others change it too."""
        now, figures = robot.utc_now(), {}
        try:
            self._settings = config.load(self._root / robot.CONFIG)
            self._kept = state.load(self._root / robot.STATE)
            verdict, figures = status_messages.verdict(
                self._kept,
                self._settings,
                alarms(self._root, self._kept),
                info=self._serving.info,
                looks=bool(self.get_parameter("auto").value),
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
                values=figures,
                stamp_ns=self.get_clock().now().nanoseconds,
            )
        )

    def _on_safe(self, word: Bool) -> None:
        was_safe = self._safe.safe
        self._safe.say(word.data)
        awaits_approval = status_messages.status(self._kept, self._settings).awaits_approval
        if word.data and not was_safe and self._serving.serves and not awaits_approval:
            self._worker.hurry()

    # --- the end

    def report(self) -> dict[str, Any]:
        """How updates ended while this node ran, and what serves."""
        serves = self._kept.current
        return {"ended": dict(self._ended), "serves": "" if serves is None else serves.version}

    def stop(self) -> None:
        """Leave an update in work to the next start, at a moment at which nothing is half done."""
        self._worker.stopping.set()
        self._thread.join()
        self._doors.close()


def _settled(kept: State) -> Installed | None:
    """What the node is to serve: nothing is in work, nor is a way back still to be gone."""
    return kept.current if kept.phase is Phase.IDLE and not kept.owes_way_back else None


def main() -> None:
    """Entry point of ``ros2 run jepa_ros update_manager``."""
    # The thread that updates is watched already, and a process has one watch.
    sys.exit(run(UpdateManagerNode, hang_s=None))
