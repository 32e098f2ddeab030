"""Services that run in the background of a node."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

import rclpy
from jepa_msgs.srv import EvaluateActions
from jepa_ros.common.background_services import BackgroundServices
from jepa_ros.update.services import UpdateServices
from jepa_ros.world_model.evaluation_service import EvaluationService
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger

from jepa_runtime.errors import JepaRuntimeError

pytestmark = pytest.mark.ros


def test_service_that_raises_is_logged_and_answers_the_next_request(owner: Any, capfd: Any) -> None:
    calls: list[Any] = []

    def answer(request: Any, response: Any) -> Any:
        calls.append(request)
        if len(calls) == 1:
            raise RuntimeError("cancelled meanwhile")
        return response

    services = BackgroundServices(owner, "services", SingleThreadedExecutor())
    services.add_service(Trigger, "~/ask", answer)
    services.start()
    client = owner.create_client(Trigger, "owner/ask")
    assert client.wait_for_service(10.0)
    client.call_async(Trigger.Request())
    ends = time.monotonic() + 10.0
    while not calls and time.monotonic() < ends:
        time.sleep(0.01)
    pending = client.call_async(Trigger.Request())
    rclpy.spin_until_future_complete(owner, pending, timeout_sec=10.0)
    assert pending.done()
    services.stop()
    assert "cancelled meanwhile" in capfd.readouterr().err


@pytest.mark.parametrize("service", [EvaluateActions, Trigger])
def test_every_failed_request_is_answered(owner: Any, tmp_path: Path, service: Any) -> None:
    failures: list[Exception] = [
        JepaRuntimeError("refused"),
        RuntimeError("broken"),
        JepaRuntimeError("again"),
    ]
    messages = [str(failure) for failure in failures]

    def fail(*_: Any) -> Any:
        raise failures.pop(0)

    if service is Trigger:
        name, opened = (
            "owner/rollback",
            UpdateServices(owner, tmp_path, pytest.fail, rollback=fail, on_change=pytest.fail),
        )
    else:
        name, opened = "owner/evaluate_actions", EvaluationService(owner, fail, dict, lambda: "float16")
    client = owner.create_client(service, name)
    assert client.wait_for_service(10.0)
    answers = []
    for _ in messages:
        pending = client.call_async(service.Request())
        rclpy.spin_until_future_complete(owner, pending, timeout_sec=5.0)
        answers.append(pending.result() and pending.result().message)
    opened.close()
    assert answers == messages


def test_services_and_actions_follow_the_remapping_of_their_owner(ros_graph: Any, toy_bundle: Path) -> None:
    names = {
        "world_model": ("evaluate_actions", "swap_model", "rollback_model", "commit_model", "set_goal"),
        "planner": ("reach_goal",),
    }
    for node, own in names.items():
        given = {"bundle": toy_bundle, "allow_untrained": True} if node == "world_model" else {}
        ros_graph.start(node, given, tuple(f"~/{name}:=fleet/{name}" for name in own))
    expected = {f"/fleet/{name}" for own in names.values() for name in own}

    def offered() -> set[str]:
        services = ros_graph.observer.get_service_names_and_types()
        return {name.removesuffix("/_action/send_goal") for name, _ in services}

    ros_graph.until(lambda: expected <= offered(), "every service by its other name")
