"""Model swaps in a running world_model node: accepted, rejected and rolled back."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_msgs.msg import LatentState, ModelInfo
from jepa_msgs.srv import SwapModel
from jepa_ros.common import qos
from jepa_ros.common.conversions import to_image
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from tests.bundles import make_bundle

pytestmark = pytest.mark.ros


def image() -> Image:
    return to_image(np.zeros((48, 64, 3), np.uint8), stamp_ns=time.time_ns(), frame_id="eye")


def test_models_are_swapped_while_images_are_served(ros_graph, toy_bundle, tmp_path):
    other = make_bundle(tmp_path / "other", seed=1)
    graph = ros_graph
    infos = graph.listen(ModelInfo, "world_model/model_info", qos.LATCHED)
    latents = graph.listen(LatentState, "world_model/latent")
    graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True})
    camera = graph.publisher(Image, "image", qos.SENSOR)

    def served(count: int) -> None:
        before = len(latents)
        graph.until(
            lambda: len(latents) >= before + count, "latents", meanwhile=lambda: camera.publish(image())
        )

    def swap(bundle: object) -> SwapModel.Response:
        return graph.call(SwapModel, "/world_model/swap_model", SwapModel.Request(bundle=str(bundle)))

    served(3)
    first = infos[0].sha256
    missing = swap(tmp_path / "nothing")
    assert not missing.success and "not a bundle" in missing.message
    served(3)
    assert {info.sha256 for info in infos} == {first}

    answer = swap(other.path)
    assert answer.success and not answer.history_kept, answer.message
    served(3)
    assert infos[-1].sha256 == other.sha256
    assert [latent.history_reset for latent in latents].count("model") == 1

    assert graph.call(Trigger, "/world_model/rollback_model", Trigger.Request()).success
    served(3)
    assert infos[-1].sha256 == first

    assert graph.call(Trigger, "/world_model/commit_model", Trigger.Request()).success
    refused = graph.call(Trigger, "/world_model/rollback_model", Trigger.Request())
    assert not refused.success and "no model to roll back to" in refused.message
    assert graph.stop("world_model") == 0


def test_node_that_is_stopped_during_a_swap_does_not_reject_the_model(ros_graph, toy_bundle):
    ros_graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True})
    ros_graph.publisher(Image, "image", qos.SENSOR)
    client = ros_graph.observer.create_client(SwapModel, "/world_model/swap_model")
    ros_graph.until(client.service_is_ready, "the service")
    answer = client.call_async(SwapModel.Request(bundle=str(toy_bundle)))
    # Without images each gap during opening takes a tenth of a second.
    ros_graph.spin_for(0.5)
    assert ros_graph.stop("world_model", signal.SIGTERM) == 0
    ros_graph.spin_for(0.2)
    assert not answer.done()
    log = ros_graph.log("world_model").read_text()
    assert "active model" not in log and "swap failed" not in log and "Traceback" not in log
