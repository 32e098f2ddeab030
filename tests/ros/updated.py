"""A robot with its two nodes, and the signed repository of its updates."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import Twist
from jepa_msgs.action import UpdateModel
from jepa_msgs.msg import LatentState, ModelInfo, UpdateEvent
from jepa_ros.common import qos
from jepa_ros.common.conversions import to_image
from rclpy.action import ActionClient
from sensor_msgs.msg import Image
from std_msgs.msg import Bool

from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.ota import config
from jepa_runtime.ota.provisioning import provision
from jepa_runtime.ota.release import Budgets
from jepa_runtime.ota.robot import CONFIG
from tests.ota.repositories import Repository
from tests.ota.robots import release_of, settings, variant

SHADOWED, UNCOMPARED = Budgets(), Budgets(max_error_ratio=None)
FRAME_NS = 33_000_000


class Fleet:
    """Run a signed repository and the two nodes of a robot that updates from it.

    Args:
        namespace: Namespace of the robot with a trailing slash, or an empty string.
    """

    def __init__(self, graph: Any, folder: Path, toy: Path, namespace: str = "") -> None:
        self.graph, self.folder, self._toy, self._namespace = graph, folder, toy, namespace
        self.repository = Repository(folder / "repository", now=datetime.now(timezone.utc))
        self.root = folder / "robot"
        self._seq = 0
        first = self._bundle()
        self.configured = settings(repository=str(self.repository.folder), health_window_s=1.0)
        provision(self.root, self.configured, self.repository.first_root, bundle=first.path)
        self.infos = graph.listen(ModelInfo, f"{namespace}world_model/model_info", qos.LATCHED)
        self.latents = graph.listen(LatentState, f"{namespace}world_model/latent")
        self.events = graph.listen(UpdateEvent, f"{namespace}update_manager/events", qos.EVENTS)
        self.camera = graph.observer.create_publisher(Image, f"{namespace}image", qos.SENSOR)
        self.safe = graph.observer.create_publisher(
            Bool, f"{namespace}update_manager/safe_to_switch", qos.LATCHED
        )
        self.commands = graph.observer.create_publisher(Twist, f"{namespace}cmd_vel", qos.RESULT)
        self._updates = ActionClient(graph.observer, UpdateModel, f"{namespace}update_manager/update")
        self._stamp_ns = time.time_ns()
        self._pixels = np.random.default_rng(0)
        self.safe.publish(Bool(data=True))
        self.start_world_model()
        self.start_manager()

    def start_world_model(self) -> None:
        self._start("world_model", {"bundle": self.root / "current"})

    def start_manager(self, **parameters: Any) -> None:
        given = {
            "root": self.root,
            "auto": False,
            "image_topic": "image",
            "require_safe": True,
            "safe_timeout_s": 0.0,
            "silent_after_s": 3.0,
            "discovery_s": 5.0,
        }
        self._start("update_manager", given | parameters)

    def _start(self, node: str, parameters: dict[str, Any]) -> None:
        remaps = (f"__ns:=/{self._namespace.rstrip('/')}",)
        self.graph.start(node, parameters, remaps, called=self.called(node))

    def called(self, node: str) -> str:
        """Return the name of a node of this robot in the graph."""
        return f"{self._namespace.replace('/', '_')}{node}"

    def _bundle(self) -> Bundle:
        self._seq += 1
        return variant(self._toy, self.folder / str(self._seq), f"{self._seq}.0.0")

    def publish(self, *, wrong: bool = False, budgets: Budgets = UNCOMPARED) -> Bundle:
        """Publish the next release; ``wrong``: its golden outputs do not match."""
        bundle = self._bundle()
        if wrong:
            golden = dict(np.load(bundle.path / "golden.npz"))
            np.savez(bundle.path / "golden.npz", **golden | {"latents": golden["latents"] + 1})
            bundle = seal(bundle.path, bundle.manifest)
        self.repository.release(bundle, release_of(bundle, self._seq, budgets=budgets))
        return bundle

    def configure(self, **fields: Any) -> None:
        config.save(self.root / CONFIG, self.configured.model_copy(update=fields))

    def look(self) -> None:
        """Publish an image."""
        self._stamp_ns += FRAME_NS
        pixels = self._pixels.integers(0, 256, (48, 64, 3), np.uint8)
        self.camera.publish(to_image(pixels, stamp_ns=self._stamp_ns, frame_id="eye"))

    def until(self, condition: Callable[[], Any], what: str, **named: Any) -> None:
        """Wait while images are published."""
        self.graph.until(condition, what, 120.0, **{"meanwhile": self.look} | named)

    def update(self, **goal: Any) -> Update:
        return Update(self, self._updates, UpdateModel.Goal(**goal))

    def ask(self, kind: type[Any], service: str, **request: Any) -> Any:
        return self.graph.call(kind, f"/{self._namespace}update_manager/{service}", kind.Request(**request))

    def until_state(self, state: str) -> None:
        self.until(lambda: self.events and self.events[-1].state == state, f"the state {state}")

    @property
    def serves(self) -> str:
        """Return the active version, which the link must match."""
        self.graph.spin_for(0.2)
        on_disk = Bundle.open(self.root / "current")
        assert self.infos[-1].sha256 == on_disk.sha256
        return str(self.infos[-1].version)


class Update:
    """Represent a goal that was accepted or rejected."""

    def __init__(self, fleet: Fleet, client: ActionClient, goal: UpdateModel.Goal) -> None:
        self._fleet = fleet
        self.feedback: list[UpdateModel.Feedback] = []
        fleet.until(client.server_is_ready, "the action server")
        sent = client.send_goal_async(goal, feedback_callback=self._hear)
        fleet.until(sent.done, "an answer to the goal")
        self._handle = sent.result()
        self.accepted = self._handle.accepted
        self._result = self._handle.get_result_async() if self.accepted else None

    def _hear(self, message: Any) -> None:
        self.feedback.append(message.feedback)

    def cancel(self) -> bool:
        cancelled = self._handle.cancel_goal_async()
        self._fleet.until(cancelled.done, "an answer to the cancellation")
        return bool(cancelled.result().goals_canceling)

    def end(self, **named: Any) -> tuple[int, UpdateModel.Result]:
        assert self._result is not None
        self._fleet.until(self._result.done, "the end of the update", **named)
        ended = self._result.result()
        return ended.status, ended.result
