"""The client of the serving node and the frame source of an update, without a graph."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros.update", reason="the workspace is not on the paths: . scripts/env.sh")

from geometry_msgs.msg import PoseStamped, Twist, TwistStamped, Vector3
from jepa_msgs.msg import ModelInfo
from jepa_msgs.srv import SwapModel
from jepa_ros.common.conversions import to_image
from jepa_ros.nodes.update_manager import UpdateManagerNode
from jepa_ros.update.health_watch import NodeHealthMonitor, SwitchPermission
from jepa_ros.update.serving_node import ServingNodeClient
from jepa_ros.update.topic_source import TopicSource
from sensor_msgs.msg import Image
from std_msgs.msg import Float64
from std_srvs.srv import Trigger

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import ReleaseRejectedError, SourceError, UpdateError
from jepa_runtime.ota.state import State
from tests.errors import code
from tests.ota.robots import factory, variant

pytestmark = pytest.mark.ros

NODE, STATUS = "/world_model", "world_model: inference"
NS = 1_000_000_000


class Owner:
    """Fake a node with recorded callbacks and immediate service responses."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.callbacks: dict[tuple[type, str], Any] = {}
        self.requests: list[Any] = []
        self.now_ns = 0
        self.late = False

    def create_subscription(self, kind: type, topic: str, callback: Any, _: Any) -> tuple[type, str]:
        self.callbacks[kind, topic] = callback
        return kind, topic

    def destroy_subscription(self, subscription: tuple[type, str]) -> None:
        del self.callbacks[subscription]

    def create_client(self, _: type, service: str) -> Any:
        def call(request: Any) -> Any:
            self.requests.append(request)
            answer = self.answers[service.rpartition("/")[2]]
            late = self.late
            return SimpleNamespace(done=lambda: not late, result=lambda: answer(request))

        return SimpleNamespace(
            srv_name=service,
            service_is_ready=lambda: True,
            call_async=call,
            remove_pending_request=lambda _: None,
        )

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=self.now_ns))

    def get_topic_names_and_types(self) -> list[tuple[str, list[str]]]:
        return []


class Served:
    """Fake a node that serves the first of three bundles, used through :class:`ServingNodeClient`."""

    def __init__(self, folder: Path, bundles: list[Any], *, there: bool = True) -> None:
        (folder / "good").symlink_to(bundles[0].path)
        self.bundles, self.refusal = bundles, ""
        self.kept_sha256: Any = None
        self.owner = Owner(swap_model=self.swap, rollback_model=self.rollback, commit_model=self.commit)
        self.seconds = 0.0
        self.watch = NodeHealthMonitor(NODE, silent_after_s=5.0, clock=lambda: self.seconds)
        self.serving = ServingNodeClient(
            self.owner,
            NODE,
            good=folder / "good",
            permission=SwitchPermission(required=False, timeout_s=1.0),
            monitor=self.watch,
            discovery_s=0.1,
            response_timeout_s=0.1,
            budget_ms=None,
            stopping=threading.Event(),
        )
        if there:
            self.watch.on_diagnostics(STATUS, 0, "running", {})
            self.serve(bundles[0].sha256)

    def serve(self, sha256: str) -> None:
        self.owner.callbacks[ModelInfo, f"{NODE}/model_info"](ModelInfo(sha256=sha256))

    def swap(self, request: SwapModel.Request) -> SwapModel.Response:
        if self.refusal:
            return SwapModel.Response(message=self.refusal)
        self.kept_sha256 = self.watch.active_sha256
        self.serve(next(one.sha256 for one in self.bundles if str(one.path) == request.bundle))
        return SwapModel.Response(success=True)

    def rollback(self, _: Trigger.Request) -> Trigger.Response:
        if self.kept_sha256 is None:
            return Trigger.Response(message="there is none to go back to")
        kept, self.kept_sha256 = self.kept_sha256, self.watch.active_sha256
        self.serve(kept)
        return Trigger.Response(success=True)

    def commit(self, _: Trigger.Request) -> Trigger.Response:
        self.kept_sha256 = None
        return Trigger.Response(success=True)

    def go_silent(self) -> None:
        self.seconds += 10.0

    @property
    def requests(self) -> list[type]:
        return [type(request) for request in self.owner.requests]


