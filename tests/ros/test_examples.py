"""The examples, run next to an active graph as by a user."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip(
    "jepa_ros.world_model.evaluation_service", reason="the workspace is not on the paths: . scripts/env.sh"
)

from jepa_msgs.msg import PredictedFutures

pytestmark = pytest.mark.ros

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def start(graph: Any, example: str, *arguments: str) -> subprocess.Popen[str]:
    domain = str(graph.observer.context.get_domain_id())
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / example), *arguments],
        env=os.environ | {"ROS_DOMAIN_ID": domain},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_example_scores_trajectories_while_the_robot_drives(ros_graph: Any, two_rooms_bundle: Path) -> None:
    futures = ros_graph.listen(PredictedFutures, "world_model/futures")
    ros_graph.start("world_model", {"bundle": two_rooms_bundle}, ("image:=camera/image_raw",))
    ros_graph.start("planner")
    ros_graph.start("two_rooms", {"min_subscribers": 1})
    ros_graph.until(lambda: futures and futures[-1].has_goal, "futures to a goal")
    example = start(ros_graph, "score_trajectories.py", "--count", "150")
    output, _ = example.communicate(timeout=60)
    assert example.returncode == 0, output
    match = re.search(
        r"current energy ([\d.]+)\nbest of 150 trajectories: (\d+), final energy ([\d.]+):\n\[\[", output
    )
    assert match is not None, output
    assert int(match[2]) < 150


def test_example_policy_receives_verdicts_and_the_critic_learns(
    ros_graph: Any, two_rooms_bundle: Path, tmp_path: Path
) -> None:
    """With this limit all chunks of a step are harmless, so that the warm-up takes four seconds."""
    state = tmp_path / "critic.json"
    settings = {"critic_limit": 1000.0, "critic_warmup": 19, "critic_trial_rate": 0.0, "critic_state": state}
    ros_graph.start("world_model", {"bundle": two_rooms_bundle}, ("image:=camera/image_raw",))
    ros_graph.start("planner", {"search_method": "policy", **settings})
    ros_graph.start("two_rooms", {"min_subscribers": 1})
    example = start(ros_graph, "ros2_policy.py", "--count", "50", "--steps", "1")
    output, _ = example.communicate(timeout=60)
    assert example.returncode == 0, output
    assert "accept: warm-up: the chunk is executed unchecked" in output
    assert re.search(r"accept: predicted score -?[\d.]+, veto threshold 1000", output), output
    assert ros_graph.stop("planner") == 0
    assert ros_graph.report("planner")["counters"]["critic/harmless"] >= 19
    assert json.loads(state.read_text(encoding="utf-8"))["state"]["limit"] == 1000.0


@pytest.mark.slow
def test_example_without_a_world_model_reports_it(ros_graph: Any) -> None:
    example = start(ros_graph, "score_trajectories.py", "--service", "/missing/evaluate_actions")
    output, _ = example.communicate(timeout=60)
    assert example.returncode == 1 and "/missing/evaluate_actions is not available" in output
