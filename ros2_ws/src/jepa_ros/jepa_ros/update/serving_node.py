"""The node that serves, as an update needs it: exchanged and taken back by its services, watched by its
topics."""

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
from jepa_ros.update.health_watch import HealthWatch, SafeWord
from jepa_runtime.bundle import MANIFEST_NAME
from jepa_runtime.errors import ReleaseRejectedError, UpdateError
from jepa_runtime.ota.health.serving_interface import Health
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.recording.messages import array_of

_SLICE_S = 0.05
# From the answer of a swap to the latched word that follows it.
_WORD_S = 5.0
# A node that serves something else is left alone for this long: it may be about to say otherwise. After each
# attempt to change that, for twice as long as before.
_AGREE_S, _MOST_AGREE_S = 10.0, 3600.0
_SURPRISE = "jepa_msgs/msg/Surprise"
_LATENT = "jepa_msgs/msg/LatentState"
_LISTENED = (_LATENT, _SURPRISE, "jepa_msgs/msg/StageTimes")
_COMPARES = (Phase.SHADOW, Phase.ARMED, Phase.SWITCH)


class NodeServing:
    """A world_model node, for whoever updates (:class:`jepa_runtime.ota.health.serving_interface.Serving`).

    Its large topics are listened to only while a new model is observed. Call it from any thread but the one
    that spins ``owner``.

    Args:
        owner: subscribes and calls.
        name: of the node that serves, whole.
        good: the link to what is gone back to.
        safe: says when the robot may switch.
        watch: sees how it goes.
        discovery_s: how long to wait for the node, at the start and where it is gone.
        answer_s: how long to wait for the answer of a service: loading a model takes a second or more.
        budget_ms: of encode and predict, instead of the release's.
        stopping: ends every wait when set.
    """

    def __init__(
        self,
        owner: Node,
        name: str,
        *,
        good: Path,
        safe: SafeWord,
        watch: HealthWatch,
        discovery_s: float,
        answer_s: float,
        budget_ms: float | None,
        stopping: threading.Event,
    ) -> None:
        self._owner, self._name, self._good = owner, name, good
        self._safe, self._watch = safe, watch
        self._discovery_s, self._answer_s, self._budget_ms = discovery_s, answer_s, budget_ms
        self._stopping = stopping
        self._known_by = time.monotonic() + discovery_s
        self._info: ModelInfo | None = None
        # What the node keeps open for ~/rollback_model, as far as this process knows.
        self._held = ""
        # Whether it may still be at work on a swap of which nobody waited for the end.
        self._unanswered = False
        self._agreed_at, self._agree_s = time.monotonic(), _AGREE_S
        self._observes = self._compares = False
        self._listening: dict[str, Any] = {}
        owner.create_subscription(ModelInfo, f"{name}/model_info", self._on_model, qos.LATCHED)
        owner.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.RESULT)
        self._swap = owner.create_client(SwapModel, f"{name}/swap_model")
        self._rollback = owner.create_client(Trigger, f"{name}/rollback_model")
        self._commit = owner.create_client(Trigger, f"{name}/commit_model")

    # --- what an update asks for

    def swap(self, folder: Path) -> None:
        """Let the node serve ``folder``. Where there never was one, the serving process starts from the link
        ``current``; the same holds for the way back where it is gone.

        Raises:
            ReleaseRejectedError: the node refuses it.
            UpdateError: the node is gone, serves nothing or does not answer.
        """
        if not self._was_there():
            return
        if not self._wait(lambda: bool(self.serves), self._discovery_s):
            if self._good.exists() and folder.samefile(self._good):
                return
            raise UpdateError(f"{self._name} is gone, or not active: start it, or activate it")
        wanted, before = _sha256(folder), self._watch.serves
        if wanted == before and not self._unanswered:
            return
        if wanted == self._held and self._ask(self._rollback, Trigger.Request()).success:
            self._held = before
            if self._wait(lambda: self._watch.serves == wanted, _WORD_S):
                return
        # Until it answers, what it keeps open is not known either.
        self._unanswered, self._held = True, ""
        answer = self._ask(self._swap, SwapModel.Request(bundle=str(folder)))
        self._unanswered = False
        if not answer.success:
            raise ReleaseRejectedError(f"{self._name} refuses {folder}: {answer.message}")
        self._held = before
        if not self._wait(lambda: self._watch.serves == wanted, _WORD_S):
            raise UpdateError(
                f"{self._name} answered that {folder} serves, but its model_info does not say so: activate it"
            )

    def health(self) -> Health:
        """How it goes; whether the robot can switch is asked of the robot, and needs a node that serves."""
        if not self._was_there():
            return Health(may_switch=self._safe.safe)
        self._listen()
        return Health(
            serves=self._watch.serves,
            failure=self._watch.failure(),
            may_switch=self._safe.safe and bool(self.serves),
            idle=self._observes and self._watch.idle,
        )

    def disagrees(self, sha256: str) -> bool:
        """Whether the node has served something other than ``sha256`` for a while, though nothing is in work,
        and may take another model now. True once in a while."""
        now, serves = time.monotonic(), self.serves
        if not serves or (serves == sha256 and not self._unanswered):
            self._agreed_at, self._agree_s = now, _AGREE_S
            return False
        if now - self._agreed_at < self._agree_s or not self._safe.safe:
            return False
        self._agreed_at, self._agree_s = now, min(2 * self._agree_s, _MOST_AGREE_S)
        return True

    @property
    def serves(self) -> str:
        """The SHA-256 of the manifest of what serves; empty: the node is gone, or has not said so."""
        return self._watch.serves if self._watch.there else ""

    @property
    def info(self) -> ModelInfo | None:
        """What the node says that it serves; None: it is gone, or has not said so."""
        return self._info if self.serves else None

    # --- what the manager tells

    def follow(self, state: State) -> None:
        """A state was entered: a new model is watched closely while it is observed, and what serves by its
        surprise while that is compared with."""
        self._agreed_at = time.monotonic()
        observes, compares = state.phase is Phase.OBSERVE, state.phase in _COMPARES
        if compares and not self._compares:
            self._watch.compare()
        if observes and not self._observes and state.work is not None:
            self._watch.begin(self._budget_ms or state.work.release.budgets.latency_p99_ms)
        self._observes, self._compares = observes, compares
        self._listen()
        for topic in [] if observes or compares else list(self._listening):
            # Another thread may be here too.
            if (subscription := self._listening.pop(topic, None)) is not None:
                self._owner.destroy_subscription(subscription)

    def settle(self, ended: State) -> None:
        """An update has ended: the node need not keep what it served before."""
        if not self._watch.there or not (self._held or ended.result == "updated"):
            return
        self._held = ""
        try:
            self._ask(self._commit, Trigger.Request())
        except UpdateError as error:
            self._owner.get_logger().warning(f"the model that was replaced stays open: {error}")

    def _listen(self) -> None:
        """Discovery takes its time: what it has found by now."""
        wanted = _LISTENED if self._observes else (_SURPRISE,) if self._compares else ()
        for topic, types in self._owner.get_topic_names_and_types() if wanted else ():
            if topic.startswith(f"{self._name}/") and types[0] in wanted and topic not in self._listening:
                self._listening[topic] = self._owner.create_subscription(
                    message_class(types[0]), topic, self._on_result, qos.RESULT
                )
                if types[0] == _LATENT:
                    self._watch.listen()

    # --- the node's messages, on the executor's thread

    def _on_model(self, info: ModelInfo) -> None:
        self._info, self._watch.serves = info, info.sha256

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(f"{self._name[1:]}: "):
                values = {pair.key: pair.value for pair in status.values}
                self._watch.diagnosed(status.name, status.level[0], status.message, values)

    def _on_result(self, message: LatentState | Surprise | StageTimes) -> None:
        try:
            if isinstance(message, LatentState):
                self._watch.latent(array_of(message.latent))
            elif isinstance(message, Surprise):
                self._watch.surprise(message.value, message.surprising)
            elif not message.error:
                stages = dict(zip(message.names, message.milliseconds, strict=True))
                self._watch.timed(stages.get("encode", 0.0) + stages.get("predict", 0.0))
        except ValueError as error:
            self._watch.find(f"its {type(message).__name__} cannot be read: {error}")

    # --- waiting

    def _was_there(self) -> bool:
        """Whether there is, or ever was, such a node. At the start it gets time to be found."""
        return self._wait(lambda: bool(self.serves), self._known_by - time.monotonic()) or self._watch.seen

    def _ask(self, client: Any, request: Any) -> Any:
        if not self._wait(client.service_is_ready, self._discovery_s):
            raise UpdateError(f"{client.srv_name} is not there: is {self._name} alive?")
        future = client.call_async(request)
        self._wait(lambda: future.done() or not self._watch.there, self._answer_s)
        if not future.done():
            client.remove_pending_request(future)
            raise UpdateError(f"{client.srv_name} did not answer: is {self._name} alive?")
        return future.result()

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        ends = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() >= ends or self._stopping.wait(_SLICE_S):
                return condition()
        return True


def _sha256(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest()