@pytest.fixture(scope="module")
def bundles(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("variants")
    return [variant(toy_bundle, folder / str(number), f"{number}.0.0") for number in (1, 2, 3)]


@pytest.fixture
def served(tmp_path: Path, bundles: list[Any]) -> Served:
    return Served(tmp_path, bundles)


def test_rollback_opens_nothing_while_the_node_keeps_the_previous_model(served: Served) -> None:
    old, new = served.bundles[:2]
    served.serving.swap(new.path)
    assert served.serving.health().serves == new.sha256
    served.serving.swap(old.path)
    assert served.watch.active_sha256 == old.sha256
    assert served.requests == [SwapModel.Request, Trigger.Request]


def test_rollback_is_a_swap_when_the_node_keeps_nothing(served: Served) -> None:
    old, new = served.bundles[:2]
    served.serving.swap(new.path)
    served.kept_sha256 = None
    served.serving.swap(old.path)
    assert served.watch.active_sha256 == old.sha256
    assert served.requests == [SwapModel.Request, Trigger.Request, SwapModel.Request]


def test_active_model_is_not_requested_again(served: Served) -> None:
    served.serving.swap(served.bundles[0].path)
    assert served.requests == []


def test_missing_node_is_an_error_although_the_link_is_correct(served: Served, tmp_path: Path) -> None:
    """As if the linked model was damaged and downloaded again."""
    (tmp_path / "good").unlink()
    served.go_silent()
    with pytest.raises(UpdateError, check=code("serving.unavailable")):
        served.serving.swap(served.bundles[1].path)


def test_model_rejected_by_the_node_is_rejected(served: Served) -> None:
    served.refusal = "its actions are others"
    with pytest.raises(ReleaseRejectedError, check=code("serving.swap_rejected")):
        served.serving.swap(served.bundles[1].path)
    assert served.watch.active_sha256 == served.bundles[0].sha256


def test_swap_without_a_response_is_confirmed_later(served: Served) -> None:
    """It may still be loading, so that the active model may change later."""
    old, new = served.bundles[:2]
    served.owner.answers["swap_model"] = lambda request: pytest.fail("nothing waits for this response")
    served.owner.late = True
    with pytest.raises(UpdateError, check=code("serving.no_response")):
        served.serving.swap(new.path)
    served.owner.late = False
    served.owner.answers["swap_model"] = served.swap
    served.serve(new.sha256)
    served.serving.swap(old.path)
    assert served.watch.active_sha256 == old.sha256
    served.serving.swap(old.path)
    assert len(served.requests) == 2, "now it is known"


def test_node_that_serves_another_model_for_a_while_disagrees(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = served.bundles[:2]
    seconds = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: seconds)
    assert not served.serving.needs_correction(old.sha256)
    assert not served.serving.needs_correction(new.sha256)
    seconds += 11.0
    assert served.serving.needs_correction(new.sha256)
    assert not served.serving.needs_correction(new.sha256), "not at once again"
    seconds += 11.0
    served.go_silent()
    assert not served.serving.needs_correction(new.sha256)


def test_previous_model_is_released_after_a_completed_update(served: Served) -> None:
    served.serving.commit(State(result="rejected"))
    assert served.requests == []
    served.serving.swap(served.bundles[1].path)
    served.serving.commit(State(result="rejected"))
    assert served.kept_sha256 is None and served.requests[1:] == [Trigger.Request]
    served.serving.commit(State(result="updated"))
    assert served.requests[2:] == [Trigger.Request]


def test_missing_node_takes_no_new_model_and_needs_none_for_the_rollback(served: Served) -> None:
    served.go_silent()
    assert not served.serving.health().may_switch
    assert "is gone" in served.serving.health().failure
    with pytest.raises(UpdateError, check=code("serving.unavailable")):
        served.serving.swap(served.bundles[1].path)
    served.serving.swap(served.bundles[0].path)
    assert served.requests == []


def test_link_is_enough_when_there_never_was_a_node(tmp_path: Path, bundles: list[Any]) -> None:
    served = Served(tmp_path, bundles, there=False)
    health = served.serving.health()
    assert health.serves is None and health.failure == "" and health.may_switch
    served.serving.swap(bundles[1].path)
    assert served.requests == []


def image(stamp_ns: int) -> Image:
    return to_image(np.zeros((4, 4, 3), np.uint8), stamp_ns=stamp_ns, frame_id="eye")


def source(
    owner: Owner,
    *,
    commands: str = "/cmd_vel",
    names: tuple[str, ...] = ("linear.x", "linear.y"),
    duration_s: float = 60.0,
    timeout_s: float = 0.05,
    stamped: bool = False,
) -> TopicSource:
    return TopicSource(
        owner,
        images="/image",
        commands=commands,
        action_names=names,
        stamped=stamped,
        timeout_s=timeout_s,
        duration_s=duration_s,
    )


def test_frame_carries_the_mean_action_until_the_next_frame() -> None:
    owner = Owner()
    frames = source(owner)
    come = owner.callbacks[Image, "/image"]

    def command(stamp_ns: int, x: float) -> None:
        owner.now_ns = stamp_ns
        owner.callbacks[Twist, "/cmd_vel"](Twist(linear=Vector3(x=x, y=-1.0)))

    come(image(NS))
    come(image(2 * NS))
    iterator = frames.frames()
    first = next(iterator)
    assert first.stamp_ns == NS and frames.command is None, "nothing is known before the first command"
    command(2 * NS, 1.0)
    command(int(2.75 * NS), 0.0)
    command(int(2.8 * NS), math.nan)
    come(image(3 * NS))
    second = next(iterator)
    assert (second.stamp_ns, second.sequence) == (2 * NS, 1)
    assert frames.command == pytest.approx([0.75, -1.0])


def test_commands_may_be_stamped() -> None:
    owner = Owner()
    source(owner, stamped=True)
    assert (TwistStamped, "/cmd_vel") in owner.callbacks


@pytest.mark.parametrize("commands", ["", "/left/pose_delta"])
def test_executed_actions_of_an_arm_are_its_pose_deltas(commands: str) -> None:
    owner = Owner()
    frames = source(owner, commands=commands, names=("x", "gripper"))
    owner.now_ns = NS
    owner.callbacks[Float64, "gripper_delta"](Float64(data=0.5))
    pose = PoseStamped()
    pose.pose.position.x = 0.02
    owner.callbacks[PoseStamped, commands or "pose_delta"](pose)
    for number in (2, 3):
        owner.callbacks[Image, "/image"](image(number * NS))
    next(frames.frames())
    assert frames.command == pytest.approx([0.02, 0.5])
    frames.close()
    assert not owner.callbacks


def test_unread_frames_are_replaced_by_newer_ones() -> None:
    owner = Owner()
    iterator = source(owner).frames()
    for number in range(1, 101):
        owner.callbacks[Image, "/image"](image(number * NS))
    assert next(iterator).stamp_ns == 93 * NS


def test_source_waits_for_an_image() -> None:
    owner = Owner()
    iterator = source(owner, timeout_s=10.0).frames()
    owner.callbacks[Image, "/image"](image(NS))
    later = threading.Timer(0.05, owner.callbacks[Image, "/image"], (image(2 * NS),))
    later.start()
    assert next(iterator).stamp_ns == NS
    later.join()


def test_topic_without_images_is_an_error() -> None:
    owner = Owner()
    frames = source(owner)
    owner.callbacks[Image, "/image"](Image())
    with pytest.raises(SourceError, check=code("source.no_frames")) as failed:
        next(frames.frames())
    assert "zero_size" in str(failed.value)
    frames.close()
    frames.close()
    assert not owner.callbacks


def test_source_ends_by_itself() -> None:
    assert list(source(Owner(), duration_s=0.0).frames()) == []


def test_comparison_on_topics_with_a_model_that_reads_states_names_the_recording_to_use(
    arm_bundle: Path, tmp_path: Path
) -> None:
    root = factory(tmp_path / "robot", Bundle.open(arm_bundle), allow_untrained=True)
    manager = SimpleNamespace(_root=root, _values={"image_topic": "image"})
    with pytest.raises(SourceError, match=r"shadow in config\.json", check=code("source.state_missing")):
        UpdateManagerNode._open_frames(manager)
