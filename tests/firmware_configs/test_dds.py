"""The DDS profiles, read by the DDS implementations."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jepa_runtime.system_files.shipped import find_shipped
from tests.conftest import ROOT

FOLDER = ROOT / "firmware_configs" / "common" / "etc"
FAST_DDS, CYCLONE = FOLDER / "jepa-edge" / "fastdds.xml", FOLDER / "jepa-edge" / "cyclonedds.xml"
LAUNCHED = ROOT / "ros2_ws" / "src" / "jepa_bringup" / "config"

# Create a node and print the size of the shared memory that Fast DDS created for it.
_NODE = """
import re, rclpy
rclpy.init()
node = rclpy.create_node("profile_test")
mapped = re.findall(r"(\\w+)-(\\w+) .*/dev/shm/fastrtps_", open("/proc/self/maps").read())
print(max((int(end, 16) - int(start, 16) for start, end in mapped), default=0))
node.destroy_node()
rclpy.shutdown()
"""
# Create a participant and print whether it succeeded.
_PARTICIPANT = """
import ctypes, sys
dds = ctypes.CDLL(sys.argv[1])
print(dds.dds_create_participant(0, None, None) > 0)
"""


def sysctl(name: str) -> int:
    text = (FOLDER / "sysctl.d" / "60-jepa-dds.conf").read_text()
    match = re.search(rf"^{re.escape(name)} = (\d+)$", text, re.MULTILINE)
    assert match
    return int(match[1])


def test_fast_dds_profile_equals_that_of_the_launch_files() -> None:
    on_target = next(file for file in find_shipped(["common"]) if file.path == "etc/jepa-edge/fastdds.xml")
    assert on_target.content == (LAUNCHED / "fastdds.xml").read_bytes()


def test_fast_dds_profile_for_results_differs_in_shared_memory_only() -> None:
    images, results = (
        {element.tag: element.text for element in ElementTree.parse(LAUNCHED / name).getroot().iter()}
        for name in ("fastdds.xml", "fastdds_results.xml")
    )
    differing = {tag.partition("}")[2] for tag in images | results if images.get(tag) != results.get(tag)}
    assert differing == {"segment_size"}


def test_fast_dds_udp_profile_has_no_shared_memory() -> None:
    udp, shared = (
        ElementTree.parse(FOLDER / "jepa-edge" / name).getroot()
        for name in ("fastdds_udp.xml", "fastdds.xml")
    )
    assert [each.text for each in udp.iter() if each.tag.endswith("}type")] == ["UDPv4"]
    discovery = "{*}participant/{*}rtps/{*}builtin"
    udp_found, shared_found = udp.find(discovery), shared.find(discovery)
    assert udp_found is not None and shared_found is not None
    texts = [[each.text for each in profile.iter()] for profile in (udp_found, shared_found)]
    assert texts[0] == texts[1]


def node(profile: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile),
        "FASTDDS_DEFAULT_PROFILES_FILE": str(profile),
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        "ROS_DOMAIN_ID": "93",
    }
    # Python processes with the ROS wheels set this for their children; ours must search itself.
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    command = [sys.executable, "-c", _NODE]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.ros
@pytest.mark.parametrize("profile", [FAST_DDS, LAUNCHED / "fastdds_results.xml"], ids=lambda path: path.name)
def test_fast_dds_creates_the_shared_memory_of_its_profile(profile: Path) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    configured = ElementTree.parse(profile).getroot().find(".//{*}segment_size")
    assert configured is not None and configured.text
    done = node(profile)
    assert done.returncode == 0 and "XMLPARSER" not in done.stderr, done.stderr
    assert 0 <= int(done.stdout) - int(configured.text) < 1 << 20


@pytest.mark.ros
def test_fast_dds_udp_profile_creates_no_shared_memory() -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    done = node(FOLDER / "jepa-edge" / "fastdds_udp.xml")
    assert (done.returncode, done.stdout) == (0, "0\n") and "XMLPARSER" not in done.stderr, done.stderr


@pytest.mark.ros
def test_fast_dds_reports_an_invalid_profile(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    wrong = tmp_path / "wrong.xml"
    wrong.write_text(FAST_DDS.read_text().replace("segment_size", "segmentsize"))
    done = node(wrong)
    assert "XMLPARSER" in done.stderr + done.stdout


def participant(profile: Path) -> subprocess.CompletedProcess[str]:
    library = find_library("ddsc")
    if library is None:
        pytest.skip("Cyclone DDS (libddsc) is not installed")
    environment = os.environ | {"CYCLONEDDS_URI": f"file://{profile}"}
    command = [sys.executable, "-c", _PARTICIPANT, library]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_cyclone_dds_accepts_its_profile_with_smaller_kernel_limits() -> None:
    done = participant(CYCLONE)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_cyclone_dds_reports_an_invalid_profile(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.xml"
    wrong.write_text(CYCLONE.read_text().replace("SocketSendBufferSize", "SendBuffer"))
    done = participant(wrong)
    assert "unknown element" in done.stderr


@pytest.mark.parametrize(
    ("element", "limit"),
    [("SocketReceiveBufferSize", "net.core.rmem_max"), ("SocketSendBufferSize", "net.core.wmem_max")],
)
def test_cyclone_dds_buffers_equal_the_sysctl_limits(element: str, limit: str) -> None:
    value = ElementTree.parse(CYCLONE).getroot().find(f".//{{*}}{element}")
    assert value is not None
    megabytes = re.fullmatch(r"(\d+)MiB", value.attrib["max"])
    assert megabytes and int(megabytes[1]) << 20 == sysctl(limit)
