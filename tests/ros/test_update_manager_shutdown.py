"""Services and action of the update manager, in this process with a fake worker."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

import rclpy
from action_msgs.msg import GoalStatus
from jepa_msgs.action import UpdateModel
from jepa_ros.update.services import Goal, UpdateServices
from jepa_ros.update.worker import Request
from rclpy.action import ActionClient

pytestmark = pytest.mark.ros


class Endless:
    """Fake a worker whose updates do not end before it stops."""

    accepts_requests = True

    def __init__(self) -> None:
        self.began = threading.Event()
        self._asked: Request | None = None

    def submit(self, request: Request) -> bool:
        self._asked = request
        self.began.set()
        return True

    def stop(self) -> None:
        assert self._asked is not None
        self._asked.done.set()


def test_stopping_manager_ends_the_pending_update_request(
    owner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker, worker = rclpy.create_node("asker"), Endless()

    def slowly(_: Goal) -> bool:
        time.sleep(0.1)
        return False

    # Simulates a result that is being sent.
    monkeypatch.setattr(UpdateServices, "is_cancelled", staticmethod(slowly))

    def until(future: Any) -> Any:
        rclpy.spin_until_future_complete(asker, future, timeout_sec=20.0)
        assert future.done(), "no response"
        return future.result()

    doors = UpdateServices(owner, tmp_path, worker, rollback=pytest.fail, on_change=pytest.fail)
    client = ActionClient(asker, UpdateModel, "owner/update")
    assert client.wait_for_server(10.0)
    pending = until(client.send_goal_async(UpdateModel.Goal())).get_result_async()
    assert worker.began.wait(10.0)
    worker.stop()
    doors.close()
    ended = until(pending)
    assert (ended.status, ended.result.reason) == (
        GoalStatus.STATUS_ABORTED,
        "the update manager is shutting down",
    )
    client.destroy()
    asker.destroy_node()
