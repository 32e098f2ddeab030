"""The update manager with updates ordered by a hawkBit server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros.update", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_runtime.ota.hawkbit.settings import Hawkbit
from tests.ota.hawkbit.ddi_server import DdiServer
from tests.ros.updated import Fleet

pytestmark = pytest.mark.ros


def test_release_ordered_by_the_fleet_goes_live_in_the_running_node(
    ros_graph: Any, toy_bundle: Path, tmp_path: Path
) -> None:
    with DdiServer() as server:
        robot = Fleet(ros_graph, tmp_path, toy_bundle)
        robot.until(lambda: robot.infos and robot.events, "both nodes")
        assert ros_graph.stop("update_manager") == 0
        token = robot.root / "hawkbit.token"
        token.write_text(server.target_token, encoding="ascii")
        token.chmod(0o600)
        robot.configure(hawkbit=Hawkbit(url=server.url))
        bundle = robot.publish()
        order = server.assign(bundle.manifest.version)
        robot.start_manager(auto=True)
        robot.until(lambda: order.status == "finished", "success", meanwhile=robot.look)
        assert robot.serves == bundle.manifest.version
        for node in ("update_manager", "world_model"):
            assert ros_graph.stop(node) == 0, ros_graph.log(node).read_text()
