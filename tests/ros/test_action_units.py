"""Actions in units other than those of ROS 2 messages are rejected by the nodes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
actions = pytest.importorskip(
    "jepa_ros.common.action_commands", reason="the workspace is not on the paths: . scripts/env.sh"
)
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from geometry_msgs.msg import Twist  # noqa: E402
from jepa_msgs.msg import ModelInfo  # noqa: E402
from jepa_ros.common import qos  # noqa: E402

from tests.ros.test_reach_goal import model_info  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.mark.parametrize(
    ("names", "units"),
    [
        (["linear.x", "angular.z"], ["m/s", "rad/s"]),
        (["linear.x", "angular.z"], ["meters per second", "rad s^-1"]),
        (["x", "yaw", "gripper"], ["m", "rad", "1"]),
    ],
)
def test_ros_units_are_accepted_in_any_spelling(names: list[str], units: list[str]) -> None:
    actions.validate_action_units(names, units)


@pytest.mark.parametrize(
    ("names", "units", "words"),
    [
        (["linear.x", "angular.z"], ["m/s", "deg/s"], "angular.z is in 'deg/s'.*in rad/s"),
        (["linear.x"], ["km/h"], "linear.x is in 'km/h'.*in m/s"),
        (["linear.x"], ["unknown"], "linear.x is in 'unknown'"),
        (["x"], ["mm"], "x is in 'mm'.*use m:"),
        (["x", "yaw"], ["m", "deg"], "yaw is in 'deg'.*use rad:"),
        (["x", "yaw"], ["m"], "1 units for 2 action components"),
    ],
)
def test_other_units_are_rejected_with_a_fix(names: list[str], units: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        actions.validate_action_units(names, units)


def in_degrees(bundle: Path, folder: Path) -> Path:
    copy = Path(shutil.copytree(bundle, folder))
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["io"]["action"] |= {"names": ["linear.x", "angular.z"], "units": ["m/s", "deg/s"]}
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return copy


def test_world_model_rejects_a_bundle_in_degrees(
    ros_graph: Any, two_rooms_bundle: Path, tmp_path: Path
) -> None:
    ros_graph.start("world_model", {"bundle": in_degrees(two_rooms_bundle, tmp_path / "degrees")})
    assert ros_graph.exit_code("world_model") == 1
    log = ros_graph.log("world_model").read_text()
    assert "action angular.z is in 'deg/s'" in log and "rad/s" in log and "Traceback" not in log


def test_planner_rejects_a_model_in_degrees(ros_graph: Any) -> None:
    commands = ros_graph.listen(Twist, "cmd_vel")
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    ros_graph.start("planner")
    infos = ros_graph.publisher(ModelInfo, "world_model/model_info", qos.LATCHED)
    infos.publish(model_info(action_names=["linear.x", "angular.z"], action_units=["m/s", "deg/s"]))
    ros_graph.until(
        lambda: any("'deg/s'" in status.message for each in diagnostics for status in each.status),
        "the reason in the diagnostics",
    )
    assert all(command == Twist() for command in commands)
