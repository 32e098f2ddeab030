"""The world_model node with a bundle whose encoder reads clips, or each step once with a cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")
pytest.importorskip("torch", reason="the export extra is not installed")

from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.msg import LatentState, PredictedFutures
from jepa_ros.common import qos
from jepa_ros.common.conversions import from_time, to_image
from sensor_msgs.msg import Image

from jepa_export.cli import main
from jepa_export.teachers.family import FAMILY
from jepa_runtime import WorldModel
from jepa_runtime.recording import messages
from jepa_runtime.serving.pipeline import Pipeline, Result
from jepa_runtime.sources.base import Frame
from tests.export.teachers.tiny import TINY

pytestmark = pytest.mark.ros


@pytest.fixture
def make_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that builds a small V-JEPA 2 with random weights and the given ``--time``."""
    monkeypatch.setitem(FAMILY, "vjepa2", TINY["vjepa2"])

    def make(time: str) -> Path:
        folder = tmp_path / "bundle"
        options = ["--frames", "4", "--horizon", "2", "--time", time, "--only", "openvino/fp32"]
        arguments = ["--teacher", "vjepa2", "--untrained", *options, "--output", str(folder)]
        assert main(["build", *arguments]) == 0
        return folder

    return make


def test_node_publishes_one_latent_per_step_and_reports_missing_images(ros_graph, make_bundle):
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    latents = ros_graph.listen(LatentState, "world_model/latent")
    futures = ros_graph.listen(PredictedFutures, "world_model/futures")
    ros_graph.start("world_model", {"bundle": make_bundle("clip:4"), "allow_untrained": True})
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


def images_with_a_gap_and_a_clock_jump() -> list[Frame]:
    """Return three sequences of 4 steps: the second begins after a gap, the third at an earlier time."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 48, 48, 3), np.uint8)
    begins_s = np.repeat([10.0, 15.0, 12.0], 8)
    stamps_ns = np.round((begins_s + np.tile(np.arange(8), 3) / 4) * 1e9).astype(int) + time.time_ns()
    return [
        Frame(image, stamp_ns, "eye", index)
        for index, (image, stamp_ns) in enumerate(zip(pixels, stamps_ns.tolist(), strict=True))
    ]


def test_causal_encoder_resets_its_cache_as_the_python_session_does(ros_graph, make_bundle):
    bundle, frames = make_bundle("causal:6"), images_with_a_gap_and_a_clock_jump()
    expected: list[Result] = []
    with Pipeline(
        lambda: WorldModel.open(bundle, allow_untrained=True), on_result=expected.append
    ) as session:
        for frame in frames:
            session.submit(frame)
            assert session.wait_idle(10.0)
    resets = [None if result.reset is None else result.reset.value for result in expected]
    assert resets == ["first", None, "gap", None, "clock_backwards", None]

    latents = ros_graph.listen(LatentState, "world_model/latent")
    futures = ros_graph.listen(PredictedFutures, "world_model/futures")
    ros_graph.start("world_model", {"bundle": bundle, "allow_untrained": True})
    camera = ros_graph.publisher(Image, "image", qos.SENSOR)
    stamps_ns = [result.stamp_ns for result in expected]
    for frame in frames:
        camera.publish(to_image(frame.image, stamp_ns=frame.stamp_ns, frame_id=frame.frame_id))
        # A step without a latent fills the cache; the node must have encoded it before the next one.
        ros_graph.spin_for(0.1)
        if frame.stamp_ns in stamps_ns:
            count = stamps_ns.index(frame.stamp_ns) + 1
            ros_graph.until(lambda count=count: len(latents) >= count, f"latent {count}")
    assert [from_time(message.header.stamp) for message in latents] == stamps_ns
    assert [message.history_reset or None for message in latents] == resets
    for message, result in zip(latents, expected, strict=True):
        np.testing.assert_allclose(messages.array_of(message.latent), result.latent, atol=1e-5, rtol=0)
    predicted = [result.stamp_ns for result in expected if result.futures is not None]
    ros_graph.until(lambda: len(futures) >= len(predicted), "the futures")
    assert [from_time(message.header.stamp) for message in futures] == predicted
