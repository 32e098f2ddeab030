"""A simulated robot in two rooms with an overhead camera: images out, velocity commands in.

The simulation advances by one camera period per image with the last command. Without recent commands the
robot stands still. An episode ends when the planner reports that the current goal is reached, or at its
timeout. The next one starts elsewhere with a new frame_id, so that nothing is predicted from one episode into
the next.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import numpy as np
from jepa_msgs.msg import EpisodeResult, PlannerStatus
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from jepa_ros.common import qos
from jepa_ros.common.action_commands import VelocityCommands
from jepa_ros.common.conversions import from_time, to_image, to_time
from jepa_ros.common.parameters import STAMPED_CMD_VEL, declare_parameters, parameter_values
from jepa_ros.common.spin import run
from jepa_ros.nodes.two_rooms_parameters import PARAMETERS
from jepa_runtime.sources import view_name
from jepa_sim.worlds.two_rooms_world import TwoRooms


class TwoRoomsNode(Node):
    """Publish the camera images of the simulation. ros2_ws/README.md lists its topics and parameters."""

    def __init__(self) -> None:
        super().__init__("two_rooms")
        self.finished = threading.Event()
        self.failure = ""
        declare_parameters(self, PARAMETERS)
        values = parameter_values(self, PARAMETERS)
        self._frame_id: str = values["frame_id"]
        self._view = view_name(self._frame_id, 0)
        self._period_s = 1.0 / values["rate_hz"]
        self._min_subscribers: int = values["min_subscribers"]
        self._last_image: float = values["duration_s"] * values["rate_hz"] or float("inf")
        self._world = TwoRooms(layout=values["layout"], seed=values["seed"])
        self._command: NDArray[np.float64] = np.zeros(2)
        self._command_at = -float("inf")
        self._published = self._episodes = self._successes = 0
        self._first_ns = self._last_ns = self._goal_ns = 0
        self._images = self.create_publisher(Image, "camera/image_raw", qos.SENSOR)
        self._goals = self.create_publisher(Image, "goal_image", qos.LATCHED)
        self._results = self.create_publisher(EpisodeResult, "episode", qos.RESULT)
        commands = VelocityCommands(("linear.x", "linear.y"), stamped=values[STAMPED_CMD_VEL.name])
        commands.subscribe(self, self._on_command)
        self.create_subscription(PlannerStatus, "planner/status", self._on_status, qos.RESULT)
        self._announce_goal()
        self.create_timer(self._period_s, self._tick)
        self.get_logger().info(f"two rooms, {values['layout']} layout, {values['rate_hz']:g} Hz")

    def _tick(self) -> None:
        if self._published == 0 and self._images.get_subscription_count() < self._min_subscribers:
            return
        stale = time.monotonic() - self._command_at > self.get_parameter("command_timeout_s").value
        self._world.step(np.zeros(2) if stale else self._command, self._period_s)
        now_ns = self._now_ns()
        self._images.publish(to_image(self._world.render(), stamp_ns=now_ns, frame_id=self._view))
        if self._published == 0:
            self._first_ns = now_ns
        self._last_ns = now_ns
        self._published += 1
        if self._published >= self._last_image:
            self.finished.set()
        elif self._world.time_s > self.get_parameter("episode_timeout_s").value:
            self._end_episode("timeout")

    def _on_command(self, action: NDArray[np.float32]) -> None:
        velocity = action.astype(np.float64)
        if np.isfinite(velocity).all():
            self._command, self._command_at = velocity, time.monotonic()

    def _on_status(self, message: PlannerStatus) -> None:
        if message.state == PlannerStatus.REACHED and from_time(message.goal_stamp) == self._goal_ns:
            self._end_episode("reached" if self._world.reached() else "wrong_place")

    def _end_episode(self, outcome: str) -> None:
        self._episodes += 1
        self._successes += outcome == "reached"
        result = EpisodeResult(
            header=Header(stamp=to_time(self._now_ns()), frame_id=self._view),
            index=self._episodes,
            reached=outcome == "reached",
            outcome=outcome,
            duration_s=self._world.time_s,
            distance_m=self._world.distance(),
        )
        self._results.publish(result)
        self.get_logger().info(
            f"episode {result.index}: {outcome} after {result.duration_s:.1f} s,"
            f" {result.distance_m:.2f} m from the goal"
        )
        self._world.reset()
        self._view = view_name(self._frame_id, self._episodes)
        self._command_at = -float("inf")
        self._announce_goal()

    def _announce_goal(self) -> None:
        self._goal_ns = self._now_ns()
        self._goals.publish(to_image(self._world.render_goal(), stamp_ns=self._goal_ns, frame_id=self._view))

    def stop(self) -> None:
        """Do nothing: the simulation stops with the images."""

    def report(self) -> dict[str, Any]:
        """Return counters since the start, without the episode in progress."""
        return {
            "frames_published": self._published,
            "duration_s": (self._last_ns - self._first_ns) / 1e9,
            "episodes": self._episodes,
            "successes": self._successes,
        }

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main() -> None:
    """Entry point of ``ros2 run jepa_ros two_rooms``."""
    sys.exit(run(TwoRoomsNode))
