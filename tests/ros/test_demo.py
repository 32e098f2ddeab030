"""The demo as a user runs it, shorter and with a toy model: four processes, no mock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

psutil = pytest.importorskip("psutil")
pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

pytestmark = pytest.mark.ros

RUN = Path(__file__).resolve().parents[2] / "demo" / "run.py"
FIELDS = {
    "frames_published",
    "frames_processed",
    "frames_dropped",
    "rate_hz",
    "e2e_ms",
    "encode_ms",
    "predict_ms",
    "deadline_ms",
    "deadline_misses",
    "futures_per_frame",
    "horizon",
    "episodes",
    "successes",
    "rss_mb",
    "cpu",
    "versions",
    "model",
}


def start(bundle: Path, out: Path, seconds: str = "3") -> subprocess.Popen[str]:
    command = [sys.executable, str(RUN), "--bundle", str(bundle), "--out", str(out), "--allow-untrained"]
    environment = {**os.environ, "DEMO_SECONDS": seconds}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_the_demo_leaves_its_results(toy_bundle, tmp_path):
    demo = start(toy_bundle, tmp_path)
    said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0, said
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary.keys() == FIELDS
    assert summary["e2e_ms"].keys() == {"p50", "p95", "p99", "max", "n"}
    assert summary["model"].keys() == {"id", "version", "sha256", "engine", "device", "precision"}
    assert summary["frames_published"] == 90
    assert summary["frames_dropped"] == summary["frames_published"] - summary["frames_processed"]
    assert summary["frames_processed"] > 60
    assert summary["e2e_ms"]["n"] > 60
    assert "<svg" in (tmp_path / "latency.html").read_text(encoding="utf-8")
    assert (tmp_path / "demo.mcap").stat().st_size > 1_000_000
    assert "end to end" in said


def test_a_node_that_dies_fails_the_demo_and_is_named(toy_bundle, tmp_path):
    demo = start(toy_bundle, tmp_path, seconds="30")
    deadline = time.monotonic() + 20
    victims: list[psutil.Process] = []
    while not victims and time.monotonic() < deadline:
        time.sleep(0.1)
        children = psutil.Process(demo.pid).children()
        victims = [child for child in children if any(part.endswith("/planner") for part in child.cmdline())]
    assert victims
    victims[0].kill()
    said, _ = demo.communicate(timeout=40)
    assert demo.returncode == 1
    assert "planner ended early" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_the_demo_stops_its_nodes_and_keeps_what_it_has(toy_bundle, tmp_path, number):
    demo = start(toy_bundle, tmp_path, seconds="60")
    recording = tmp_path / "demo.mcap.partial"
    deadline = time.monotonic() + 20
    while not (recording.exists() and recording.stat().st_size > 1_000_000) and time.monotonic() < deadline:
        time.sleep(0.1)
    nodes = psutil.Process(demo.pid).children()
    demo.send_signal(number)
    said, _ = demo.communicate(timeout=40)
    assert demo.returncode == 130, said
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["frames_processed"] > 0
    assert nodes and not any(node.is_running() for node in nodes)


@pytest.mark.parametrize(
    ("seconds", "reason"), [("soon", "DEMO_SECONDS must be a number"), ("0", "between 1 and 86400")]
)
def test_a_wrong_duration_is_refused(toy_bundle, tmp_path, seconds, reason):
    demo = start(toy_bundle, tmp_path, seconds=seconds)
    said, _ = demo.communicate(timeout=20)
    assert demo.returncode == 1 and reason in said


def test_without_a_bundle_the_demo_says_what_is_missing(tmp_path):
    demo = start(tmp_path / "nothing", tmp_path)
    said, _ = demo.communicate(timeout=20)
    assert demo.returncode == 1 and "manifest.json" in said
