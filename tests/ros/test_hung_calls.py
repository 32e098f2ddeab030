"""Calls that never return, such as into Fast DDS after a subscribed process was killed."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

pytestmark = pytest.mark.ros

# ctypes.PyDLL holds the interpreter lock, as rclpy does while publishing.
HANGING = """
import ctypes, sys, threading
from rclpy.node import Node
from jepa_ros.common.spin import create_steady_timer, run

class Hanging(Node):
    def __init__(self):
        super().__init__("hanging")
        self.finished, self.failure = threading.Event(), ""
        create_steady_timer(self, 0.1, self.hang) if sys.argv[1] == "later" else self.hang()

    def hang(self):
        ctypes.PyDLL(None).sleep(60)

run(Hanging, hang_timeout_s=1.5)
"""


@pytest.mark.parametrize("when", ["made", "later"])
def test_hung_node_exits_with_a_traceback(when: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HANGING, when], capture_output=True, text=True, timeout=30.0
    )
    assert ended.returncode == 1 and "in hang" in ended.stderr
