"""A search that starts from a policy: the planner in a separate process, stubs of world model and policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_msgs.msg import ActionCandidates

from jepa_runtime.recording import messages
from tests.ros.test_policy import LEFT, RIGHT, Robot, chunk, model_info

pytestmark = pytest.mark.ros

TIMEOUT_S = 0.6


@pytest.fixture(scope="module")
def robot(shared_graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Robot:
    """Return a robot that searches among 8 candidates, of which 2 are those of the policy."""
    state = tmp_path_factory.mktemp("state") / "critic.json"
    parameters = {"topk": 1, "policy_timeout_s": TIMEOUT_S, "stuck_after_s": 2.0}
    return Robot(shared_graph, state, search_method="policy_cem", **parameters)


def requested(robot: Robot) -> np.ndarray:
    """Return the candidates [K, H, A] that the planner requested last."""
    return messages.array_of(robot.requests[-1].actions) if robot.requests else np.zeros((1, 1, 2))


def keep_offering(robot: Robot, actions: np.ndarray) -> Any:
    """Return a function that shows an image, after the policy has sent its sequences."""

    def send() -> None:
        robot.offer(actions)
        robot.image()

    return send


def test_sequences_of_the_policy_are_the_last_candidates(robot: Robot) -> None:
    given = chunk(RIGHT, LEFT)
    held = np.concatenate([given, given], axis=1)
    robot.until(
        lambda: np.array_equal(requested(robot)[-2:], held), "them", meanwhile=keep_offering(robot, given)
    )
    assert robot.requests[-1].source == "policy_cem"


def test_sequence_that_leads_away_is_a_candidate_that_is_not_followed(robot: Robot) -> None:
    send = keep_offering(robot, chunk(LEFT))
    robot.until(lambda: robot.speed > 0.3, "the search follows the energies", meanwhile=send)
    first = len(robot.commands)
    robot.until(lambda: len(robot.commands) > first + 15, "further commands", meanwhile=send)
    assert min(command.linear.x for command in robot.commands[first:]) > 0.0


def test_invalid_sequences_are_ignored_and_the_robot_drives_on(robot: Robot) -> None:
    for wrong in (chunk(RIGHT) * np.nan, chunk(RIGHT)[..., :1]):
        robot.offer(wrong)
    first = len(robot.requests)
    robot.until(lambda: len(robot.requests) > first + 5, "further candidates")
    assert np.isfinite(requested(robot)).all() and robot.speed > 0.0
    robot.until(lambda: robot.value("proposals/rejected") == "2", "the counter")


def test_silent_policy_leaves_a_search_without_it_and_a_warning(robot: Robot) -> None:
    warning = "the planner searches without them"

    def last_message() -> str:
        return str(robot.diagnostics[-1].status[0].message) if robot.diagnostics else warning

    robot.diagnostics.clear()
    robot.until(lambda: robot.warned(warning), "a warning")
    assert robot.speed > 0.0 and not np.array_equal(requested(robot)[-2:], chunk(LEFT, LEFT, steps=4))
    send = keep_offering(robot, chunk(RIGHT))
    robot.until(lambda: warning not in last_message(), "no warning", meanwhile=send)


def test_two_policies_cause_a_warning(robot: Robot) -> None:
    other = robot.graph.publisher(ActionCandidates, "planner/policy_candidates")
    try:
        robot.until(lambda: robot.warned("planner/policy_candidates has 2 publishers"), "a warning")
    finally:
        robot.graph.observer.destroy_publisher(other)


def test_model_with_other_actions_drops_earlier_sequences(ros_graph: Any, tmp_path: Path) -> None:
    robot = Robot(
        ros_graph, tmp_path / "critic.json", search_method="policy_cem", topk=1, policy_timeout_s=60.0
    )
    robot.offer(chunk(RIGHT, steps=4))
    robot.until(lambda: np.array_equal(requested(robot)[-1], chunk(RIGHT, steps=4)[0]), "the sequence")
    names, units = ["linear.x", "linear.y", "angular.z"], ["m/s", "m/s", "rad/s"]
    low, high = [-1.0] * 3, [1.0] * 3
    robot.infos.publish(
        model_info(sha256="b", action_names=names, action_units=units, action_low=low, action_high=high)
    )
    robot.until(lambda: requested(robot).shape[-1] == 3, "candidates for the other model")
    robot.offer(chunk(RIGHT))
    robot.until(lambda: robot.value("proposals/rejected") == "1", "the counter")
    assert ros_graph.stop("planner") == 0
    counters = ros_graph.report("planner")["counters"]
    assert (counters["proposals/received"], counters.get("faults", 0)) == (1, 0)
