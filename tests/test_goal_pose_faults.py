"""Faults of clients that publish goal poses: they match their names, and the robot stops within the limit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime.backends import BackendOptions
from jepa_runtime.bundle import Bundle
from jepa_runtime.model import WorldModel
from jepa_runtime.util import relative
from tests.scripts import load

safety = load("safety")
faults = sys.modules["goal_pose_faults"]

BUNDLE = Path(__file__).resolve().parent.parent / "models" / "first_person"
GOAL = np.array([1.5, 0.5, 0.3])
PERIOD_NS = 100_000_000


def live(index: int) -> Any:
    """Return the live message of a robot that drives ahead by 0.05 m per period."""
    return faults.Published(relative(np.array([0.05 * index, 0.0, 0.0]), GOAL), index * PERIOD_NS)


def published(name: str, count: int = 4) -> list[Any]:
    """Return the messages of a fault that begins with the sixth live message."""
    fault = faults.CLIENT_FAULTS[name]()
    for index in range(6):
        fault.before(live(index))
    return [message for index in range(6, 6 + count) for message in fault.published(live(index))]


def ahead_m(messages: list[Any]) -> list[float]:
    return [float(message.pose[0]) for message in messages]


def test_client_that_has_ended_publishes_nothing() -> None:
    assert published("no goal poses") == []


@pytest.mark.parametrize(
    ("name", "stamps", "ahead"),
    [
        ("goal pose repeated, old stamps", [5, 5, 5, 5], [1.25] * 4),
        ("goal pose repeated, new stamps", [6, 7, 8, 9], [1.25] * 4),
        ("two goal poses in turn", [6, 7, 8, 9], [1.3, 1.25, 1.3, 1.25]),
        ("goal pose jumps once", [6, 7, 8, 9], [1.5, 1.45, 1.4, 1.35]),
    ],
)
def test_fault_publishes_what_its_name_says(name: str, stamps: list[int], ahead: list[float]) -> None:
    messages = published(name)
    assert [message.stamp_ns // PERIOD_NS for message in messages] == stamps
    assert ahead_m(messages) == pytest.approx(ahead)


def test_goal_that_jumps_every_second_is_again_where_the_robot_started() -> None:
    found = ahead_m(published("goal pose jumps every second", 21))
    assert [found[index] for index in (0, 9, 10, 19, 20)] == pytest.approx([1.5, 1.05, 1.5, 1.05, 1.5])


def test_noise_is_added_to_the_repeated_pose() -> None:
    found = ahead_m(published("goal pose repeated, noise 0.1", 200))
    assert np.mean(found) == pytest.approx(1.25, abs=0.03) and 0.07 < np.std(found) < 0.13


def test_unknown_fault_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        safety.main(["--goal-poses", "--faults", "ring of 2"])
    assert "no goal poses" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["no goal poses", "goal pose repeated, new stamps"])
def test_robot_is_stopped_within_the_limit(name: str) -> None:
    pytest.importorskip("numba", reason="numba is not installed (extra first-person)")
    row = safety.with_client_fault(BUNDLE, name, [0], 1, 1.0)
    assert row.held == 1 and 0 < row.longest_path_m <= 1.5 and not row.reached


def test_robot_reaches_the_goal_without_a_fault() -> None:
    pytest.importorskip("numba", reason="numba is not installed (extra first-person)")
    from jepa_sim.worlds.first_person.world import FirstPersonRooms

    world = FirstPersonRooms(faults.LEVEL)
    (seed,) = faults.near_goals(world, 0, 1)
    with WorldModel.open(Bundle.open(BUNDLE), options=BackendOptions(threads=1)) as model:
        drive = faults.drive_with_client(model, world, seed, None, after_s=0.5, lasts_s=5.5)
    assert drive.reached and drive.stopped_after_s is None and drive.stops == 0
