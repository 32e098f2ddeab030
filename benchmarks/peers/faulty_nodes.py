"""The installed nodes with a faulty camera: a driver between the camera of the simulated robot and the world
model replaces the images by those of a fault. Used by safety.py."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from faults import Fault, Others
from geometry_msgs.msg import Twist
from jepa_msgs.msg import PlannerStatus
from jepa_ros.common import qos
from jepa_ros.common.conversions import to_image
from jepa_ros.common.spin import create_executor
from jepa_ros.profiler.processes import Child, node_command, prepare_environment
from rclpy.node import Node
from sensor_msgs.msg import Image

from jepa_runtime.errors import JepaRuntimeError

_START_S = 60.0
_CAMERA, _DRIVER = "camera/image_raw", "driver/image_raw"


class _Driver(Node):
    """Forward the images, and record the commands."""

    def __init__(self, fault: Fault) -> None:
        super().__init__("driver")
        self.fails = False
        self.commands: list[tuple[float, float]] = []
        self.held_s: list[float] = []
        self._fault = fault
        self._images = [self.create_publisher(Image, _DRIVER, qos.SENSOR)]
        self.create_subscription(Image, _CAMERA, self._on_image, qos.SENSOR)
        self.create_subscription(Twist, "cmd_vel", self._on_command, qos.RESULT)
        self.create_subscription(PlannerStatus, "planner/status", self._on_status, qos.RESULT)

    def fail(self) -> None:
        """Apply the fault from now on."""
        self.fails = True
        if isinstance(self._fault, Others) and self._fault.counted:
            self._images.append(self.create_publisher(Image, _DRIVER, qos.SENSOR))

    def path_m(self, since_s: float) -> float:
        """Return the commanded path since ``since_s``."""
        ends = [at_s for at_s, _ in self.commands[1:]] + [time.monotonic()]
        return sum(
            speed * max(end_s - max(at_s, since_s), 0.0)
            for (at_s, speed), end_s in zip(self.commands, ends, strict=True)
        )

    def _on_image(self, message: Image) -> None:
        image = np.array(message.data, np.uint8).reshape(message.height, message.width, 3)
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        if not self.fails:
            self._fault.before(image)
            self._images[0].publish(message)
            return
        for index, each in enumerate(self._fault.sent(image)):
            moment_ns = stamp_ns + round((each.later_s - each.behind_s) * 1e9)
            sent = to_image(each.image, stamp_ns=moment_ns, frame_id=message.header.frame_id)
            self._images[index % len(self._images)].publish(sent)

    def _on_command(self, command: Twist) -> None:
        self.commands.append((time.monotonic(), math.hypot(command.linear.x, command.linear.y)))

    def _on_status(self, status: PlannerStatus) -> None:
        if status.state == PlannerStatus.HELD:
            self.held_s.append(time.monotonic())


def drive_nodes(bundle: Path, fault: Fault, lasts_s: float) -> tuple[float, float | None, int]:
    """Apply a fault to the images while the robot drives.

    Returns:
        The commanded path within ``lasts_s`` [m], the time until the robot was held [s] (None: never), and
        the number of images in which it was.

    Raises:
        JepaRuntimeError: A node does not run.
    """
    prepare_environment(isolated=True)
    rclpy.init(args=[])
    with ExitStack() as stack:
        stack.callback(rclpy.try_shutdown)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        driver, executor = _Driver(fault), create_executor()
        executor.add_node(driver)
        stack.callback(driver.destroy_node)
        stack.callback(executor.shutdown)
        children = [
            stack.enter_context(Child(name, node_command(name, parameters, remaps), scratch / f"{name}.log"))
            for name, parameters, remaps in (
                ("world_model", {"bundle": str(bundle)}, {"image": _DRIVER}),
                ("planner", {}, {}),
                ("two_rooms", {"seed": 3, "episode_timeout_s": 600.0}, {}),
            )
        ]

        def until(condition: Callable[[], Any], patience_s: float) -> bool:
            ends_s = time.monotonic() + patience_s
            while not condition() and time.monotonic() < ends_s:
                executor.spin_once(timeout_sec=0.02)
                for child in children:
                    if child.exit_message:
                        raise JepaRuntimeError(f"{child.exit_message}{child.log_excerpt()}")
            return bool(condition())

        if not until(lambda: any(speed for _, speed in driver.commands), _START_S):
            raise JepaRuntimeError(
                f"the robot was not driven within {_START_S:g} s{children[1].log_excerpt()}"
            )
        until(lambda: False, 0.5)
        driver.fail()
        began_s = time.monotonic()
        until(lambda: False, lasts_s)
        held = [at_s - began_s for at_s in driver.held_s if at_s > began_s]
        return driver.path_m(began_s), min(held, default=None), len(held)
