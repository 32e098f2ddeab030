"""A world model node as commonly written: everything in the subscription's callback.

usage: plain_node.py BUNDLE PRECISION

Float32MultiArray has no header, so the label of its first dimension carries the stamp of the image."""

import json
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import openvino as ov
import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Float32MultiArray, MultiArrayDimension


class PlainNode(Node):
    def __init__(self, bundle, precision):
        super().__init__("plain_node")
        manifest = json.loads((bundle / "manifest.json").read_text())
        io = manifest["io"]
        self.size = io["frame"]["width"], io["frame"]["height"]
        self.history_size = manifest["history_size"]
        # The model needs latents one step apart; the camera is faster.
        self.stride = round(io["step_s"] * io["frame"]["rate_hz"])
        self.latents = deque(maxlen=(self.history_size - 1) * self.stride + 1)
        low, high = io["action"]["low"], io["action"]["high"]
        shape = manifest["num_samples"], manifest["horizon"], len(low)
        self.actions = np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)
        self.past_actions = np.zeros((1, self.history_size - 1, len(low)), np.float32)

        core = ov.Core()
        # On some processors OpenVINO would compute in bfloat16, which is another precision.
        config = {"INFERENCE_PRECISION_HINT": "f32"}
        paths = {
            role: bundle / graph["path"]
            for role in ("encoder", "predictor")
            for graph in manifest["graphs"][role]
            if (graph["target"], graph["precision"]) == ("openvino", precision)
        }
        self.encoder = core.compile_model(paths["encoder"], "CPU", config)
        predictor = core.read_model(paths["predictor"])
        predictor.reshape({"actions": shape})
        self.predictor = core.compile_model(predictor, "CPU", config)

        self.publisher = self.create_publisher(Float32MultiArray, "futures", 10)
        self.create_subscription(Image, "camera/image_raw", self.on_image, qos_profile_sensor_data)

    def on_image(self, msg):
        image = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.width, 3)
        frame = cv2.resize(image, self.size)
        latent = self.encoder(frame[None])[0][0]
        self.latents.append(latent)
        if len(self.latents) < self.latents.maxlen:
            return
        inputs = {"history_latents": np.array(self.latents)[None, :: self.stride], "actions": self.actions}
        if self.history_size > 1:
            inputs["history_actions"] = self.past_actions
        futures = self.predictor(inputs)[0]

        out = Float32MultiArray()
        stamp = msg.header.stamp
        label = f"{stamp.sec}.{stamp.nanosec:09d}"
        out.layout.dim = [MultiArrayDimension(label=label, size=futures.size, stride=futures.size)]
        out.data = futures.flatten().tolist()
        self.publisher.publish(out)


def main():
    rclpy.init()
    node = PlainNode(Path(sys.argv[1]), sys.argv[2])
    with suppress(KeyboardInterrupt):
        rclpy.spin(node)


if __name__ == "__main__":
    main()
