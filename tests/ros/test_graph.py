"""The graph of other tests explains why what they wait for does not happen."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = pytest.mark.ros


def test_until_at_its_timeout_reports_exit_codes_and_stacks(ros_graph: Any) -> None:
    ros_graph.start("camera", {"source": "/does/not/exist"})
    ros_graph.start("pictures")
    ros_graph.until(lambda: ros_graph.processes["camera"].poll() is not None, "the end of the camera")
    ros_graph.until(lambda: "pictures" in ros_graph.observer.get_node_names(), "the other node")
    with pytest.raises(AssertionError) as caught:
        ros_graph.until(lambda: False, "an image", 0.1)
    message = str(caught.value)
    assert "not within 0.1 s: an image" in message
    assert f"camera: exited with {ros_graph.processes['camera'].returncode}" in message
    assert "pictures: running, aborted now" in message and "Fatal Python error: Aborted" in message
    assert 'pictures.py", line' in message and ros_graph.processes["pictures"].returncode is not None


def test_until_fails_immediately_after_the_nodes_were_aborted(ros_graph: Any) -> None:
    with pytest.raises(AssertionError):
        ros_graph.until(lambda: False, "an image", 0.1)
    began = time.monotonic()
    with pytest.raises(AssertionError, match="aborted after waiting for an image"):
        ros_graph.until(lambda: False, "another image")
    assert time.monotonic() - began < 5
