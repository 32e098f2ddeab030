"""Updates of a running world_model node over ROS 2: real processes, a signed repository, the real gate."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros.update", reason="the workspace is not on the paths: . scripts/env.sh")

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from jepa_msgs.msg import UpdateEvent
from jepa_msgs.srv import CheckUpdate, GetUpdateStatus
from jepa_ros.common import qos
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from jepa_runtime.bundle import Bundle
from jepa_runtime.cli import main as runtime
from jepa_runtime.ota import state
from jepa_runtime.ota.robot import STATE
from tests.ros.updated import SHADOWED, Fleet

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def fleet(shared_graph: Any, toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    robots = Fleet(shared_graph, tmp_path_factory.mktemp("fleet"), toy_bundle)
    robots.until(lambda: robots.infos and robots.events, "both nodes")
    yield robots
    for node in ("update_manager", "world_model"):
        assert shared_graph.stop(node) == 0, shared_graph.log(node).read_text()


def test_release_goes_live_between_two_images_and_is_reported_throughout(fleet: Fleet) -> None:
    bundle = fleet.publish()
    fleet.latents.clear()
    update = fleet.update()
    status, result = update.end(meanwhile=fleet.look)
    assert (status, result.result) == (GoalStatus.STATUS_SUCCEEDED, "updated"), result.reason
    assert result.sha256 == bundle.sha256 and fleet.serves == result.version == bundle.manifest.version
    fleet.until(lambda: update.feedback[-1].state == "idle", "the last feedback")
    states = [feedback.state for feedback in update.feedback]
    road = ["check", "download", "probe", "armed", "switch", "observe", "commit", "idle"]
    assert [state for state in road if state in states] == road
    fetched = [message.bytes_done for message in update.feedback if message.bytes_total]
    assert fetched and fetched == sorted(fetched)
    numbers = [latent.sequence for latent in fleet.latents]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "no image was lost"
    assert {latent.history_reset for latent in fleet.latents[1:]} == {""}

    late = fleet.graph.listen(UpdateEvent, "update_manager/events", qos.EVENTS)
    fleet.until(lambda: len(late) >= len(fleet.events), "the latched events for a late subscriber")
    assert [event.state for event in late][-1] == "idle"
    switch = next(event for event in late if event.state == "switch")
    assert switch.release.sha256 == bundle.sha256 and switch.current.sha256 != bundle.sha256


def test_release_rejected_by_the_probe_leaves_the_node_unchanged(fleet: Fleet) -> None:
    before, count = fleet.serves, len(fleet.infos)
    fleet.publish(wrong=True)
    status, result = fleet.update().end()
    assert (status, result.result) == (GoalStatus.STATUS_ABORTED, "rejected")
    assert "does not reproduce its golden outputs" in result.reason
    fleet.until_state("idle")
    assert fleet.events[-1].reason == result.reason
    assert fleet.serves == before and len(fleet.infos) == count


@pytest.mark.slow
def test_candidate_is_compared_on_the_images_of_the_robot(fleet: Fleet) -> None:
    bundle = fleet.publish(budgets=SHADOWED)
    update = fleet.update()
    fleet.until(lambda: any(message.state == "shadow" for message in update.feedback), "the comparison")

    def drive() -> None:
        fleet.commands.publish(Twist())
        for _ in range(3):
            fleet.look()

    status, result = update.end(meanwhile=drive, every_s=0.01)
    assert (status, result.result) == (GoalStatus.STATUS_SUCCEEDED, "updated"), result.reason
    compared = [message for message in update.feedback if message.shadow_compared]
    assert compared[-1].shadow_frames >= compared[-1].shadow_compared > 100
    assert compared[-1].shadow_error_ratio == pytest.approx(1.0)
    assert compared[-1].shadow_max_error_ratio == SHADOWED.max_error_ratio
    assert fleet.serves == bundle.manifest.version


def test_update_awaiting_approval_is_approved_or_cancelled(fleet: Fleet) -> None:
    fleet.configure(approval=True)
    before, bundle = fleet.serves, fleet.publish()
    try:
        update = fleet.update()
        fleet.until_state("armed")
        standing = fleet.ask(GetUpdateStatus, "status").status
        assert standing.awaits_approval and standing.candidate.sha256 == bundle.sha256
        assert not fleet.update().accepted, "one goal at a time"
        assert not fleet.ask(CheckUpdate, "check").success
        for word in (False, True) * 5:
            fleet.safe.publish(Bool(data=word))
        fleet.graph.spin_for(0.5)
        assert state.load(fleet.root / STATE).waits == 1, "words of safety do not make it look again"
        assert update.cancel()
        status, result = update.end()
        assert (status, result.result) == (GoalStatus.STATUS_CANCELED, "unchanged")
        assert "cancelled" in result.reason and fleet.serves == before

        update = fleet.update()
        fleet.until_state("armed")
        assert fleet.ask(Trigger, "approve").success
        status, result = update.end()
        assert (status, result.result) == (GoalStatus.STATUS_SUCCEEDED, "updated"), result.reason
        assert not fleet.ask(Trigger, "approve").success, "nothing waits"
        assert not update.cancel(), "it is too late"
    finally:
        fleet.configure()


def test_switch_waits_until_it_is_safe_and_then_happens_at_once(fleet: Fleet) -> None:
    fleet.safe.publish(Bool(data=False))
    before, bundle = fleet.serves, fleet.publish()
    update = fleet.update()
    fleet.until_state("armed")
    fleet.graph.spin_for(1.0)
    assert fleet.events[-1].state == "armed" and fleet.serves == before
    again_and_again = fleet.graph.publisher(Bool, "update_manager/safe_to_switch")
    began = time.monotonic()
    again_and_again.publish(Bool(data=True))
    _, result = update.end()
    assert result.result == "updated" and fleet.serves == bundle.manifest.version
    assert time.monotonic() - began < 20.0, "it does not wait for its next look"
    fleet.safe.publish(Bool(data=True))


def test_rollback_and_pin_change_the_active_model(fleet: Fleet) -> None:
    before, bundle = fleet.serves, fleet.publish()
    assert fleet.ask(CheckUpdate, "check").offered.sha256 == bundle.sha256
    assert fleet.serves == before
    assert fleet.update().end()[1].result == "updated"
    back = fleet.ask(Trigger, "rollback")
    assert back.success and before in back.message
    assert fleet.serves == before
    fleet.until(lambda: fleet.events[-1].result == "rolled_back", "the event")
    assert fleet.update().end()[1].result == "rejected", "it is not installed again"

    assert fleet.ask(SetBool, "pin", data=True).success
    fleet.publish()
    _, result = fleet.update().end()
    assert result.result == "unchanged" and "pinned" in result.reason
    assert fleet.ask(GetUpdateStatus, "status").status.pinned
    assert fleet.ask(SetBool, "pin", data=False).success


@pytest.mark.slow
def test_rollback_by_the_command_line_reaches_the_node(fleet: Fleet) -> None:
    before = fleet.serves
    fleet.publish()
    assert fleet.update().end()[1].result == "updated"
    assert fleet.serves != before
    assert runtime(["update", "rollback", "--robot", str(fleet.root)]) == 0
    fleet.until(lambda: fleet.infos[-1].version == before, "the node")
    assert f"switching to {before}" in fleet.graph.log("update_manager").read_text()


def test_observed_release_is_rolled_back_by_hand_without_opening_a_model(fleet: Fleet) -> None:
    fleet.configure(health_window_s=60.0)
    before = fleet.serves
    fleet.publish()
    try:
        update = fleet.update()
        fleet.until_state("observe")
        assert fleet.serves != before
        assert fleet.ask(Trigger, "rollback").success
        status, result = update.end()
        assert (status, result.result, result.reason) == (GoalStatus.STATUS_ABORTED, "rejected", "manual")
        assert fleet.serves == before
        assert "active model after rollback" in fleet.graph.log("world_model").read_text()
    finally:
        fleet.configure()


def test_update_from_a_usb_stick_activates_the_release(fleet: Fleet) -> None:
    bundle = fleet.publish()
    stick = fleet.folder / "stick"
    shutil.copytree(fleet.repository.folder, stick)
    _, result = fleet.update(source=str(stick)).end()
    assert result.result == "updated" and fleet.serves == bundle.manifest.version


@pytest.mark.slow
def test_node_that_dies_during_observation_is_rolled_back(fleet: Fleet) -> None:
    fleet.configure(health_window_s=60.0)
    before = fleet.serves
    fleet.publish()
    try:
        update = fleet.update()
        fleet.until_state("observe")
        fleet.graph.stop("world_model", signal.SIGKILL)
        status, result = update.end()
        assert (status, result.result) == (GoalStatus.STATUS_ABORTED, "rejected")
        assert "/world_model is gone" in result.reason
        assert Bundle.open(fleet.root / "current").manifest.version == before
    finally:
        fleet.configure()
        count = len(fleet.infos)
        fleet.start_world_model()
    fleet.until(lambda: len(fleet.infos) > count, "the node")
    assert fleet.serves == before


@pytest.mark.parametrize("reached", ["probe", "observe"])
@pytest.mark.slow
def test_killed_manager_resumes_at_its_next_start(fleet: Fleet, reached: str) -> None:
    fleet.configure(health_window_s=4.0)
    bundle = fleet.publish()
    try:
        fleet.update()
        fleet.until_state(reached)
        fleet.graph.stop("update_manager", signal.SIGKILL)
        fleet.events.clear()
        fleet.start_manager()
        fleet.until(lambda: fleet.events and fleet.events[-1].result == "updated", "the update")
        fleet.until_state("idle")
    finally:
        fleet.configure()
    assert fleet.serves == bundle.manifest.version


def test_robot_checks_by_itself_and_continues_after_a_restart(fleet: Fleet) -> None:
    assert fleet.graph.stop("update_manager") == 0
    fleet.configure(approval=True)
    bundle = fleet.publish()
    fleet.start_manager(auto=True)
    fleet.until_state("armed")
    assert fleet.graph.stop("update_manager") == 0
    fleet.configure()
    fleet.start_manager()
    fleet.until_state("idle")
    assert fleet.events[-1].result == "updated" and fleet.serves == bundle.manifest.version


def test_diagnostics_name_the_active_model(fleet: Fleet) -> None:
    diagnostics = fleet.graph.listen(DiagnosticArray, "/diagnostics")

    def standing() -> Any:
        statuses = (one for message in reversed(diagnostics) for one in message.status)
        return next((one for one in statuses if one.name == "update_manager: updates"), None)

    fleet.until(standing, "diagnostics")
    values = {pair.key: pair.value for pair in standing().values}
    assert standing().level == b"\x00" and standing().hardware_id == "robot-1"
    assert fleet.serves in values["current"] and int(values["metadata_age_s"]) < 600


@pytest.mark.parametrize("root", ["", "/nowhere"])
def test_robot_without_a_site_is_reported(ros_graph: Any, root: str) -> None:
    ros_graph.start("update_manager", {"root": root})
    assert ros_graph.exit_code("update_manager") == 1
    log = ros_graph.log("update_manager").read_text()
    assert ("parameter root is empty" if not root else "/nowhere/config.json: cannot be read") in log
    assert "Traceback" not in log


@pytest.mark.parametrize("parameter", ["world_model", "image_topic", "action_topic"])
def test_invalid_ros_names_are_reported_at_the_start(ros_graph: Any, parameter: str, tmp_path: Path) -> None:
    ros_graph.start("update_manager", {"root": tmp_path, parameter: "a b"})
    assert ros_graph.exit_code("update_manager") == 1
    assert (
        f"error: parameter {parameter}: invalid name 'a b': Invalid topic name: "
        in ros_graph.log("update_manager").read_text()
    )
