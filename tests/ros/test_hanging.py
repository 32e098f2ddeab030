"""Calls that never return, as those into Fast DDS once a process that listened was killed."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_ros.nodes.camera import CameraNode

from jepa_runtime.sources.base import Frame

pytestmark = pytest.mark.ros

# ctypes.PyDLL keeps the interpreter's lock, as calls into the middleware may.
HANGING = """
import ctypes, sys, threading
from rclpy.node import Node
from jepa_ros.spin import every, run

class Hanging(Node):
    def __init__(self):
        super().__init__("hanging")
        self.finished, self.failure = threading.Event(), ""
        every(self, 1.2, self.hang)

    def hang(self):
        ctypes.PyDLL(None).sleep(60)

run(Hanging, hang_s=1.5)
"""


def test_a_node_that_hangs_ends_and_tells_where() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=30.0)
    assert ended.returncode == 1 and "in hang" in ended.stderr


def test_a_camera_that_hangs_in_sending_an_image_hangs_as_a_whole(owner: Any, monkeypatch: Any) -> None:
    sending, sent, told = threading.Event(), threading.Event(), threading.Event()

    def publish(_: Any) -> None:
        sending.set()
        sent.wait(20.0)

    monkeypatch.setattr("jepa_ros.nodes.camera.open_source", lambda *_, **__: Mock(frames=lambda: iter(())))
    node = CameraNode()
    monkeypatch.setattr(node, "_images", Mock(publish=publish))
    monkeypatch.setattr(node, "_diagnostics", Mock(publish=lambda _: told.set()))
    frame = Frame(np.zeros((8, 8, 3), np.uint8), 1, "eye", 0)
    threads = [
        threading.Thread(target=node._publish, args=(frame,), kwargs={"live": True}),
        threading.Thread(target=node._publish_diagnostics),
    ]
    try:
        threads[0].start()
        assert sending.wait(10.0)
        threads[1].start()
        assert not told.wait(0.5)
    finally:
        sent.set()
    assert told.wait(10.0)
    for thread in threads:
        thread.join()
    node.stop()
    node.destroy_node()
