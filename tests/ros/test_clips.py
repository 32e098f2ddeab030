"""The world_model node with a bundle whose encoder reads clips."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")
pytest.importorskip("torch", reason="the export extra is not installed")

from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.msg import LatentState, PredictedFutures
from jepa_ros.common import qos
from jepa_ros.common.conversions import to_image
from sensor_msgs.msg import Image

from jepa_export.cli import main
from jepa_export.teachers.family import FAMILY
from tests.export.teachers.tiny import TINY

pytestmark = pytest.mark.ros


@pytest.fixture
def clip_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a small V-JEPA 2 with random weights that reads clips of 4 frames."""
    monkeypatch.setitem(FAMILY, "vjepa2", TINY["vjepa2"])
    folder = tmp_path / "clip_bundle"
    options = ["--frames", "4", "--horizon", "2", "--time", "clip:4", "--only", "openvino/fp32"]
    arguments = ["--teacher", "vjepa2", "--untrained", *options, "--output", str(folder)]
    assert main(["build", *arguments]) == 0
    return folder


def test_node_publishes_one_latent_per_step_and_reports_missing_images(ros_graph, clip_bundle):
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    latents = ros_graph.listen(LatentState, "world_model/latent")
    futures = ros_graph.listen(PredictedFutures, "world_model/futures")
    ros_graph.start("world_model", {"bundle": clip_bundle, "allow_untrained": True})
    camera = ros_graph.publisher(Image, "image", qos.SENSOR)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    stamps_ns = [time.time_ns()]

    def publish(period_s: float) -> None:
        if time.time_ns() >= stamps_ns[-1]:
            camera.publish(to_image(pixels, stamp_ns=stamps_ns[-1], frame_id="eye"))
            stamps_ns.append(stamps_ns[-1] + round(period_s * 1e9))

    def messages_of_diagnostics() -> str:
        return " ".join(status.message for each in diagnostics for status in each.status)

    ros_graph.until(
        lambda: "a clip of this model needs 4 images" in messages_of_diagnostics(),
        "the reason why there is no latent, of images too far apart",
        meanwhile=lambda: publish(0.6),
    )
    assert not latents
    ros_graph.until(lambda: len(futures) >= 2, "futures", meanwhile=lambda: publish(0.05))
    stamps_s = [each.header.stamp.sec + each.header.stamp.nanosec / 1e9 for each in latents]
    assert len(stamps_s) >= 2
    # An image that is lost on the way shifts a sample, or begins a new clip.
    assert np.diff(stamps_s).min() > 0.35
    assert len(stamps_ns) > 5 * len(latents)
    values = {pair.key: pair.value for pair in diagnostics[-1].status[0].values}
    assert int(values["skipped"]) > 5 * int(values["processed"])
