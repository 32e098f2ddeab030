"""The pictures node beside a world model: it draws what comes while somebody looks, and only then."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_msgs.msg import PredictedFutures
from jepa_ros import qos
from jepa_ros.conversions import to_image
from jepa_ros.images import ImageReader
from sensor_msgs.msg import CompressedImage, Image

pytestmark = pytest.mark.ros

RNG = np.random.default_rng(0)
PICTURES = ("latent", "futures", "map")


def image() -> Image:
    pixels = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return to_image(pixels, stamp_ns=time.time_ns(), frame_id="eye")


def test_pictures_of_what_is_foreseen_are_drawn(ros_graph, toy_bundle):
    ros_graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True})
    ros_graph.start("pictures", {"pictures_hz": 20.0})
    shown = {
        name: ros_graph.listen(CompressedImage, f"pictures/{name}/image", qos.RESULT) for name in PICTURES
    }
    futures = ros_graph.listen(PredictedFutures, "world_model/futures")
    camera = ros_graph.publisher(Image, "image", qos.SENSOR, listeners=2)
    ros_graph.until(
        lambda: all(len(messages) > 2 for messages in shown.values()),
        "pictures",
        meanwhile=lambda: camera.publish(image()),
    )
    stamps = {(message.header.stamp.sec, message.header.stamp.nanosec) for message in futures}
    for messages in shown.values():
        picture = ImageReader.decode(messages[-1])
        assert np.unique(picture.reshape(-1, 3), axis=0).shape[0] > 8
        stamp = messages[0].header.stamp
        assert (stamp.sec, stamp.nanosec) in stamps, "a picture has the stamp of its image"
    assert ros_graph.stop("pictures") == 0
    assert ros_graph.report("pictures")["drawn"] >= 3


def test_while_nobody_looks_nothing_is_drawn(ros_graph, toy_bundle):
    ros_graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True})
    ros_graph.start("pictures", {"pictures_hz": 20.0})
    futures = ros_graph.listen(PredictedFutures, "world_model/futures")
    camera = ros_graph.publisher(Image, "image", qos.SENSOR, listeners=2)
    ros_graph.until(lambda: len(futures) > 40, "futures", meanwhile=lambda: camera.publish(image()))
    assert ros_graph.stop("pictures") == 0
    assert ros_graph.report("pictures")["drawn"] == 0


def test_a_bundle_that_is_none_ends_the_node_with_the_reason(ros_graph, tmp_path: Path):
    ros_graph.start("pictures", {"atlas_bundle": tmp_path / "nothing"})
    assert ros_graph.exit_code("pictures") == 1
    assert "nothing" in ros_graph.log("pictures").read_text()
