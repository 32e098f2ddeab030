"""One command creates keys, certificates and signed permissions for all nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.ros.policies import POLICIES, load_keystore

pytestmark = pytest.mark.ros

NODES = sorted(path.name.removesuffix(".policy.xml") for path in POLICIES.glob("*.policy.xml"))


@pytest.fixture
def sros2() -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
    pytest.importorskip("sros2", reason="sros2 is in no wheel: apt install ros-$ROS_DISTRO-sros2")


@pytest.fixture
def folder(sros2: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a keystore of a robot in a namespace, on domain 7."""
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    keystore = tmp_path / "keys"
    assert load_keystore().main([str(keystore), "--namespace", "fleet/robot", "--image-topic", "front"]) == 0
    return keystore


def topics(folder: Path, node: str, kind: str) -> set[str]:
    """Return the permissions of a node, after verifying their signature with the robot's authority."""
    enclave = folder / "enclaves" / "fleet" / "robot" / node
    command = ["openssl", "smime", "-verify", "-text", "-in", enclave / "permissions.p7s"]
    command += ["-CAfile", enclave / "permissions_ca.cert.pem"]
    signed = subprocess.run(command, check=True, capture_output=True).stdout
    grant = ElementTree.fromstring(signed).find("permissions/grant")
    assert grant is not None and grant.findtext("subject_name") == f"CN=/fleet/robot/{node}"
    assert grant.findtext("default") == "DENY"
    assert {domain.text for domain in grant.iter("id")} == {"7"}
    return {str(topic.text) for topic in grant.iterfind(f"allow_rule/{kind}/topics/topic")}


@pytest.mark.parametrize("node", NODES)
def test_every_node_has_a_certificate_and_signed_permissions(folder: Path, node: str) -> None:
    enclave = folder / "enclaves" / "fleet" / "robot" / node
    ca = enclave / "identity_ca.cert.pem"
    command = ["openssl", "verify", "-CAfile", ca, enclave / "cert.pem"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert topics(folder, node, "publish")


def test_permissions_name_the_topics_of_the_launch_arguments(folder: Path) -> None:
    published = topics(folder, "camera", "publish")
    assert {"rt/fleet/robot/front", "rt/diagnostics", "rt/rosout"} <= published
    assert not any("image_raw" in topic or "cmd_vel" in topic for topic in published)
    subscribed = topics(folder, "world_model", "subscribe")
    assert {"rt/fleet/robot/front/compressed", "rq/fleet/robot/world_model/swap_modelRequest"} <= subscribed


def test_keys_are_readable_by_their_owner_only(folder: Path) -> None:
    keys = [path for path in folder.rglob("*key.pem") if not path.is_symlink()]
    assert len(keys) == len(NODES) + 1
    assert {path.stat().st_mode & 0o077 for path in [*keys, folder]} == {0}


def test_second_run_keeps_the_keys_and_signs_changed_permissions(folder: Path) -> None:
    key = folder / "enclaves" / "fleet" / "robot" / "camera" / "key.pem"
    before = key.read_bytes()
    assert load_keystore().main([str(folder), "--namespace", "fleet/robot", "--image-topic", "rear"]) == 0
    assert key.read_bytes() == before
    assert "rt/fleet/robot/rear" in topics(folder, "camera", "publish")
    assert "rt/fleet/robot/front" not in topics(folder, "camera", "publish")


def test_keystore_command_says_what_stays_off_the_robot(
    sros2: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_keystore().main([str(tmp_path / "keys")]) == 0
    output = capsys.readouterr().out
    assert f"{len(NODES)} enclaves" in output and "--exclude private" in output


def test_invalid_name_is_rejected(sros2: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_keystore().main([str(tmp_path / "keys"), "--namespace", "my robot"]) == 1
    assert "/my robot/camera" in capsys.readouterr().err


def test_missing_sros2_is_reported_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sros2", None)
    assert load_keystore().main([str(tmp_path / "keys")]) == 1
    assert "apt install ros-$ROS_DISTRO-sros2" in capsys.readouterr().err
    assert not (tmp_path / "keys").exists()
