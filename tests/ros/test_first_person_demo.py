"""The demo first_person: what it claims, what it draws, and the demo itself with the shipped model."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")
pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_sim.worlds.first_person.levels import Mission
from tests.pages import external
from tests.runtime.routes.drives import line, record

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]
DEMO, BUNDLE = ROOT / "demo", ROOT / "models" / "first_person"
SEED, SECOND = 8, 1_000_000_000
WARNING = "route: routes: waiting"


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    """Import the demo with the path of a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DEMO))
        patch.setattr(sys, "path", [*sys.path])
        yield importlib.import_module("first_person")


@pytest.fixture(scope="module")
def mission(demo: ModuleType) -> Mission:
    found: Mission = demo.route_mission(SEED)
    return found


def drive(demo: ModuleType, **changed: Any) -> Any:
    """Return a drive of ten seconds that reached the end, except for changes."""
    operator = sys.modules["route_operator"]
    feedback = [
        operator.Progress(tenth * SECOND // 10, "following", tenth / 100, 0, 0.9, 1.0, 1, "")
        for tenth in range(100)
    ]
    done = operator.Repetition(
        0, 10 * SECOND, "reached", "the end of the route is reached", 1.0, 0, 11.0, 0.1, 4.0, True,
        feedback=feedback,
    )  # fmt: skip
    for name, value in changed.items():
        setattr(done, name, value)
    return done


def blocked(demo: ModuleType, **changed: Any) -> Any:
    reason = "no progress in 4.0 s of driving"
    given = {"outcome": "blocked", "reason": reason, "is_there": False, "door_closed_ns": SECOND} | changed
    done = drive(demo, **given)
    last = done.feedback[-1]
    done.feedback.append(type(last)(10 * SECOND, "waiting", 1.0, 0, 0.9, 1.0, -1, reason))
    return done


def run_of(demo: ModuleType, *, good: Any = None, door: Any = None, speed_mps: float = 0.0) -> Any:
    taught = sys.modules["route_operator"].Taught(0, SECOND, 40, "40 key frames in 25.0 s", 11.2)
    return demo.Run(SEED, "hall", taught, good or drive(demo), door or blocked(demo), speed_mps)


def summary_of(demo: ModuleType, run: Any, **robot: Any) -> Any:
    """Return the summary of a run with these counters of the robot."""
    samples = {"encode": [1.0], "predict": [2.0]}
    model = {
        "counters": {"processed": 3000}, "samples_ms": samples, "deadline_ms": 33.0, "futures_per_frame": 16,
        "horizon": 2, "error_bounds": {"probability": 0.9, "within": [90, 88], "errors": [100, 100]},
        "rss_mb": 200.0,
        "model": {"id": "first_person", "version": "1.0.0", "precision": "int8", "engine": "openvino",
                  "device": "CPU", "sha256": "ab" * 32},
    }  # fmt: skip
    robot = {"frames_published": 3000, "duration_s": 100.0, "contacts": 0} | robot
    planner = {"samples_ms": {"e2e": [5.0] * 2000}, "stamps_ns": list(range(2000))}
    return demo.summarize(
        run, {"first_person": robot, "world_model": model, "planner": planner}, range(-50, 2000)
    )


def test_run_as_the_demo_claims_has_no_failures(demo: ModuleType) -> None:
    run = run_of(demo)
    summary = summary_of(demo, run)
    assert demo.failures(run, summary) == []
    assert summary["deadline_misses"] == 0 and summary["door_closed"]["outcome"] == "blocked"


@pytest.mark.parametrize(
    ("good", "door", "speed_mps", "words"),
    [
        ({"outcome": "lost", "reason": "no place"}, {}, 0.0, "not repeated: lost: no place"),
        ({"is_there": False}, {}, 0.0, "0.10 m and 4 degrees off"),
        ({"warnings": [WARNING]}, {}, 0.0, f"warning while the route was repeated: {WARNING}"),
        ({}, {"outcome": "lost"}, 0.0, "with a closed door the route ended as lost"),
        ({}, {"outcome": "reached"}, 0.0, "with a closed door the route ended as reached"),
        ({}, {}, 0.3, "still moves at 0.30 m/s"),
    ],
)
def test_run_that_differs_from_the_claims_fails(
    demo: ModuleType, good: Any, door: Any, speed_mps: float, words: str
) -> None:
    run = run_of(demo, good=drive(demo, **good), door=blocked(demo, **door), speed_mps=speed_mps)
    (fault,) = demo.failures(run, summary_of(demo, run))
    assert words in fault


def test_dropped_images_and_missed_bounds_are_failures(demo: ModuleType) -> None:
    run = run_of(demo)
    (fault,) = demo.failures(run, summary_of(demo, run, frames_published=3100))
    assert "100 of 3100 images were dropped" in fault
    summary = summary_of(demo, run)
    summary["error_bounds"]["within"] = [80, 80]
    (fault,) = demo.failures(run, summary)
    assert "coverage 80.0%" in fault
    summary["error_bounds"] = None
    assert demo.failures(run, summary) == ["the error bounds were not evaluated"]


def test_late_results_count_over_the_whole_run_only(demo: ModuleType) -> None:
    run = run_of(
        demo, good=drive(demo, warnings=["world_model: inference: 3 of 30 results were later than 33 ms"])
    )
    summary = summary_of(demo, run)
    assert demo.failures(run, summary) == []
    summary["deadline_misses"] = 150
    assert demo.failures(run, summary) == ["150 of 2000 images had no futures within 33 ms"]


def test_warnings_in_logs_are_found(demo: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "planner.log").write_text(
        "[INFO] [1.0] [planner]: [WARN] is a word\n[WARN] [1.0] [planner]: late\n"
    )
    (tmp_path / "route.log").write_text("[ERROR] [1.0] [route]: gone\n")
    expected = ["planner: [WARN] [1.0] [planner]: late", "route: [ERROR] [1.0] [route]: gone"]
    assert demo.warnings_in(tmp_path) == expected


def pose_message(pose: np.ndarray) -> SimpleNamespace:
    x, y, heading = pose
    orientation = SimpleNamespace(w=np.cos(heading / 2), x=0.0, y=0.0, z=np.sin(heading / 2))
    return SimpleNamespace(pose=SimpleNamespace(position=SimpleNamespace(x=x, y=y), orientation=orientation))


def colored(picture: Image.Image, color: tuple[int, int, int], box: tuple[int, int, int, int]) -> int:
    """Return the number of pixels near a color."""
    pixels = np.asarray(picture.crop(box), int)
    return int((np.abs(pixels - color).max(axis=2) < 25).sum())


def test_animation_shows_robot_goal_and_closed_door(demo: ModuleType, mission: Mission) -> None:
    animation, house = sys.modules["first_person_animation"], sys.modules["house_map"]
    recorded = animation.Recorded()
    assert mission.recording is not None
    poses = mission.recording.at(np.arange(0.0, 10.0, 0.1)).poses
    for tenth, pose in enumerate(poses):
        header = SimpleNamespace(stamp=SimpleNamespace(sec=tenth // 10, nanosec=tenth % 10 * 10**8))
        sent = {
            animation.POSE: pose_message(pose),
            animation.READ: SimpleNamespace(header=header, x=0.5, y=0.0, yaw=0.0),
            animation.SURPRISE: SimpleNamespace(value=0.5, threshold=1.0),
        }
        for topic, message in sent.items():
            recorded.stamps[topic].append(tenth * 10**8)
            recorded.messages[topic].append(message)
    drawing = animation.Drawing(asdict(run_of(demo)), record(line()), recorded)
    left, top, width, height = animation.MAP_BOX
    box = (left, top + 30, left + width, top + 30 + height)
    before, after = drawing.frame("blocked", SECOND // 2), drawing.frame("blocked", 9 * SECOND)
    assert before.size == animation.SIZE
    for color in (house.ROBOT, house.DRIVEN, house.GOAL):
        assert colored(after, color, box) > 20
    assert colored(after, house.DOOR, box) > 20 > colored(before, house.DOOR, box)
    stopped = drawing.frame("blocked", 10 * SECOND)
    assert colored(stopped, house.GOAL, box) == 0, "it stands"


def test_pages_show_both_drives_and_are_self_contained(demo: ModuleType, tmp_path: Path) -> None:
    record(line()).save(tmp_path / "routes" / "hall")
    Image.new("RGB", (8, 8)).save(tmp_path / "demo.webp")
    run = run_of(demo, good=drive(demo, reason="<b>there</b>"))
    pages = demo.first_person_page.render(tmp_path, run, summary_of(demo, run))
    assert pages.keys() == {"demo.html", "repeated.html", "door_closed.html"}
    assert "&lt;b&gt;there" in pages["demo.html"] and "0.10 m and 4 degrees" in pages["demo.html"]
    assert "no progress in 4.0 s of driving" in pages["door_closed.html"]
    assert all(external(page) == [] for page in pages.values())


def test_demo_without_a_bundle_reports_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, DEMO / "first_person.py", "--bundle", tmp_path / "none", "-o", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "manifest.json" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not BUNDLE.is_dir(), reason="models/first_person is not in this checkout")
def test_demo_repeats_the_route_and_stops_at_the_closed_door(tmp_path: Path) -> None:
    command = [sys.executable, DEMO / "first_person.py", "-o", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["repeated"]["outcome"] == "reached"
    assert summary["door_closed"]["outcome"] in ("blocked", "changed")
    with Image.open(tmp_path / "demo.webp") as picture:
        assert picture.n_frames > 50
    assert (tmp_path / "demo.mcap").stat().st_size > 1_000_000
