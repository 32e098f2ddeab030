"""With a bundle the profiler publishes commands on an isolated graph only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from geometry_msgs.msg import PoseStamped, Twist
from jepa_ros.common import qos
from jepa_ros.profiler.processes import camera_command, choose_domain, prepare_environment
from sensor_msgs.msg import Image

from jepa_runtime.bundle import Bundle, seal

pytestmark = pytest.mark.ros

AS_USERS_RUN_IT = "import sys; from jepa_ros.nodes import profiler; sys.exit(profiler.main())"
# As if the random domain was that of a robot.
ON_THE_SHELLS_DOMAIN = (
    "from jepa_ros.nodes import profiler; profiler.prepare_environment = lambda **_: None; " + AS_USERS_RUN_IT
)


def profiled(graph: Any, program: str, bundle: Path, out: Path) -> tuple[int, str, list[Twist]]:
    """Run a short profile in a shell on the domain of ``graph``.

    Return its exit code, its output and the commands received on that domain.
    """
    commands = graph.listen(Twist, "cmd_vel")
    command = [sys.executable, "-c", program, str(bundle), "--allow-untrained", "--output", str(out)]
    command += ["--source", "two_rooms", "--rate", "20", "--duration", "1"]
    domain = str(graph.observer.context.get_domain_id())
    log = graph.log("profiler")
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            command, env=os.environ | {"ROS_DOMAIN_ID": domain}, stdout=sink, stderr=sink
        ) as process,
    ):
        graph.until(lambda: process.poll() is not None, "the end of the profile", 60.0)
    return process.returncode, log.read_text(encoding="utf-8"), commands


def test_isolated_graph_never_uses_the_domain_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    chosen = set()
    for shell in ("7", "007"):
        for _ in range(1000):
            monkeypatch.setenv("ROS_DOMAIN_ID", shell)
            prepare_environment(isolated=True)
            chosen.add(os.environ["ROS_DOMAIN_ID"])
    assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert "7" not in chosen and len(chosen) > 50


def test_isolated_graph_never_uses_an_occupied_domain(
    ros_graph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = ros_graph.observer.context.get_domain_id()
    monkeypatch.setenv("ROS_DOMAIN_ID", "0")
    assert str(taken) not in {choose_domain() for _ in range(2000)}


def test_robot_on_the_domain_of_the_shell_receives_no_command(
    ros_graph: Any, toy_bundle: Path, tmp_path: Path
) -> None:
    status, output, commands = profiled(ros_graph, AS_USERS_RUN_IT, toy_bundle, tmp_path / "p.json")
    assert status == 0, output
    assert commands == []


@pytest.mark.parametrize(
    ("names", "kind", "topic"),
    [
        (["linear.x", "linear.y"], Twist, "cmd_vel"),
        (["x", "y"], PoseStamped, "pose_delta"),
        # The source is a recording of a robot with two actions.
        (["x", "y", "z"], PoseStamped, "pose_delta"),
    ],
)
def test_profiler_sends_commands_for_the_action_names_of_the_model(
    ros_graph: Any, monkeypatch: pytest.MonkeyPatch, names: list[str], kind: type, topic: str
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(ros_graph.observer.context.get_domain_id()))
    commands = ros_graph.listen(kind, topic)
    ros_graph.listen(Image, "image", qos.SENSOR)
    command = camera_command(
        source="two_rooms", topic="image", rate_hz=20.0, frames=5, offset_ns=0, size=None, actions=names
    )
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as camera:
        try:
            ros_graph.until(lambda: commands or camera.poll() is not None, "commands")
        finally:
            camera.kill()
    assert commands


@pytest.mark.slow
def test_profiler_of_a_model_without_actions_sends_no_commands(
    ros_graph: Any, toy_bundle: Path, tmp_path: Path
) -> None:
    still = Path(shutil.copytree(toy_bundle, tmp_path / "still"))
    fields = Bundle.open(still).manifest.model_dump(mode="json")
    fields["io"]["action"] |= {"names": ["none", "nothing"], "low": [0.0, 0.0], "high": [0.0, 0.0]}
    seal(still, fields)
    status, output, _ = profiled(ros_graph, AS_USERS_RUN_IT, still, tmp_path / "p.json")
    assert status == 0, output


def test_profiler_with_another_node_in_the_graph_names_it_and_sends_no_commands(
    ros_graph: Any, toy_bundle: Path, tmp_path: Path
) -> None:
    status, output, commands = profiled(ros_graph, ON_THE_SHELLS_DOMAIN, toy_bundle, tmp_path / "p.json")
    assert status == 1 and "execute the published commands: /observer" in output
    assert commands == [] and not (tmp_path / "p.json").exists()
