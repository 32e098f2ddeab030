"""Fixtures of a real ROS graph. Without a built workspace in the environment these tests are skipped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def missing() -> str:
    """Return why the graph cannot run here, or an empty string."""
    try:
        import rclpy  # noqa: F401
    except ImportError:
        return "ROS 2 is not installed here: scripts/setup.sh --with ros,viz,dev"
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    if not any((Path(prefix) / "lib" / "jepa_ros" / "world_model").is_file() for prefix in prefixes):
        return "the workspace is not on the paths: scripts/setup.sh --with ros,viz,dev, then . scripts/env.sh"
    return ""


@pytest.fixture(autouse=True, scope="session")
def hang_ups() -> Iterator[None]:
    """Let nodes receive SIGHUP, also if ``nohup`` makes this process ignore it."""
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, inherited)


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Create a node in this process, on its own domain."""
    rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
    processes = pytest.importorskip("jepa_ros.profiler.processes", reason="no workspace on the paths")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init(domain_id=int(processes.choose_domain()))
    node = rclpy.create_node("owner")
    yield node
    node.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def ros_graph(tmp_path: Path) -> Iterator:
    """Create a graph for one test."""
    if reason := missing():
        pytest.skip(reason)
    from tests.ros.graph import graph

    with graph(tmp_path) as ros:
        yield ros


@pytest.fixture(scope="module")
def shared_graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """Create a graph for all tests of a module that do not affect each other."""
    if reason := missing():
        pytest.skip(reason)
    from tests.ros.graph import graph

    with graph(tmp_path_factory.mktemp("graph")) as ros:
        yield ros
