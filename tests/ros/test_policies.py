"""Least privilege: a policy grants its node exactly what it uses on a running graph."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

import cv2
from action_msgs.msg import GoalStatus
from geometry_msgs.msg import Twist

from tests.bundles import make_arm_bundle
from tests.ros.graph import executable
from tests.ros.policies import POLICIES, Access, Observed, granted
from tests.ros.updated import SHADOWED, Fleet

pytestmark = pytest.mark.ros

NAMESPACE = "robot"
IMAGES = f"/{NAMESPACE}/camera/image_raw"
REMAPS = (
    f"__ns:=/{NAMESPACE}",
    "image:=camera/image_raw",
    "image/compressed:=camera/image_raw/compressed",
)


@contextmanager
def profiler(graph: Any, source: Path) -> Iterator[None]:
    """Run the profiler next to a running world model."""
    command = [executable("profiler"), "--attach", f"/{NAMESPACE}/world_model", "--topic", IMAGES]
    command += ["--source", str(source), "--duration", "60", "--output", str(source / "profile.json")]
    domain = str(graph.observer.context.get_domain_id())
    with graph.log("profiler").open("wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | {"ROS_DOMAIN_ID": domain}, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def used(shared_graph: Any, toy_bundle: Path, tmp_path_factory: Any) -> dict[str, Access]:
    """Return what the nodes of a robot use, in a namespace and with simulated time."""
    graph, folder = shared_graph, tmp_path_factory.mktemp("frames")
    cv2.imwrite(str(folder / "0.png"), np.zeros((48, 64, 3), np.uint8))
    observed = Observed(graph)
    # The state of an arm is a pose and a gripper, or joints; its commands are deltas.
    arm = make_arm_bundle(tmp_path_factory.mktemp("arm") / "bundle").path
    for topic in ("pose", "joint_states"):
        graph.start("world_model", {"bundle": arm, "allow_untrained": True, "state_topic": topic}, REMAPS)
        graph.start("planner", remaps=REMAPS)
        uses = {
            "world_model": {("subscribe", f"/{NAMESPACE}/{topic}")},
            "planner": {("publish", f"/{NAMESPACE}/{delta}") for delta in ("pose_delta", "gripper_delta")},
        }
        graph.until(
            lambda uses=uses: all(observed.used[node] >= expected for node, expected in uses.items()),
            f"the nodes of an arm that reads {topic}",
            meanwhile=observed.look,
        )
        observed.settle()
        assert graph.stop("planner") == graph.stop("world_model") == 0
    graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True}, REMAPS)
    # A policy has topics of its own, and steering uses odometry.
    graph.start("planner", {"search_method": "policy"}, REMAPS)
    chunks = "subscribe", f"/{NAMESPACE}/planner/policy_candidates"
    graph.until(
        lambda: chunks in observed.used["planner"], "the planner of a policy", meanwhile=observed.look
    )
    observed.settle()
    assert graph.stop("planner") == 0
    graph.start("planner", {"search_method": "steering"}, REMAPS)
    graph.start("pictures", remaps=REMAPS)
    graph.start("route", remaps=REMAPS)
    with profiler(graph, folder):
        graph.until(
            lambda: {"profiler", "profiler_camera"} <= observed.used.keys(),
            "the profiler",
            meanwhile=observed.look,
        )
        observed.settle()
    graph.start("camera", {"source": folder, "loop": True}, REMAPS)
    graph.start("two_rooms", remaps=REMAPS)
    graph.start("first_person", remaps=REMAPS)
    graph.start("monitor", {"view": "none"}, REMAPS)
    graph.until(
        lambda: ("subscribe", IMAGES) in observed.used.get("monitor", ()),
        "the monitor, which hears what it finds",
        meanwhile=observed.look,
    )
    for node in graph.processes:
        assert graph.set_parameter(f"{NAMESPACE}/{node}", "use_sim_time", True) == ""
    observed.settle()
    return observed.used


# First, before the nodes of the other tests start.
@pytest.mark.slow
def test_update_manager_policy_grants_exactly_what_an_update_needs(
    ros_graph: Any, toy_bundle: Path, tmp_path: Path
) -> None:
    fleet, observed = Fleet(ros_graph, tmp_path, toy_bundle), Observed(ros_graph)
    fleet.until(lambda: fleet.infos and fleet.events, "both nodes")
    assert ros_graph.set_parameter("update_manager", "use_sim_time", True) == ""
    fleet.publish(budgets=SHADOWED)

    def drive() -> None:
        fleet.commands.publish(Twist())
        for _ in range(3):
            fleet.look()
        observed.look()

    status, result = fleet.update().end(meanwhile=drive, every_s=0.01)
    assert status == GoalStatus.STATUS_SUCCEEDED, result.reason
    grants = granted("update_manager", image_topic="image")
    assert {node: observed.used[node] for node in grants} == grants


@pytest.mark.parametrize(
    "enclave",
    ["world_model", "camera", "two_rooms", "first_person", "planner", "pictures", "route", "profiler"],
)
def test_node_policy_grants_exactly_what_it_uses(used: dict[str, Access], enclave: str) -> None:
    grants = granted(enclave, namespace=NAMESPACE)
    assert {node: used[node] for node in grants} == grants


def test_monitor_policy_grants_reading_everything_and_publishing_nothing(used: dict[str, Access]) -> None:
    uses, grants = used["monitor"], granted("monitor", namespace=NAMESPACE)["monitor"]
    subscriptions = {access for access in uses if access[0] == "subscribe"}
    assert ("subscribe", IMAGES) in subscriptions
    assert uses - subscriptions == {access for access in grants if access[0] != "subscribe"}
    assert ("subscribe", "/*") in grants


def test_every_executable_of_the_package_has_a_policy() -> None:
    from importlib.metadata import distribution

    nodes = {entry.name for entry in distribution("jepa_ros").entry_points}
    assert {path.name.removesuffix(".policy.xml") for path in POLICIES.glob("*.xml")} == nodes | {"operator"}


def test_only_the_planner_policy_grants_commands() -> None:
    drivers = {
        path.name
        for path in POLICIES.glob("*.policy.xml")
        for access in granted(path.name.removesuffix(".policy.xml")).values()
        if ("publish", "/cmd_vel") in access
    }
    assert drivers == {"planner.policy.xml"}
