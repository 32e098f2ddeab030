"""Try to drive, publish images, subscribe and call services on a robot's network, and print the results.

Run as ``python visitor.py ENCLAVE NODE SECONDS``.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import Twist
from jepa_msgs.msg import LatentState
from jepa_ros.common import qos
from jepa_ros.common.conversions import to_image
from lifecycle_msgs.srv import GetState
from sensor_msgs.msg import Image

PERIOD_S = 0.05


def main(enclave: str, name: str, duration_s: float) -> None:
    rclpy.init(args=["--ros-args", "--enclave", f"/{enclave}"])
    node = rclpy.create_node(name)
    refused: list[str] = []
    received: Counter[str] = Counter()

    def attempt(what: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Exception:
            refused.append(what)
            return None

    def hear(message: Image | LatentState) -> None:
        received[f"{type(message).__name__} of {message.header.frame_id}"] += 1

    wheels = attempt("drive", lambda: node.create_publisher(Twist, "cmd_vel", qos.RESULT))
    images = attempt("send images", lambda: node.create_publisher(Image, "image", qos.SENSOR))
    attempt("hear images", lambda: node.create_subscription(Image, "image", hear, qos.SENSOR))
    latents = "world_model/latent"
    attempt("hear latents", lambda: node.create_subscription(LatentState, latents, hear, qos.SENSOR))
    client = attempt("ask", lambda: node.create_client(GetState, "world_model/get_state"))
    answer = None
    ends = time.monotonic() + duration_s
    while time.monotonic() < ends:
        if images is not None:
            pixels = np.zeros((48, 64, 3), np.uint8)
            images.publish(to_image(pixels, stamp_ns=time.time_ns(), frame_id=name))
        if wheels is not None:
            wheels.publish(Twist())
        if client is not None and answer is None and client.service_is_ready():
            answer = client.call_async(GetState.Request())
        rclpy.spin_once(node, timeout_sec=PERIOD_S)
    state = answer.result().current_state.label if answer is not None and answer.done() else ""
    print(json.dumps({"refused": refused, "received": received, "state": state}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
