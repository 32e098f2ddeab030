"""Client of the world_model node for updates: swaps models by its services and monitors its topics."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.msg import LatentState, ModelInfo, StageTimes, Surprise
from jepa_msgs.srv import SwapModel
from rclpy.node import Node
from std_srvs.srv import Trigger

from jepa_ros.common import qos
from jepa_ros.common.raw_topics import message_class
from jepa_ros.update.health_watch import NodeHealthMonitor, SwitchPermission
from jepa_runtime.bundle import MANIFEST_NAME
from jepa_runtime.errors import ReleaseRejectedError, UpdateError
from jepa_runtime.ota import Phase, State
from jepa_runtime.ota.health import Health
from jepa_runtime.recording import messages

_POLL_S = 0.05
# From the response of a swap to the latched model_info that follows it.
_MODEL_INFO_TIMEOUT_S = 5.0
# How long the node may serve another model before it is corrected: it may be about to report the right one.
# The delay doubles after each attempt.
_CORRECT_AFTER_S, _MAX_CORRECT_AFTER_S = 10.0, 3600.0
_SURPRISE = "jepa_msgs/msg/Surprise"
_LATENT = "jepa_msgs/msg/LatentState"
_OBSERVED = (_LATENT, _SURPRISE, "jepa_msgs/msg/StageTimes")
_COMPARES = (Phase.SHADOW, Phase.ARMED, Phase.SWITCH)


class ServingNodeClient:
    """Control a world_model node (:class:`jepa_runtime.ota.health.serving_interface.Serving`).

    Its large topics are subscribed to only while a new model is observed. Call the methods from any thread
    except the one that spins ``owner``.

    Args:
        owner: Node for subscriptions and clients.
        name: Fully qualified name of the world_model node.
        good: Link to the last known good model.
        permission: Permission of the robot to switch.
        monitor: Health monitor of the node.
        discovery_s: Time to wait for the node at startup and after it is gone [s].
        response_timeout_s: Time to wait for a service response [s]. Loading a model takes a second or more.
        budget_ms: Budget to encode and predict [ms], instead of the one in the release.
        stopping: Ends every wait when set.
    """

    def __init__(
        self,
        owner: Node,
        name: str,
        *,
        good: Path,
        permission: SwitchPermission,
        monitor: NodeHealthMonitor,
        discovery_s: float,
        response_timeout_s: float,
        budget_ms: float | None,
        stopping: threading.Event,
    ) -> None:
        self._owner, self._name, self._good = owner, name, good
        self._permission, self._monitor = permission, monitor
        self._discovery_s, self._response_timeout_s = discovery_s, response_timeout_s
        self._budget_ms, self._stopping = budget_ms, stopping
        self._discovered_by = time.monotonic() + discovery_s
        self._info: ModelInfo | None = None
        # The model that the node keeps open for ~/rollback_model, as far as this process knows.
        self._previous = ""
        # Whether the node may still be processing a swap whose response was not awaited.
        self._swap_pending = False
        self._agreed_at, self._correct_after_s = time.monotonic(), _CORRECT_AFTER_S
        self._observes = self._compares = False
        self._subscriptions: dict[str, Any] = {}
        owner.create_subscription(ModelInfo, f"{name}/model_info", self._on_model, qos.LATCHED)
        owner.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.RESULT)
        self._swap = owner.create_client(SwapModel, f"{name}/swap_model")
        self._rollback = owner.create_client(Trigger, f"{name}/rollback_model")
        self._commit = owner.create_client(Trigger, f"{name}/commit_model")

    # --- interface of an update

    def swap(self, folder: Path) -> None:
        """Make the node serve ``folder``.

        If there never was such a node, nothing is done: the serving process starts from the link ``current``.
        The same applies to a rollback while the node is gone.

        Raises:
            ReleaseRejectedError: The node rejects the model.
            UpdateError: The node is gone, inactive or does not respond.
        """
        if not self._was_discovered():
            return
        if not self._wait(lambda: bool(self.active_sha256), self._discovery_s):
            if self._good.exists() and folder.samefile(self._good):
                return
            raise UpdateError(
                f"{self._name} is gone or not active: start or activate it", code="serving.unavailable"
            )
        wanted, before = _sha256(folder), self._monitor.active_sha256
        if wanted == before and not self._swap_pending:
            return
        if wanted == self._previous and self._call(self._rollback, Trigger.Request()).success:
            self._previous = before
            if self._wait(lambda: self._monitor.active_sha256 == wanted, _MODEL_INFO_TIMEOUT_S):
                return
        # Until the response arrives, the model that the node keeps open is unknown too.
        self._swap_pending, self._previous = True, ""
        response = self._call(self._swap, SwapModel.Request(bundle=str(folder)))
        self._swap_pending = False
        if not response.success:
            raise ReleaseRejectedError(
                f"{self._name} rejected {folder}: {response.message}", code="serving.swap_rejected"
            )
        self._previous = before
        if not self._wait(lambda: self._monitor.active_sha256 == wanted, _MODEL_INFO_TIMEOUT_S):
            raise UpdateError(
                f"{self._name} confirmed the swap to {folder}, but its model_info does not report it: "
                "activate the node",
                code="serving.not_active",
            )

    def health(self) -> Health:
        """Return the health of the node. Without a node, only the permission to switch is reported."""
        if not self._was_discovered():
            return Health(may_switch=self._permission.granted)
        self._subscribe()
        return Health(
            serves=self._monitor.active_sha256,
            failure=self._monitor.failure(),
            may_switch=self._permission.granted and bool(self.active_sha256),
            idle=self._observes and self._monitor.idle,
        )

    def needs_correction(self, sha256: str) -> bool:
        """Return whether the node has served a model other than ``sha256`` for a while and may switch now.

        Call it while no update is in progress. It returns True once per delay.
        """
        now, active = time.monotonic(), self.active_sha256
        if not active or (active == sha256 and not self._swap_pending):
            self._agreed_at, self._correct_after_s = now, _CORRECT_AFTER_S
            return False
        if now - self._agreed_at < self._correct_after_s or not self._permission.granted:
            return False
        self._agreed_at = now
        self._correct_after_s = min(2 * self._correct_after_s, _MAX_CORRECT_AFTER_S)
        return True

    @property
    def active_sha256(self) -> str:
        """SHA-256 of the active model's manifest, or an empty string if the node is gone or unknown."""
        return self._monitor.active_sha256 if self._monitor.is_alive else ""

    @property
    def info(self) -> ModelInfo | None:
        """Description of the active model, or None if the node is gone or unknown."""
        return self._info if self.active_sha256 else None

    # --- interface of the manager

    def on_state(self, state: State) -> None:
        """Record that a state was entered.

        A new model is monitored closely while it is observed, and the active model by its surprise while a
        candidate is compared with it.
        """
        self._agreed_at = time.monotonic()
        observes, compares = state.phase is Phase.OBSERVE, state.phase in _COMPARES
        if compares and not self._compares:
            self._monitor.compare()
        if observes and not self._observes and state.candidate is not None:
            self._monitor.begin(self._budget_ms or state.candidate.release.budgets.latency_p99_ms)
        self._observes, self._compares = observes, compares
        self._subscribe()
        for topic in [] if observes or compares else list(self._subscriptions):
            # Another thread may be here too.
            if (subscription := self._subscriptions.pop(topic, None)) is not None:
                self._owner.destroy_subscription(subscription)

    def commit(self, ended: State) -> None:
        """Let the node close its previous model after an update has ended."""
        if not self._monitor.is_alive or not (self._previous or ended.result == "updated"):
            return
        self._previous = ""
        try:
            self._call(self._commit, Trigger.Request())
        except UpdateError as error:
            self._owner.get_logger().warning(f"the replaced model stays open: {error}")

    def _subscribe(self) -> None:
        """Subscribe to the topics discovered so far."""
        wanted = _OBSERVED if self._observes else (_SURPRISE,) if self._compares else ()
        for topic, types in self._owner.get_topic_names_and_types() if wanted else ():
            if topic.startswith(f"{self._name}/") and types[0] in wanted and topic not in self._subscriptions:
                self._subscriptions[topic] = self._owner.create_subscription(
                    message_class(types[0]), topic, self._on_result, qos.RESULT
                )
                if types[0] == _LATENT:
                    self._monitor.expect_latents()

    # --- messages of the node, on the executor's thread

    def _on_model(self, info: ModelInfo) -> None:
        self._info, self._monitor.active_sha256 = info, info.sha256

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(f"{self._name[1:]}: "):
                values = {pair.key: pair.value for pair in status.values}
                self._monitor.on_diagnostics(status.name, status.level[0], status.message, values)

    def _on_result(self, message: LatentState | Surprise | StageTimes) -> None:
        try:
            if isinstance(message, LatentState):
                self._monitor.latent(messages.array_of(message.latent))
            elif isinstance(message, Surprise):
                self._monitor.surprise(message.value, message.surprising)
            elif not message.error:
                stages = dict(zip(message.names, message.milliseconds, strict=True))
                self._monitor.timed(stages.get("encode", 0.0) + stages.get("predict", 0.0))
        except ValueError as error:
            self._monitor.find(f"invalid {type(message).__name__} message: {error}")

    # --- waiting

    def _was_discovered(self) -> bool:
        """Return whether such a node exists or existed. At startup, wait for its discovery."""
        remaining_s = self._discovered_by - time.monotonic()
        return self._wait(lambda: bool(self.active_sha256), remaining_s) or self._monitor.was_seen

    def _call(self, client: Any, request: Any) -> Any:
        if not self._wait(client.service_is_ready, self._discovery_s):
            raise UpdateError(
                f"service {client.srv_name} is not available: check that {self._name} is running",
                code="serving.unavailable",
            )
        future = client.call_async(request)
        self._wait(lambda: future.done() or not self._monitor.is_alive, self._response_timeout_s)
        if not future.done():
            client.remove_pending_request(future)
            raise UpdateError(
                f"service {client.srv_name} did not respond: check that {self._name} is running",
                code="serving.no_response",
            )
        return future.result()

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() >= deadline or self._stopping.wait(_POLL_S):
                return condition()
        return True


def _sha256(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest()
