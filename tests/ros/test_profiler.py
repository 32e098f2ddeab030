"""The profiler on a running graph."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("psutil", reason="psutil is not installed (extra dev)")
pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

import psutil

from jepa_runtime.cli import main as jepa_runtime
from jepa_runtime.profiling.profile import Profile, read_profile

pytestmark = pytest.mark.ros


def command(out: Path, *options: object) -> list[str]:
    return [sys.executable, "-m", "jepa_ros.nodes.profiler", "--output", str(out), *map(str, options)]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def ran(out: Path, *options: object, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(out, *options), env=environment(**changes), capture_output=True, text=True, timeout=60
    )


def profile(out: Path, *options: object, code: int = 0, **changes: str) -> tuple[Profile, str]:
    """Run the profiler; return the profile and the output."""
    done = ran(out, *options, **changes)
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    return read_profile(out), output


def refused(out: Path, *options: object, **changes: str) -> str:
    """Return the output of a run that fails without a profile."""
    done = ran(out, *options, **changes)
    assert done.returncode == 1, done.stdout
    assert not out.exists()
    return done.stderr


def frames(measured: Profile) -> int:
    return len(measured.run.scheduled_s) + len(measured.run.dropped_s) + len(measured.run.failed_s)


def residuals(measured: Profile) -> np.ndarray:
    return np.array(measured.run.latency_ms) - np.sum(list(measured.run.stages_ms.values()), axis=0)


def test_profile_accounts_for_every_image_and_its_time(two_rooms_bundle, tmp_path):
    measured, output = profile(
        tmp_path / "a" / "p.json",
        *(two_rooms_bundle, "--source", "two_rooms", "--rate", 20, "--duration", 6),
        *("--num-samples", 16, "--size", "96x64"),
    )
    run, subject = measured.run, measured.subject
    assert frames(measured) == 120 and len(run.latency_ms) > 100
    assert min(run.latency_ms) > 0 and run.deadline_ms == 50.0
    assert list(run.stages_ms) == [
        *("receive", "transport", "decode", "wait", "preprocess", "encode"),
        *("predict", "energy", "message", "publish", "delivery"),
    ]
    assert min(run.stages_ms["transport"]) > 0
    assert min(residuals(measured)) > -0.01, "no stage is counted twice"
    assert np.median(residuals(measured)) < 0.1 * np.median(run.latency_ms)
    assert (subject.model_id, subject.futures, subject.frame_size) == ("two_rooms", 16, (96, 64))
    assert measured.kind == "ros" and "rmw" in measured.environment.versions
    rss = next(reading for reading in measured.readings if reading.name == "rss")
    assert min(rss.values) > 50, "that of the node"
    assert "120" in output and "transport" in output


@pytest.mark.slow
def test_profiler_repeats_a_recorded_bag(two_rooms_bundle, tmp_path):
    bag = tmp_path / "bag.mcap"
    record = ["run", str(two_rooms_bundle), "--source", "two_rooms", "--duration", "0.5"]
    assert jepa_runtime([*record, "--mcap", str(bag)]) == 0
    measured, _ = profile(
        tmp_path / "p.json", two_rooms_bundle, "--source", bag, "--rate", 20, "--duration", 2
    )
    assert frames(measured) == 40
    assert "the 15 preloaded images were repeated" in measured.notes


@pytest.mark.slow
def test_running_world_model_is_measured_and_left_running(ros_graph, toy_bundle, tmp_path):
    domain = {"ROS_DOMAIN_ID": str(ros_graph.observer.context.get_domain_id())}
    ros_graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True})
    ros_graph.until(lambda: ros_graph.log("world_model").read_text(), "the world model")
    options = ("--attach", "/world_model", "--source", "two_rooms", "--rate", 20, "--duration", 2)
    measured, _ = profile(tmp_path / "p.json", *options, "--topic", "image", **domain)
    assert frames(measured) == 40 and measured.run.latency_ms
    assert measured.subject.model_id and measured.subject.threads is None
    wrong = refused(tmp_path / "q.json", *options, "--topic", "camera/other", **domain)
    assert "camera/other has no subscriber" in wrong and "/image" in wrong
    other = refused(tmp_path / "q.json", "--attach", "/eye", *options[2:], **domain)
    assert "/eye" in other and "/world_model" in other
    assert ros_graph.stop("world_model") == 0


@pytest.mark.slow
def test_profiler_measures_the_camera_whose_images_are_published(ros_graph, toy_bundle, tmp_path):
    domain = {"ROS_DOMAIN_ID": str(ros_graph.observer.context.get_domain_id())}
    cameras = {"bundle": toy_bundle, "allow_untrained": True, "cameras": ["front/image", "rear"]}
    ros_graph.start("world_model", cameras, ("__ns:=/robot",))
    ros_graph.until(lambda: ros_graph.log("world_model").read_text(), "the world model")
    options = ("--attach", "/robot/world_model", "--source", "two_rooms", "--rate", 20, "--duration", 2)
    measured, _ = profile(tmp_path / "p.json", *options, "--topic", "robot/front/image", **domain)
    assert frames(measured) == 40 and measured.run.latency_ms and measured.run.stages_ms["transport"]
    assert not any("STALE" in note for note in measured.notes), "that is the other camera"
    assert ros_graph.stop("world_model") == 0


def started(out: Path, bundle: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Start a profile of one minute; return it and its processes (world model, camera) once it measures."""
    options = ("--source", "two_rooms", "--rate", 20, "--duration", 60, "--allow-untrained")
    profiler = subprocess.Popen(
        command(out, bundle, *options),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert profiler.stdout is not None and "measuring 60 s" in (line := profiler.stdout.readline()), line
    time.sleep(1)
    return profiler, psutil.Process(profiler.pid).children()


@pytest.mark.slow
def test_node_that_dies_drops_the_later_images_and_is_named(toy_bundle, tmp_path):
    profiler, children = started(tmp_path / "p.json", toy_bundle)
    next(child for child in children if "num_samples:=0" in child.cmdline()).kill()
    time.sleep(1)
    profiler.send_signal(signal.SIGINT)
    output, _ = profiler.communicate(timeout=30)
    assert profiler.returncode == 1, output
    measured = read_profile(tmp_path / "p.json")
    assert measured.run.latency_ms and max(measured.run.dropped_s) > max(measured.run.scheduled_s)
    assert any("world_model ended with exit code -9" in note for note in measured.notes)
    assert "world_model ended with exit code -9" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.slow
def test_stopped_profiler_keeps_its_measurements_and_leaves_no_process(toy_bundle, tmp_path, number):
    profiler, children = started(tmp_path / "p.json", toy_bundle)
    profiler.send_signal(number)
    output, _ = profiler.communicate(timeout=30)
    assert profiler.returncode == 0, output
    measured = read_profile(tmp_path / "p.json")
    assert 0 < len(measured.run.latency_ms) <= frames(measured) < 1200
    assert any("stopped after" in note for note in measured.notes)
    assert len(children) == 2 and not any(child.is_running() for child in children)


def test_profiler_that_cannot_measure_reports_why(two_rooms_bundle, tmp_path):
    options = ("--source", "two_rooms", "--rate", 20, "--duration", 1)
    assert "not a bundle" in refused(tmp_path / "p.json", tmp_path / "nothing", *options)
    unknown = refused(tmp_path / "p.json", two_rooms_bundle, "--source", tmp_path / "no.mp4")
    assert "no.mp4: no such file" in unknown
