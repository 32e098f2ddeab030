"""The services of the world model for evaluating actions and setting the goal."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip(
    "jepa_ros.world_model.evaluation_service", reason="the workspace is not on the paths: . scripts/env.sh"
)

from jepa_msgs.msg import LatentState, PredictedFutures, Tensor
from jepa_msgs.srv import EvaluateActions, SetGoal
from jepa_ros.common import qos
from jepa_ros.common.conversions import fill, from_time, to_image, to_time
from sensor_msgs.msg import Image

from jepa_runtime.recording import messages
from tests.bundles import HORIZON, NUM_SAMPLES

pytestmark = pytest.mark.ros

RNG = np.random.default_rng(0)


def image() -> Image:
    pixels = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return to_image(pixels, stamp_ns=time.time_ns(), frame_id="eye")


class Model:
    """Start an active world model and a camera."""

    def __init__(self, graph: Any, bundle: Any) -> None:
        self.graph = graph
        self.futures = graph.listen(PredictedFutures, "world_model/futures")
        self.latents = graph.listen(LatentState, "world_model/latent")
        graph.start("world_model", {"bundle": bundle, "futures_dtype": "float32"})
        self.camera = graph.publisher(Image, "image", qos.SENSOR)
        self.serve()

    def serve(self, condition: Any = None) -> None:
        count = len(self.futures)
        self.graph.until(
            condition or (lambda: len(self.futures) > count),
            "futures",
            meanwhile=lambda: self.camera.publish(image()),
        )

    def evaluate(self, actions: np.ndarray, **request: Any) -> EvaluateActions.Response:
        message = EvaluateActions.Request(**request)
        fill(message, {"actions": messages.tensor("actions", actions.astype(np.float32))})
        return self.graph.call(EvaluateActions, "/world_model/evaluate_actions", message)

    def set_goal(self, **request: Any) -> SetGoal.Response:
        return self.graph.call(SetGoal, "/world_model/set_goal", SetGoal.Request(**request))


@pytest.fixture(scope="module")
def model(shared_graph: Any, toy_bundle: Any) -> Model:
    return Model(shared_graph, toy_bundle)


def sequences(count: int, steps: int = HORIZON) -> np.ndarray:
    return np.random.default_rng(count).uniform(-0.5, 0.5, (count, steps, 2))


def test_evaluation_without_a_goal_returns_latents_from_the_newest_image(model: Model) -> None:
    model.set_goal()
    model.serve(lambda: not model.futures[-1].has_goal)
    model.graph.spin_for(0.2)
    answer = model.evaluate(sequences(3), latents=True)
    assert answer.success, answer.message
    assert answer.stamp == model.latents[-1].header.stamp
    latents = messages.array_of(answer.latents)
    assert latents.shape[:2] == (3, HORIZON) and latents.dtype == np.float32
    assert not answer.has_goal and math.isnan(answer.current_energy) and len(answer.energies.data) == 0
    assert len(answer.error_bounds) == HORIZON


def test_evaluation_returns_the_published_futures_of_the_same_actions(model: Model) -> None:
    model.serve()
    model.graph.spin_for(0.2)
    published = model.futures[-1]
    answer = model.evaluate(messages.array_of(published.actions), latents=True)
    assert answer.success and answer.stamp == published.header.stamp
    np.testing.assert_array_equal(messages.array_of(answer.latents), messages.array_of(published.latents))


def test_evaluation_energies_are_those_to_the_current_goal(model: Model) -> None:
    assert model.set_goal(image=image(), stamp=to_time(77_000_000_000)).success
    model.serve(lambda: model.futures[-1].has_goal)
    model.graph.spin_for(0.2)
    count = 3 * NUM_SAMPLES + 1
    answer = model.evaluate(sequences(count, 2))
    assert answer.success, answer.message
    assert answer.has_goal and from_time(answer.goal_stamp) == 77_000_000_000
    assert messages.array_of(answer.energies).shape == (count, 2)
    assert len(answer.latents.data) == 0
    assert answer.current_energy == pytest.approx(model.futures[-1].current_energy)


def test_evaluation_goal_may_be_a_past_latent(model: Model) -> None:
    latent = model.latents[-1].latent
    assert model.set_goal(latent=latent, stamp=to_time(88)).success
    model.serve(lambda: from_time(model.futures[-1].goal_stamp) == 88)
    assert model.set_goal().success
    model.serve(lambda: not model.futures[-1].has_goal)


def test_evaluation_with_an_invalid_goal_is_rejected_with_the_reason(model: Model) -> None:
    wrong = fill(Tensor(), messages.tensor("latent", np.zeros((3, 3), np.float32)))
    assert "[2, 8] finite numbers, got [3, 3]" in model.set_goal(latent=wrong).message
    strange = image()
    strange.encoding = "32FC1"
    assert "32FC1" in model.set_goal(image=strange).message
    refused = model.set_goal(image=image(), camera="rear")
    assert not refused.success and "camera must be one of image" in refused.message


@pytest.mark.parametrize(
    ("actions", "request_", "reason"),
    [
        (np.zeros((2, HORIZON + 1, 2)), {"latents": True}, "actions must be [1..65536"),
        (np.full((2, HORIZON, 2), np.nan), {"latents": True}, "finite"),
        (np.zeros((2, HORIZON, 2)), {"latents": True, "camera": "rear"}, "camera must be one of image"),
        (np.zeros((2, HORIZON, 2)), {"latents": True, "deadline_s": -1.0}, "deadline_s must be 0 to 60"),
        (np.zeros((2, HORIZON, 2)), {}, "no goal, hence no energies"),
    ],
)
def test_invalid_evaluation_request_is_rejected_with_the_reason(
    model: Model, actions: np.ndarray, request_: dict[str, Any], reason: str
) -> None:
    answer = model.evaluate(actions, **request_)
    assert not answer.success and reason in answer.message


def test_images_are_served_during_many_evaluations(model: Model) -> None:
    request = fill(
        EvaluateActions.Request(latents=True, deadline_s=10.0),
        {"actions": messages.tensor("actions", sequences(500).astype(np.float32))},
    )
    asker = model.graph.observer.create_client(EvaluateActions, "/world_model/evaluate_actions")
    model.graph.until(asker.service_is_ready, "the service")
    answers = [asker.call_async(request) for _ in range(8)]
    count, began = len(model.latents), time.monotonic()
    model.serve(lambda: all(answer.done() for answer in answers))
    assert all(answer.result().success for answer in answers)
    sent = (time.monotonic() - began) / 0.04
    assert len(model.latents) - count > 0.8 * sent - 2


def test_evaluation_before_the_first_image_returns_an_error_in_time(ros_graph: Any, toy_bundle: Any) -> None:
    ros_graph.start("world_model", {"bundle": toy_bundle, "autostart": False})
    request = fill(
        EvaluateActions.Request(latents=True, deadline_s=0.3),
        {"actions": messages.tensor("actions", sequences(2).astype(np.float32))},
    )
    answer = ros_graph.call(EvaluateActions, "/world_model/evaluate_actions", request)
    assert not answer.success and "configure it first" in answer.message
    from lifecycle_msgs.msg import Transition

    assert ros_graph.change_state("world_model", Transition.TRANSITION_CONFIGURE)
    began = time.monotonic()
    answer = ros_graph.call(EvaluateActions, "/world_model/evaluate_actions", request)
    assert not answer.success and "not evaluated within 0.3 s" in answer.message
    assert time.monotonic() - began < 2.0
    request.deadline_s = 60.0
    asker = ros_graph.observer.create_client(EvaluateActions, "/world_model/evaluate_actions")
    ros_graph.until(asker.service_is_ready, "the service")
    asker.call_async(request)
    ros_graph.spin_for(0.3)
    assert ros_graph.stop("world_model") == 0, "a pending request does not block the shutdown"
