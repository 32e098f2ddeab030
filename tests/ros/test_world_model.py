"""The world_model node in a separate process: states, parameters, outputs and shutdown."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.msg import ActionCandidates, LatentState, ModelInfo, PredictedFutures
from jepa_ros.common import qos
from jepa_ros.common.conversions import fill, to_image
from lifecycle_msgs.msg import Transition
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from jepa_runtime.recording import messages

pytestmark = pytest.mark.ros

RNG = np.random.default_rng(0)


def image(stamp_ns: int | None = None, size: tuple[int, int] = (48, 64)) -> Image:
    pixels = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    return to_image(pixels, stamp_ns=time.time_ns() if stamp_ns is None else stamp_ns, frame_id="eye")


def served(graph, toy_bundle, **parameters):
    """Start an active world_model; return its image publisher and its futures."""
    futures = graph.listen(PredictedFutures, "world_model/futures")
    graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True, **parameters})
    # As offered by camera drivers.
    return graph.publisher(Image, "image", qos_profile_sensor_data), futures


def levels(received: list[DiagnosticArray]) -> set[int]:
    return {status.level[0] for message in received for status in message.status}


def values(received: list[DiagnosticArray]) -> dict[str, str]:
    return {pair.key: pair.value for pair in received[-1].status[0].values} if received else {}


def test_lifecycle_states_are_passed_and_only_an_active_node_publishes(ros_graph, toy_bundle):
    futures = ros_graph.listen(PredictedFutures, "world_model/futures")
    info = ros_graph.listen(ModelInfo, "world_model/model_info", qos.LATCHED)
    ros_graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True, "autostart": False})
    assert ros_graph.state("world_model") == "unconfigured"
    assert not ros_graph.change_state("world_model", Transition.TRANSITION_ACTIVATE), "not from here"
    assert ros_graph.change_state("world_model", Transition.TRANSITION_CONFIGURE)
    assert ros_graph.state("world_model") == "inactive"
    assert not info, "configuring only loads"
    assert ros_graph.change_state("world_model", Transition.TRANSITION_ACTIVATE)
    camera = ros_graph.publisher(Image, "image", qos.SENSOR)
    ros_graph.until(lambda: info, "model info")
    ros_graph.until(lambda: futures, "futures of an image", meanwhile=lambda: camera.publish(image()))
    assert ros_graph.change_state("world_model", Transition.TRANSITION_DEACTIVATE)
    ros_graph.until(lambda: camera.get_subscription_count() == 0, "no subscriber of the image")
    count = len(futures)
    camera.publish(image())
    ros_graph.spin_for(0.3)
    assert len(futures) == count
    assert ros_graph.change_state("world_model", Transition.TRANSITION_CLEANUP)
    assert ros_graph.state("world_model") == "unconfigured"
    assert ros_graph.change_state("world_model", Transition.TRANSITION_CONFIGURE), (
        "it can be configured again"
    )
    assert ros_graph.change_state("world_model", Transition.TRANSITION_INACTIVE_SHUTDOWN)
    assert ros_graph.state("world_model") == "finalized"
    assert ros_graph.stop("world_model") == 0


def test_failed_transition_is_in_the_diagnostics_and_can_be_fixed(ros_graph, toy_bundle, tmp_path):
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    ros_graph.start(
        "world_model", {"bundle": tmp_path / "nothing", "allow_untrained": True, "autostart": False}
    )
    assert not ros_graph.change_state("world_model", Transition.TRANSITION_CONFIGURE)
    assert ros_graph.state("world_model") == "unconfigured"
    ros_graph.until(lambda: 2 in levels(diagnostics), "an error in the diagnostics")
    assert any("nothing" in status.message for message in diagnostics for status in message.status)
    assert ros_graph.set_parameter("world_model", "bundle", str(toy_bundle)) == ""
    assert ros_graph.change_state("world_model", Transition.TRANSITION_CONFIGURE)


def test_node_with_an_unusable_bundle_exits_with_the_reason(ros_graph, tmp_path):
    ros_graph.start("world_model", {"bundle": tmp_path / "nothing"})
    assert ros_graph.exit_code("world_model") == 1
    assert "nothing" in ros_graph.log("world_model").read_text()


# ROS treats an empty list in a YAML file as no value.
@pytest.mark.parametrize(("name", "value"), [("deadline_ms", -1.0), ("cpu_affinity", []), ("cameras", [])])
def test_invalid_parameter_at_the_start_ends_the_node_with_the_reason(ros_graph, toy_bundle, name, value):
    ros_graph.start("world_model", {"bundle": toy_bundle, name: value})
    assert ros_graph.exit_code("world_model") == 1
    log = ros_graph.log("world_model").read_text()
    assert name in log and "Traceback" not in log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_under_traffic_ends_the_node_cleanly(ros_graph, toy_bundle, number):
    camera, futures = served(ros_graph, toy_bundle)
    ros_graph.until(lambda: len(futures) > 5, "futures", meanwhile=lambda: camera.publish(image()))
    for _ in range(5):
        camera.publish(image())
    assert ros_graph.stop("world_model", number) == 0, ros_graph.log("world_model").read_text()
    report = ros_graph.report("world_model")
    assert report["counters"]["processed"] >= len(futures)
    assert report["model"]["id"]
    # Libraries, and not the model, are most of it; on every Python and whatever the page cache holds.
    assert 100 < report["rss_mb"] < 250


def test_repeated_signals_do_not_disturb_the_shutdown(ros_graph, toy_bundle):
    camera, futures = served(ros_graph, toy_bundle)
    ros_graph.until(lambda: futures, "futures", meanwhile=lambda: camera.publish(image()))
    process = ros_graph.processes.pop("world_model")
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    assert process.returncode == 0, ros_graph.log("world_model").read_text()


def test_frames_at_three_times_the_possible_rate_are_dropped_in_favor_of_the_newest(ros_graph, toy_bundle):
    camera, futures = served(ros_graph, toy_bundle, num_samples=16384)
    ros_graph.until(lambda: futures, "futures", meanwhile=lambda: camera.publish(image()), every_s=0.2)
    most_hz = _send(ros_graph, camera, futures, rate_hz=200.0, duration_s=1.0)
    _send(ros_graph, camera, futures, rate_hz=3 * most_hz, duration_s=2.0)
    last = image()
    ros_graph.until(
        lambda: futures[-1].header.stamp == last.header.stamp,
        "the newest frame to be served",
        meanwhile=lambda: camera.publish(last),
        every_s=1.0,
    )
    sequences = [message.sequence for message in futures]
    assert sequences == sorted(set(sequences))
    assert ros_graph.stop("world_model") == 0
    counters = ros_graph.report("world_model")["counters"]
    assert counters["received"] == counters["processed"] + counters["dropped"] + counters["failed"]
    assert counters["dropped"] > counters["received"] / 3, f"{counters}, served at most {most_hz:.0f} Hz"
    assert counters["processed"] > most_hz, "it continues to serve"


def _send(graph, camera, futures, *, rate_hz: float, duration_s: float) -> float:
    """Publish frames at ``rate_hz``; return the rate of the futures [Hz]."""
    count, began = len(futures), time.monotonic()
    for index in range(round(rate_hz * duration_s)):
        camera.publish(image())
        while time.monotonic() < began + (index + 1) / rate_hz:
            graph.spin_for(0.0)
    return (len(futures) - count) / (time.monotonic() - began)


def test_two_cameras_are_served_independently_of_gaps_in_one(ros_graph, toy_bundle):
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    latents = {
        name: ros_graph.listen(LatentState, f"world_model/{name}/latent") for name in ("front", "rear")
    }
    futures = {name: ros_graph.listen(PredictedFutures, f"world_model/{name}/futures") for name in latents}
    ros_graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True, "cameras": list(latents)})
    for name in latents:
        # The robot's node is the camera here; a graph knows its processes by one name each.
        ros_graph.start(
            "two_rooms",
            {"rate_hz": 15.0, "frame_id": f"{name}_eye", "min_subscribers": 1},
            (f"__node:={name}_robot", f"camera/image_raw:={name}", f"goal_image:={name}/goal_image"),
        )
        ros_graph.processes[name] = ros_graph.processes.pop("two_rooms")
        ros_graph.log(name).touch()
    ros_graph.until(lambda: all(len(each) > 30 for each in futures.values()), "futures of both")
    for name in latents:
        assert {message.header.frame_id for message in latents[name]} == {f"{name}_eye"}
        assert futures[name][-1].header.frame_id == f"{name}_eye"
        assert futures[name][-1].has_goal, "each camera has the goal of its topic"

    ros_graph.processes["front"].send_signal(signal.SIGSTOP)
    ros_graph.spin_for(1.0)
    ros_graph.processes["front"].send_signal(signal.SIGCONT)
    ros_graph.until(
        lambda: "gap" in {message.history_reset for message in latents["front"]}, "a gap of the front camera"
    )
    assert {message.history_reset for message in latents["rear"]} <= {"first", ""}
    names = {status.name for message in diagnostics for status in message.status}
    assert names >= {"world_model: inference front", "world_model: inference rear"}

    assert ros_graph.stop("world_model") == 0
    for camera in ros_graph.report("world_model")["cameras"].values():
        counters = camera["counters"]
        assert counters["processed"] > 30 and counters["dropped"] <= 0.05 * counters["received"]
        assert counters["received"] - counters["processed"] - counters["dropped"] <= 1, "the one in progress"


@pytest.mark.parametrize(
    ("camera", "expected"),
    [
        ("/rear", "'/rear' is not a relative topic name"),
        ("front/compressed", "parameter cameras: 'front/compressed' is a topic of compressed images"),
    ],
)
def test_cameras_need_relative_topics_of_raw_images(ros_graph, toy_bundle, camera, expected):
    ros_graph.start("world_model", {"bundle": toy_bundle, "cameras": ["front", camera]})
    assert ros_graph.exit_code("world_model") == 1
    assert expected in ros_graph.log("world_model").read_text()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core only")
def test_inference_thread_keeps_to_its_cores_and_reports_missing_permissions(ros_graph, toy_bundle):
    *rest, last = sorted(os.sched_getaffinity(0))
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    camera, futures = served(ros_graph, toy_bundle, cpu_affinity=[last], fifo_priority=5, lock_memory=True)
    ros_graph.until(lambda: len(futures) > 5, "futures", meanwhile=lambda: camera.publish(image()))
    ros_graph.until(lambda: "realtime/cpu_affinity" in values(diagnostics), "settings in the diagnostics")
    reported = values(diagnostics)
    assert reported["realtime/cpu_affinity"] == f"cores {last}"
    process = ros_graph.processes["world_model"].pid
    threads = [int(thread) for thread in os.listdir(f"/proc/{process}/task")]
    assert sorted(os.sched_getaffinity(process)) == rest
    assert any(os.sched_getaffinity(thread) == {last} for thread in threads)
    fifo = any(os.sched_getscheduler(thread) == os.SCHED_FIFO for thread in threads)
    if fifo:
        assert reported["realtime/fifo_priority"] == "SCHED_FIFO 5"
    else:
        assert "LimitRTPRIO=5" in reported["realtime/fifo_priority"]
        assert "LimitRTPRIO=5" in ros_graph.log("world_model").read_text()
    assert reported["realtime/keep_heap"] == "retained" or "glibc" in reported["realtime/keep_heap"]
    assert reported["realtime/lock_memory"] == "locked" or "LimitMEMLOCK" in reported["realtime/lock_memory"]
    assert ros_graph.stop("world_model") == 0


@pytest.fixture(scope="module")
def node(shared_graph, toy_bundle):
    """Start one node for the independent tests; return graph, camera and outputs."""
    camera, futures = served(shared_graph, toy_bundle)
    diagnostics = shared_graph.listen(DiagnosticArray, "/diagnostics")
    shared_graph.until(lambda: futures, "futures", meanwhile=lambda: camera.publish(image()))
    yield shared_graph, camera, futures, diagnostics
    assert shared_graph.stop("world_model") == 0


class TestServing:
    """These tests are independent and share a node."""

    def test_results_carry_the_stamp_and_frame_of_the_image(self, node):
        graph, camera, futures, _ = node
        latents = graph.listen(LatentState, "world_model/latent")
        graph.until(lambda: latents, "a latent", meanwhile=lambda: camera.publish(image()))
        sent = image()
        camera.publish(sent)
        graph.until(
            lambda: futures[-1].header == sent.header and latents[-1].header == sent.header,
            "results of the image",
        )
        assert futures[-1].header.frame_id == "eye"

    def test_futures_are_complete_and_late_subscribers_get_the_model_info(self, node):
        graph, _, futures, _ = node
        info = graph.listen(ModelInfo, "world_model/model_info", qos.LATCHED)
        graph.until(lambda: info, "latched model info")
        model, message = info[0], futures[-1]
        assert len(model.sha256) == 64
        size = [model.num_samples, model.horizon]
        assert list(messages.array_of(message.actions).shape) == [*size, len(model.action_names)]
        latents = messages.array_of(message.latents)
        assert list(latents.shape) == [*size, model.tokens, model.dim]
        assert latents.dtype == np.float16 and np.isfinite(latents).all()
        assert len(message.horizon_s) == len(message.error_bounds) == model.horizon
        assert message.candidates_source == "fan" and not message.has_goal

    def test_candidates_are_used_and_identified(self, node):
        graph, camera, futures, _ = node
        info = graph.listen(ModelInfo, "world_model/model_info", qos.LATCHED)
        graph.until(lambda: info, "latched model info")
        actions = np.zeros((3, info[0].horizon, len(info[0].action_names)), np.float32)
        candidates = fill(
            ActionCandidates(), {"actions": messages.tensor("actions", actions), "source": "me"}
        )
        candidates.header.stamp.sec = 77
        planner = graph.publisher(ActionCandidates, "world_model/candidates")
        planner.publish(candidates)
        graph.until(
            lambda: futures[-1].candidates_source == "me",
            "futures of the candidates",
            meanwhile=lambda: camera.publish(image()),
        )
        assert futures[-1].candidates_stamp.sec == 77
        np.testing.assert_array_equal(messages.array_of(futures[-1].actions), actions)

    def test_candidates_of_the_wrong_shape_are_rejected_and_counted(self, node):
        graph, _, _, diagnostics = node
        planner = graph.publisher(ActionCandidates, "world_model/candidates")
        wrong = {"actions": messages.tensor("actions", np.zeros((1, 1, 1), np.float32)), "source": "wrong"}
        planner.publish(fill(ActionCandidates(), wrong))
        graph.until(
            lambda: values(diagnostics).get("rejected_candidates") == "1", "a refusal in the diagnostics"
        )

    @pytest.mark.parametrize("value", [1e300, 1e38])
    def test_candidates_with_non_finite_results_are_rejected_without_failing_a_frame(self, node, value):
        graph, camera, _, diagnostics = node
        infos = graph.listen(ModelInfo, "world_model/model_info", qos.LATCHED)
        graph.until(lambda: infos, "which model serves")
        refused = int(values(diagnostics)["rejected_candidates"])
        wild = np.full((1, infos[-1].horizon, len(infos[-1].action_names)), value)
        planner = graph.publisher(ActionCandidates, "world_model/candidates")
        planner.publish(fill(ActionCandidates(), {"actions": messages.tensor("actions", wild)}))
        graph.until(
            lambda: int(values(diagnostics)["rejected_candidates"]) == refused + 1,
            "a refusal in the diagnostics",
            meanwhile=lambda: camera.publish(image()),
        )
        assert values(diagnostics)["failed"] == "0"

    def test_goal_yields_energies_and_an_empty_image_clears_it(self, node):
        graph, camera, futures, _ = node
        goals = graph.publisher(Image, "goal_image", qos.LATCHED)
        goals.publish(image(stamp_ns=55_000_000_000))
        graph.until(
            lambda: futures[-1].has_goal, "futures with a goal", meanwhile=lambda: camera.publish(image())
        )
        message = futures[-1]
        assert message.goal_stamp.sec == 55
        assert messages.array_of(message.energies).shape == tuple(message.actions.shape[:2])
        goals.publish(Image())
        graph.until(
            lambda: not futures[-1].has_goal,
            "futures without a goal",
            meanwhile=lambda: camera.publish(image()),
        )

    def test_parameters_are_described_and_invalid_values_rejected_with_a_reason(self, node):
        graph, *_ = node
        assert all(
            descriptor.description for descriptor in graph.describe("world_model", ["bundle", "max_miss_run"])
        )
        assert graph.describe("world_model", ["stale_after_s"])[0].floating_point_range
        assert "range" in graph.set_parameter("world_model", "max_miss_run", 0)
        assert "range" in graph.set_parameter("world_model", "cpu_affinity", [0, -2])
        assert "type" in graph.set_parameter("world_model", "cpu_affinity", "0")
        assert "one of" in graph.set_parameter("world_model", "futures_dtype", "float8")
        assert "read-only" in graph.set_parameter("world_model", "autostart", False)
        assert "unconfigured" in graph.set_parameter("world_model", "engine", "onnxruntime:CPU")
        assert "type" in graph.set_parameter("world_model", "stale_after_s", "long")
        assert graph.set_parameter("world_model", "stale_after_s", 0.9) == ""

    def test_bad_frames_are_counted_and_reported_and_good_ones_are_served(self, node):
        graph, camera, futures, diagnostics = node
        wrong_encoding, no_pixels, no_stamp, short = image(), image(), image(stamp_ns=0), image()
        wrong_encoding.encoding = "32FC1"
        no_pixels.height = 0
        short.data = short.data[:100]
        bad = [wrong_encoding, no_pixels, no_stamp, short, image(size=(24, 32))]
        for message in bad:
            camera.publish(message)
            graph.spin_for(0.02)
        expected = {"bad_frames/bad_image": "2", "bad_frames/zero_size": "1", "bad_frames/bad_stamp": "1"}
        expected["bad_frames/size_changed"] = "1"
        graph.until(lambda: expected.items() <= values(diagnostics).items(), f"{expected} in the diagnostics")
        good = image()
        camera.publish(good)
        graph.until(lambda: futures[-1].header == good.header, "futures of a good frame after bad ones")

    def test_compressed_images_are_served(self, node):
        cv2 = pytest.importorskip("cv2")
        from sensor_msgs.msg import CompressedImage

        graph, _, futures, _ = node
        camera = graph.publisher(CompressedImage, "image/compressed", qos.SENSOR)
        jpeg = cv2.imencode(".jpg", RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8))[1]
        message = fill(CompressedImage(header=image().header), {"format": "jpeg", "data": jpeg.ravel()})
        # The node may match its new publisher slightly later than the publisher matches the node.
        graph.until(
            lambda: futures[-1].header == message.header,
            "futures of a JPEG",
            meanwhile=lambda: camera.publish(message),
            every_s=0.3,
        )

    def test_diagnostics_without_frames_turn_stale(self, node):
        graph, camera, futures, diagnostics = node
        diagnostics.clear()
        graph.until(lambda: 3 in levels(diagnostics), "STALE")
        graph.until(lambda: 0 in levels(diagnostics), "OK again", meanwhile=lambda: camera.publish(image()))
        assert futures
