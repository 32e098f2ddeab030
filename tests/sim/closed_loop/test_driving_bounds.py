"""Error bounds while the planner drives, with the robot's code in simulated time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jepa_runtime import Bundle, WorldModel
from jepa_runtime.calibration import Calibration, clearly_below
from jepa_sim.closed_loop.robot import SimulatedRobot
from jepa_sim.worlds import TwoRooms

RATE_HZ, SECONDS, EPISODE_S = 30, 45, 20.0


@pytest.fixture(scope="module")
def model(two_rooms_bundle: Path) -> Iterator[WorldModel]:
    bundle = Bundle.open(two_rooms_bundle)
    with WorldModel.open(bundle, num_samples=bundle.manifest.num_samples) as opened:
        yield opened


def demo(model: WorldModel, seed: int, *, announced: bool) -> tuple[SimulatedRobot, list[Calibration]]:
    """Drive as in the demo: an episode ends at its goal, and the next one starts elsewhere.

    Return the robot, and the calibration of each second.
    """
    robot, world = SimulatedRobot(model, period_s=1 / RATE_HZ), TwoRooms(seed=seed)
    stated = []
    robot.set_goal(world.render_goal())
    for image in range(SECONDS * RATE_HZ):
        command = robot.step(world.render())
        if image % RATE_HZ == RATE_HZ - 1:
            stated.append(robot.calibration)
        if robot.state.name == "REACHED" or world.time_s > EPISODE_S:
            if announced:
                robot.begin_episode(world)
            else:
                world.reset()
            robot.set_goal(world.render_goal())
        else:
            world.step(command, 1 / RATE_HZ)
    return robot, stated


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bounds_hold_without_warnings_when_episodes_are_announced(model: WorldModel, seed: int) -> None:
    robot, stated = demo(model, seed, announced=True)
    assert [each.undercovered for each in stated] == [()] * SECONDS
    assert not robot.alarms
    last = stated[-1]
    assert min(rate.errors for rate in last.overall) > 60
    assert not any(clearly_below(rate, 0.9, correlated=8) for rate in last.overall)
    # Bounds that hold because they are far too wide are of no use: jumps make them thirty times as wide.
    assert (last.bounds < 2 * model.manifest.error_bounds[-1]).all()


def test_unannounced_episodes_are_detected(model: WorldModel) -> None:
    """The monitor has the power to notice bounds that do not hold."""
    robot, stated = demo(model, 0, announced=False)
    assert sum(bool(each.undercovered) for each in stated) > SECONDS / 2
    assert robot.alarms["surprise"] >= 1
