"""The safety benchmark: missed limits are reported, and faults match their names."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jepa_ros.planner", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_runtime.bundle import Bundle
from jepa_runtime.model.world_model import WorldModel
from jepa_sim.worlds import TwoRooms
from tests.scripts import load

safety = load("safety")
faults = sys.modules["faults"]

IMAGES = [np.full((128, 128, 3), 10 * index, np.uint8) for index in range(12)]


def report(path_m: float, rate: float) -> dict[str, Any]:
    return {
        "faults": [{"fault": "ring of 2", "longest_path_m": path_m}],
        "without_fault": {"goals": {"rate": rate}},
    }


@pytest.mark.parametrize(
    ("path_m", "rate", "words"),
    [(2.5, 0.95, []), (2.51, 0.95, ["ring of 2: path of 2.51 m"]), (2.0, 0.94, ["94.0% of the goals"])],
)
def test_missed_limit_is_reported(path_m: float, rate: float, words: list[str]) -> None:
    failures = safety.check_limits(report(path_m, rate), 2.5, 0.95)
    assert len(failures) == len(words)
    assert all(word in failure for word, failure in zip(words, failures, strict=True))


def test_report_of_the_nodes_has_no_episodes_without_a_fault() -> None:
    assert safety.check_limits({"faults": report(1.0, 0.0)["faults"]}, 2.5, 0.95) == []


def children(pid: int) -> set[int]:
    """Return the child processes of a process, recursively."""
    paths = Path(f"/proc/{pid}/task").glob("*/children")
    direct = {int(child) for path in paths for child in path.read_text().split()}
    return direct.union(*map(children, direct))


def runs(pid: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_killed_benchmark_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, safety.__file__, "--seed", "0", "--json", str(tmp_path / "out.json")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        began, workers = time.monotonic(), set[int]()
        while len(workers) < 3:
            assert process.poll() is None and time.monotonic() < began + 60
            time.sleep(0.1)
            # Two workers, and the resource tracker of multiprocessing.
            workers = children(process.pid)
        time.sleep(1.0)
    finally:
        process.kill()
        process.wait()
    ends = time.monotonic() + 20
    while remaining := [pid for pid in workers if runs(pid)]:
        assert time.monotonic() < ends, remaining
        time.sleep(0.1)


def means(fault: Any, count: int = 6) -> list[float]:
    """Return the means of the images received instead of live ones, after the first six."""
    for image in IMAGES[:6]:
        fault.before(image)
    return [float(sent.image.mean()) for image in IMAGES[6 : 6 + count] for sent in fault.sent(image)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ring of 1", [50, 50, 50, 50]),
        ("ring of 3", [30, 40, 50, 30]),
        ("every second image repeated", [60, 60, 80, 80]),
        ("lower half frozen", [55, 60, 65, 70]),
    ],
)
def test_fault_repeats_as_specified(name: str, expected: list[float]) -> None:
    assert means(faults.FAULTS[name](), 4) == pytest.approx(expected)


@pytest.mark.parametrize("noise", [1, 2, 3])
def test_noise_has_the_specified_magnitude(noise: int) -> None:
    fault = faults.FAULTS[f"one image, noise {noise}"]()
    fault.before(IMAGES[5])
    (sent,) = fault.sent(IMAGES[6])
    assert np.unique(sent.image.astype(int) - 50).tolist() == list(range(-noise, noise + 1))


def test_delayed_second_publisher_has_older_stamps() -> None:
    sent = faults.FAULTS["two publishers, 5 ms behind"]().sent(IMAGES[0])
    assert [each.behind_s for each in sent] == [0.0, 0.005] and sent[0].later_s < sent[1].later_s


@pytest.mark.parametrize("name", ["one image, noise 3", "two publishers in turn"])
def test_robot_is_held_within_the_limit(two_rooms_bundle: Path, name: str) -> None:
    bundle = Bundle.open(two_rooms_bundle)
    with WorldModel.open(bundle, num_samples=bundle.manifest.num_samples) as model:
        robot = safety.Receiver(model, period_s=1 / faults.RATE_HZ)
        run = safety.drive(robot, TwoRooms(seed=0), 4, faults.FAULTS[name](), 0.7)
    assert run.held_after_s is not None and 0 < run.path_m <= 2.5
