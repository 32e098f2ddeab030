"""SROS2 enforced on a running graph: nodes with keys have the rights of their policy, others have none."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")
pytest.importorskip(
    "sros2", reason="sros2 is not installed: it is in no wheel; apt install ros-$ROS_DISTRO-sros2"
)

import cv2
from action_msgs.msg import GoalStatus
from geometry_msgs.msg import Twist
from jepa_msgs.msg import LatentState
from sros2 import keystore

from tests.ros.graph import Graph, graph
from tests.ros.policies import load_keystore
from tests.ros.updated import Fleet

pytestmark = pytest.mark.ros

DOMAIN = random.SystemRandom().randint(1, 100)
OBSERVER = "observer"
STAY_S = 4.0
_PROBE = "import rclpy; rclpy.init(args=['--ros-args', '--enclave', '/observer']); rclpy.create_node('probe')"


def make_keystore(folder: Path, unlimited: str = OBSERVER) -> Path:
    """Create keys of our nodes, and of one with the default permissions of sros2: everything."""
    with mock.patch.dict(os.environ, {"ROS_DOMAIN_ID": str(DOMAIN)}):
        load_keystore().create(folder, image_topic="image")
        keystore.create_enclave(folder, f"/{unlimited}")
    return folder


def secured(folder: Path) -> dict[str, str]:
    return {
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
        "ROS_SECURITY_KEYSTORE": str(folder),
    }


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a keystore of our nodes to the middleware."""
    folder = make_keystore(tmp_path_factory.mktemp("keys"))
    environment = os.environ | secured(folder) | {"ROS_DOMAIN_ID": str(DOMAIN)}
    probe = subprocess.run([sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True)
    if "SECURITY=ON" in probe.stderr:
        pytest.skip(f"this middleware was built without security: {probe.stderr.strip().splitlines()[-2]}")
    assert probe.returncode == 0, probe.stderr
    return folder


@contextmanager
def member(folder: Path, keys: Path) -> Iterator[Graph]:
    """Create the observer, able to start nodes."""
    with mock.patch.dict(os.environ, secured(keys)), graph(folder, domain=DOMAIN) as ros:
        yield ros


@pytest.fixture
def robot(keys: Path, toy_bundle: Path, tmp_path: Path) -> Iterator[tuple[Graph, list[LatentState]]]:
    """Start a world model with a camera; return the latents that the observer receives."""
    frames = tmp_path / "frames"
    frames.mkdir()
    cv2.imwrite(str(frames / "0.png"), np.zeros((48, 64, 3), np.uint8))
    with member(tmp_path, keys) as ros:
        latents = ros.listen(LatentState, "world_model/latent")
        ros.start("world_model", {"bundle": toy_bundle, "allow_untrained": True})
        ros.start("camera", {"source": frames, "loop": True}, ("camera/image_raw:=image",))
        ros.until(lambda: len(latents) > 5, "latents")
        yield ros, latents


def visit(ros: Graph, enclave: str, security: dict[str, str], node: str = "") -> dict[str, Any]:
    """Return the result of a temporary process (see visitor.py)."""
    environment = os.environ | security | {"ROS_DOMAIN_ID": str(DOMAIN)}
    program = str(Path(__file__).with_name("visitor.py"))
    command = [sys.executable, program, enclave, node or enclave, str(STAY_S)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        ros.until(lambda: process.poll() is not None, "the end of the visit")
        report: dict[str, Any] = json.loads(process.communicate()[0])
    return report


def test_secured_demo_robot_is_driven_and_recorded(
    keys: Path, two_rooms_bundle: Path, tmp_path: Path
) -> None:
    with member(tmp_path, keys) as ros:
        commands = ros.listen(Twist, "cmd_vel")
        ros.start("monitor", {"mcap": tmp_path / "all.mcap", "view": "none"})
        ros.start("world_model", {"bundle": two_rooms_bundle})
        ros.start("planner")
        ros.start("two_rooms", remaps=("camera/image_raw:=image",))
        ros.until(lambda: sum(command.linear.x != 0 for command in commands) > 30, "commands that move")
        for node in list(ros.processes):
            assert ros.stop(node) == 0, ros.log(node).read_text()
        recorded = ros.report("monitor")["messages"]
    assert recorded.keys() >= {"/image", "/world_model/futures", "/cmd_vel", "/planner/status"}


def test_secured_update_activates_the_release(keys: Path, toy_bundle: Path, tmp_path: Path) -> None:
    with member(tmp_path, keys) as ros:
        fleet = Fleet(ros, tmp_path / "fleet", toy_bundle)
        fleet.until(lambda: fleet.infos and fleet.events, "both nodes")
        bundle = fleet.publish()
        status, result = fleet.update().end()
        assert status == GoalStatus.STATUS_SUCCEEDED, result.reason
        assert fleet.serves == bundle.manifest.version


@pytest.mark.parametrize("has_keys", [False, True], ids=["no keys", "keys of another robot"])
def test_node_of_another_keystore_neither_receives_nor_sends(
    robot: Any, tmp_path: Path, has_keys: bool
) -> None:
    ros, latents = robot
    security = secured(make_keystore(tmp_path / "others")) if has_keys else {"ROS_SECURITY_ENABLE": "false"}
    commands = ros.listen(Twist, "cmd_vel")
    latents.clear()
    report = visit(ros, OBSERVER, security)
    assert not commands and report["received"].keys() == {"Image of observer"}, "only its own"
    assert report["refused"] == [] and report["state"] == ""
    assert len(latents) > 20 and {latent.header.frame_id for latent in latents} == {"camera"}


def test_camera_keys_permit_only_images(robot: Any, keys: Path) -> None:
    ros, latents = robot
    latents.clear()
    report = visit(ros, "camera", secured(keys))
    assert report["refused"] == ["drive", "hear images", "hear latents", "ask"]
    assert len(latents) > 20


def test_stolen_keys_with_forged_permissions_are_rejected(robot: Any, keys: Path, tmp_path: Path) -> None:
    """An attacker has the camera's key and signs its own permissions."""
    ros, _ = robot
    commands = ros.listen(Twist, "cmd_vel")
    forged = make_keystore(tmp_path / "forged", unlimited="camera")
    for name in ("cert.pem", "key.pem", "identity_ca.cert.pem"):
        place = forged / "enclaves" / "camera" / name
        place.unlink()
        shutil.copy(keys / "enclaves" / "camera" / name, place)
    report = visit(ros, "camera", secured(forged))
    assert report["refused"] == [], "permitted by its own keys"
    assert not commands and report["received"].keys() == {"Image of camera"}, "only its own"


def test_operator_may_read_and_request_but_not_drive(robot: Any, keys: Path) -> None:
    report = visit(robot[0], "operator", secured(keys), node="_ros2cli_1")
    assert report["refused"] == ["drive", "send images"]
    assert report["received"].keys() == {"Image of camera", "LatentState of camera"}
    assert report["state"] == "active"


def test_node_without_an_enclave_does_not_start(keys: Path, tmp_path: Path) -> None:
    lost = Path(shutil.copytree(keys, tmp_path / "lost", symlinks=True))
    shutil.rmtree(lost / "enclaves" / "planner")
    with member(tmp_path, lost) as ros:
        ros.start("planner")
        assert ros.exit_code("planner") == 1
        assert "planner" in ros.log("planner").read_text()
