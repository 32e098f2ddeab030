"""The graph is run for real where the workspace is built and on the paths; elsewhere these tests are
skipped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def missing() -> str:
    """Why the graph cannot be run here; empty if it can."""
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
    """Nodes hear them, also where ``nohup`` has this process ignore them."""
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, inherited)


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A node in this process, on a domain of its own."""
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
    """A graph of its own for one test."""
    if reason := missing():
        pytest.skip(reason)
    from tests.ros.graph import graph

    with graph(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared_graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A graph for all tests of a module, where they do not disturb each other."""
    if reason := missing():
        pytest.skip(reason)
    from tests.ros.graph import graph

    with graph(tmp_path_factory.mktemp("graph")) as made:
        yield made
