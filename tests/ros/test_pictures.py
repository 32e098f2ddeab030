"""The pictures node next to a world model: it renders only while there is a subscriber."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

import rclpy
from jepa_msgs.msg import LatentState, ModelInfo, PredictedFutures
from jepa_ros.common import qos
from jepa_ros.common.conversions import fill, to_image
from jepa_ros.nodes.pictures import PicturesNode
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from jepa_runtime.imaging.conversion import image_from_message
from jepa_runtime.recording import messages
from jepa_runtime.visualization.atlas import Atlas, thumbnail

pytestmark = pytest.mark.ros

RNG = np.random.default_rng(0)
PICTURES = ("latent", "futures", "map")


def image() -> Image:
    pixels = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return to_image(pixels, stamp_ns=time.time_ns(), frame_id="eye")


def test_pictures_of_predictions_are_drawn(ros_graph, toy_bundle):
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
    for drawn in shown.values():
        picture = image_from_message(drawn[-1])
        assert np.unique(picture.reshape(-1, 3), axis=0).shape[0] > 8
        stamp = drawn[0].header.stamp
        assert (stamp.sec, stamp.nanosec) in stamps, "a picture has the stamp of its image"
    assert ros_graph.stop("pictures") == 0
    assert ros_graph.report("pictures")["drawn"] >= 3


def test_pictures_without_subscribers_are_not_drawn(ros_graph, toy_bundle):
    ros_graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True})
    ros_graph.start("pictures", {"pictures_hz": 20.0})
    futures = ros_graph.listen(PredictedFutures, "world_model/futures")
    camera = ros_graph.publisher(Image, "image", qos.SENSOR, listeners=2)
    ros_graph.until(lambda: len(futures) > 40, "futures", meanwhile=lambda: camera.publish(image()))
    assert ros_graph.stop("pictures") == 0
    assert ros_graph.report("pictures")["drawn"] == 0


def test_invalid_bundle_ends_the_pictures_node_with_the_reason(ros_graph, tmp_path: Path):
    ros_graph.start("pictures", {"atlas_bundle": tmp_path / "nothing"})
    assert ros_graph.exit_code("pictures") == 1
    assert "nothing" in ros_graph.log("pictures").read_text()


def test_undrawable_input_is_reported_and_skipped(ros_graph):
    ros_graph.start("pictures", {"pictures_hz": 20.0})
    shown = ros_graph.listen(CompressedImage, "pictures/map/image", qos.RESULT)
    infos, latents, futures, camera = (
        ros_graph.publisher(kind, topic, profile)
        for kind, topic, profile in (
            (ModelInfo, "world_model/model_info", qos.LATCHED),
            (LatentState, "world_model/latent", qos.RESULT),
            (PredictedFutures, "world_model/futures", qos.RESULT),
            (Image, "image", qos.SENSOR),
        )
    )
    fields = {"model_id": "one", "version": "1", "tokens": 2, "dim": 4, "horizon": 1}

    def until_reported(words: str, **named: Any) -> None:
        ros_graph.until(lambda: words in ros_graph.log("pictures").read_text(), words, **named)

    def send(value: float | None = None) -> None:
        of_now = of_one_moment(2, 4, value=value)
        for publisher, message in zip((camera, latents, futures), of_now, strict=True):
            publisher.publish(message)

    infos.publish(ModelInfo(**fields, step_s=math.inf))
    until_reported("infinity")
    camera.publish(serialize_message(Image())[:6])
    infos.publish(ModelInfo(**fields, step_s=0.1))
    # A model that computes NaN for a while.
    until_reported("not finite", meanwhile=lambda: send(math.nan))
    ros_graph.until(lambda: shown, "a picture", meanwhile=send)
    assert ros_graph.stop("pictures") == 0


@pytest.fixture
def node():
    rclpy.init()
    pictures = PicturesNode()
    yield pictures
    pictures.destroy_node()
    rclpy.shutdown()


def of_one_moment(
    tokens: int, dim: int, version: str = "1", value: float | None = None
) -> tuple[Image, LatentState, PredictedFutures]:
    """Return an image, its latent (constant ``value``, or noise) and its futures."""
    seen = image()
    latent = LatentState(header=seen.header, model_id="one", model_version=version)
    numbers = RNG.standard_normal((tokens, dim)) if value is None else np.full((tokens, dim), value)
    fill(latent.latent, messages.tensor("latent", numbers.astype(np.float32)))
    futures = PredictedFutures(header=seen.header, horizon_s=[0.1], error_bounds=[1.0])
    for name, size in (("latents", (2, 1, tokens, dim)), ("actions", (2, 1, 2)), ("energies", (0, 0))):
        array = RNG.standard_normal(size).astype(np.float32)
        fill(getattr(futures, name), messages.tensor(name, array))
    return seen, latent, futures


def show(node: PicturesNode, count: int, tokens: int, dim: int, version: str = "1") -> None:
    """Pass frames of one model and their futures to the node."""
    for _ in range(count):
        seen, latent, futures = of_one_moment(tokens, dim, version)
        node.image_callback(Image)(serialize_message(seen))
        node.on_latent(latent)
        node.on_futures(serialize_message(futures))
        node.draw()


def test_atlas_of_other_latents_is_ignored(node: PicturesNode, monkeypatch: pytest.MonkeyPatch):
    other = RNG.standard_normal((8, 3, 5)).astype(np.float32)
    node.atlas = Atlas.build(other, np.arange(8), [thumbnail(np.zeros((8, 8, 3), np.uint8))] * 8, 1)
    monkeypatch.setattr(node.outputs["map"], "get_subscription_count", lambda: 1)
    node.on_model(ModelInfo(model_id="one", version="1", tokens=2, dim=4, horizon=1, step_s=0.1))
    show(node, 20, 2, 4)
    assert 0 < node.report()["drawn"] < 20, "a map takes some frames of the run to be drawn from"


def test_latents_before_their_model_info_are_harmless(node: PicturesNode, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(node.outputs["map"], "get_subscription_count", lambda: 1)
    node.on_model(ModelInfo(model_id="one", version="1", tokens=2, dim=4, horizon=1, step_s=0.1))
    show(node, 20, 2, 4)
    drawn = node.report()["drawn"]
    show(node, 2, 3, 5, version="2")
    assert node.report()["drawn"] == drawn
    node.on_model(ModelInfo(model_id="one", version="2", tokens=3, dim=5, horizon=1, step_s=0.1))
    show(node, 20, 3, 5, version="2")
    assert node.report()["drawn"] > drawn


def test_latents_of_a_repeated_stamp_do_not_accumulate(node: PicturesNode):
    """As from a camera that continues while /clock is paused and then restarted."""
    node.on_model(ModelInfo(model_id="one", version="1", tokens=2, dim=4, horizon=1, step_s=0.1))
    for sec in (5, *[7] * 20, 6):
        _, latent, _ = of_one_moment(2, 4)
        latent.header.stamp.sec, latent.header.stamp.nanosec = sec, 0
        node.on_latent(latent)
    assert [stamp_ns for stamp_ns, _ in node.trail] == [5 * 10**9, 6 * 10**9]
