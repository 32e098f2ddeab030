"""Two robots in one ROS domain, each with its own nodes, folder and repository, do not affect each other."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros.update", reason="the workspace is not on the paths: . scripts/env.sh")

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.srv import CheckUpdate, GetUpdateStatus
from sensor_msgs.msg import Image
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from jepa_runtime.ota.robot import LOCK
from jepa_runtime.util import atomic_files
from tests.ota.robots import tree
from tests.ros.updated import Fleet

pytestmark = pytest.mark.ros


class Pair:
    """Start a robot that is updated, and another one."""

    def __init__(self, graph: Any, folder: Path, toy: Path) -> None:
        self.one, self.other = (Fleet(graph, folder / name, toy, f"fleet/{name}/") for name in ("a", "a_b"))
        self.one.until(lambda: self.one.infos and self.one.events, "both nodes of one robot")
        self.other.until(lambda: self.other.infos and self.other.events, "both nodes of the other")

    def look(self) -> None:
        """Publish an image of each camera."""
        self.one.look()
        self.other.look()


@pytest.fixture(scope="module")
def pair(shared_graph: Any, toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    robots = Pair(shared_graph, tmp_path_factory.mktemp("pair"), toy_bundle)
    yield robots
    for robot in (robots.one, robots.other):
        for node in ("update_manager", "world_model"):
            assert shared_graph.stop(robot.called(node)) == 0


def test_update_of_one_robot_is_invisible_to_the_other(pair: Pair) -> None:
    one, other = pair.one, pair.other
    bundle = one.publish()
    other.publish()
    there = other.serves
    counts, before = (len(other.infos), len(other.events)), tree(other.root)
    other.latents.clear()
    with atomic_files.locked(other.root / LOCK, purpose="this test"):
        status, result = one.update().end(meanwhile=pair.look)
    assert (status, result.result) == (GoalStatus.STATUS_SUCCEEDED, "updated"), result.reason
    assert (one.serves, other.serves) == (bundle.manifest.version, there)
    assert (len(other.infos), len(other.events)) == counts
    assert {name for name, content in tree(other.root).items() if before.get(name) != content} <= {LOCK}
    numbers = [latent.sequence for latent in other.latents]
    assert len(numbers) > 5 and numbers == sorted(set(numbers))
    assert not other.ask(GetUpdateStatus, "status").status.awaits_approval


def test_switch_permission_of_one_robot_does_not_apply_to_the_other(pair: Pair) -> None:
    one, other = pair.one, pair.other
    for robot in (one, other):
        robot.publish()
        robot.safe.publish(Bool(data=False))
    updates = one.update(), other.update()
    for robot in (one, other):
        robot.until(lambda robot=robot: robot.events[-1].state == "armed", "armed", meanwhile=pair.look)
    before = other.serves
    one.safe.publish(Bool(data=True))
    _, result = updates[0].end(meanwhile=pair.look)
    assert result.result == "updated"
    assert other.events[-1].state == "armed" and other.serves == before
    other.safe.publish(Bool(data=True))
    _, result = updates[1].end(meanwhile=pair.look)
    assert result.result == "updated"


@pytest.mark.slow
def test_failing_node_of_the_other_robot_rejects_no_model_here(pair: Pair, shared_graph: Any) -> None:
    one, other = pair.one, pair.other
    bundle, before = one.publish(), other.serves
    one.configure(health_window_s=10.0)
    update, diagnostics = one.update(), shared_graph.listen(DiagnosticArray, "/diagnostics")

    def look_in_vain() -> None:
        one.look()
        other.camera.publish(Image(encoding="nonsense", width=1, height=1))

    def fails() -> bool:
        statuses = [status for message in diagnostics for status in message.status]
        return any(status.level == b"\x02" and "a_b/world_model" in status.name for status in statuses)

    one.until(lambda: one.events[-1].state == "observe", "observed", meanwhile=pair.look)
    one.until(fails, "the node of the other robot fails", meanwhile=look_in_vain)
    assert shared_graph.stop(other.called("world_model"), signal.SIGKILL) == -signal.SIGKILL
    assert one.events[-1].state == "observe"
    _, result = update.end(meanwhile=one.look)
    assert (result.result, one.serves) == ("updated", bundle.manifest.version), result.reason
    other.infos.clear()
    other.start_world_model()
    other.until(lambda: other.infos, "the other robot again", meanwhile=pair.look)
    assert other.serves == before


def test_requests_to_one_robot_do_not_reach_the_other(pair: Pair) -> None:
    one, other = pair.one, pair.other
    one.publish()
    assert one.update().end(meanwhile=pair.look)[1].result == "updated"
    here, there, before = one.serves, other.serves, tree(other.root)
    assert one.ask(SetBool, "pin", data=True).success
    assert one.ask(Trigger, "rollback").success
    assert one.serves != here
    assert one.ask(CheckUpdate, "check").success
    assert one.ask(GetUpdateStatus, "status").status.pinned
    assert not other.ask(GetUpdateStatus, "status").status.pinned
    assert other.serves == there and tree(other.root) == before
    assert one.ask(SetBool, "pin", data=False).success
