"""The demo two_rooms as a user runs it, but shorter and with a toy model: four processes, no mocks."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from tests.pages import external

psutil = pytest.importorskip("psutil")
pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

pytestmark = pytest.mark.ros

DEMO = Path(__file__).resolve().parents[2] / "demo"
RUN = DEMO / "two_rooms.py"
FIELDS = {
    "frames_published",
    "frames_processed",
    "frames_dropped",
    "frames_planned",
    "rate_hz",
    "e2e_ms",
    "encode_ms",
    "predict_ms",
    "deadline_ms",
    "deadline_misses",
    "frames_late",
    "futures_per_frame",
    "horizon",
    "episodes",
    "successes",
    "error_bounds",
    "rss_mb",
    "cpu",
    "versions",
    "model",
}


def start(bundle: Path, out: Path, seconds: str = "3") -> subprocess.Popen[str]:
    command = [sys.executable, str(RUN), "--bundle", str(bundle), "--output", str(out), "--allow-untrained"]
    environment = {**os.environ, "DEMO_SECONDS": seconds}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_demo_writes_its_results(toy_bundle, tmp_path):
    demo = start(toy_bundle, tmp_path)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0, output
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
    assert "end to end" in output
    animation = tmp_path / "demo.webp"
    command = [
        sys.executable,
        DEMO / "two_rooms_animation.py",
        tmp_path / "demo.mcap",
        animation,
        "--start",
        "0",
    ]
    subprocess.run(command, check=True, timeout=60)
    with Image.open(animation) as picture:
        assert picture.n_frames >= 5


def test_demo_with_a_dead_node_fails_and_names_it(toy_bundle, tmp_path):
    demo = start(toy_bundle, tmp_path, seconds="30")
    deadline = time.monotonic() + 20
    victims: list[psutil.Process] = []
    while not victims and time.monotonic() < deadline:
        time.sleep(0.1)
        children = psutil.Process(demo.pid).children()
        victims = [child for child in children if any(part.endswith("/planner") for part in child.cmdline())]
    assert victims
    victims[0].kill()
    output, _ = demo.communicate(timeout=40)
    assert demo.returncode == 1
    assert "planner exited early" in output


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupted_demo_stops_its_nodes_and_keeps_its_results(toy_bundle, tmp_path, number):
    demo = start(toy_bundle, tmp_path, seconds="60")
    recording = tmp_path / "demo.mcap.partial"
    deadline = time.monotonic() + 20
    while not (recording.exists() and recording.stat().st_size > 1_000_000) and time.monotonic() < deadline:
        time.sleep(0.1)
    nodes = psutil.Process(demo.pid).children()
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=40)
    assert demo.returncode == 130, output
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["frames_processed"] > 0
    assert nodes and not any(node.is_running() for node in nodes)


@pytest.mark.parametrize(
    ("seconds", "reason"), [("soon", "DEMO_SECONDS must be a number"), ("0", "between 1 and 86400")]
)
def test_demo_with_an_invalid_duration_is_rejected(toy_bundle, tmp_path, seconds, reason):
    demo = start(toy_bundle, tmp_path, seconds=seconds)
    output, _ = demo.communicate(timeout=20)
    assert demo.returncode == 1 and reason in output


def test_demo_without_a_bundle_reports_what_is_missing(tmp_path):
    demo = start(tmp_path / "nothing", tmp_path)
    output, _ = demo.communicate(timeout=20)
    assert demo.returncode == 1 and "manifest.json" in output


@pytest.fixture(scope="module")
def update() -> ModuleType:
    """Import the update demo with the path of a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DEMO))
        patch.setattr(sys, "path", [*sys.path])
        return importlib.import_module("update")


def test_summary_of_a_run_without_an_active_model_is_an_error(update):
    reports = {
        "two_rooms": {"frames_published": 3},
        "world_model": {"counters": {}, "samples_ms": {}, "deadline_ms": 33.0},
        "planner": {"samples_ms": {"e2e": []}},
    }
    with pytest.raises(update.DemoError, match="none of 3 images was processed"):
        update.results.summarize_run(reports)


def test_demos_use_another_domain_than_the_shell(update, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    chosen = {update.own_graph()["ROS_DOMAIN_ID"] for _ in range(2000)}
    assert "7" not in chosen and len(chosen) > 50


def story(update: ModuleType, **last: Any) -> Any:
    """Return a run in which every release ended as expected, except for changes ``last`` to the last one."""
    states = ("check", "resolve", "download", "verify", "stage", "probe", "shadow", "armed", "switch", "idle")
    updates = [
        update.Update(
            offer.version, offer.description, offer.result, offer.result, offer.reason,
            [update.Entered(10.0 * row + column, state, "") for column, state in enumerate(states)],
            [update.Compared(60 * n, 1.07, 1.25, -0.036 - 0.1 / n, -0.036 + 0.1 / n) for n in range(1, 20)],
        )
        for row, offer in enumerate(update.OFFERS)
    ]  # fmt: skip
    for name, value in last.items():
        setattr(updates[-1], name, value)
    model = {"id": "two_rooms", "version": "1.1.0", "precision": "int8", "sha256": "ab" * 32}
    summary = {
        "frames_dropped": 1, "frames_published": 900, "successes": 4, "episodes": 5, "deadline_ms": 33.0,
        "cpu": {"model": "a processor", "cores": 2}, "versions": {"python": "3"}, "model": model,
    }  # fmt: skip
    return update.Story(updates, [0.1 * n for n in range(300)], [5.0] * 300, [12.3], summary)


def test_update_page_shows_each_release_and_is_self_contained(update):
    page = update.update_page.render(story(update, reason="<b>its error is</b> 0.4"))
    for offer in update.OFFERS:
        assert offer.version in page and offer.description.replace("'", "&#x27;") in page
    assert "&lt;b&gt;its error is" in page and "1 swapped" in page and "4 of 5" in page
    assert page.count("<polygon") == 3
    assert external(page) == []


def test_comparison_band_is_the_confidence_sequence_as_ratios(update):
    compared = update.Compared(600, 1.0, 1.25, low=-0.06, high=-0.04)
    # The active model scores 0.2: the candidate's ratio lies between 1.25 - 0.06 / 0.2 and 1.25 - 0.04 / 0.2.
    assert compared.band == pytest.approx((0.95, 1.05))


@pytest.mark.parametrize(
    ("last", "fault"),
    [
        ({}, ""),
        ({"result": "updated"}, "1.3.0: expected rejected because 'its error is', got updated"),
        (
            {"reason": "a probe that hung"},
            "expected rejected because 'its error is', got rejected: a probe that hung",
        ),
    ],
)
def test_update_demo_with_an_unexpected_result_fails(update, last, fault):
    unexpected = update.unexpected_results(story(update, **last))
    assert unexpected == [] if not fault else fault in unexpected[0]


def test_update_demo_with_the_wrong_final_model_fails(update):
    changed = story(update)
    changed.summary["model"]["version"] = "1.0.0"
    assert update.unexpected_results(changed) == ["1.0.0 is active at the end instead of 1.1.0"]


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_update_demo_activates_one_release_and_rejects_two(two_rooms_bundle, tmp_path):
    command = [sys.executable, str(DEMO / "update.py"), "--bundle", str(two_rooms_bundle)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert [update["result"] for update in summary["updates"]] == ["updated", "rejected", "rejected"]
    assert summary["model"]["version"] == "1.1.0" and summary["model"]["precision"] == "int8"
    assert summary["frames_processed"] > 0.9 * summary["frames_published"]
    assert "<svg" in (tmp_path / "update.html").read_text(encoding="utf-8")
