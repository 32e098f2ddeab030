"""The control law of steering, and its plans as candidates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.differential_drive import DifferentialDrive
from jepa_runtime.planning.steering import Steering, SteeringConfig
from jepa_runtime.util.poses import Pose, compose, relative
from tests.errors import code

STEP_S, HORIZON = 0.3, 8
DRIVE = DifferentialDrive.of(("linear.x", "angular.z"))


def limits(
    *, lowest_speed: float = -0.2, max_change: float | None = None, max_norm: float | None = None
) -> ActionLimits:
    change = None if max_change is None else np.full(2, max_change, np.float32)
    return ActionLimits(
        low=np.float32([lowest_speed, -1.5]),
        high=np.float32([0.8, 1.5]),
        max_change=change,
        max_norm=max_norm,
    )


def pose(
    x_m: float, y_m: float = 0.0, degrees: float = 0.0, *, std_m: float = 0.02, yaw_std_rad: float = 0.02
) -> RelativePose:
    return RelativePose(x_m, y_m, math.radians(degrees), std_m, yaw_std_rad)


def steering(within: ActionLimits | None = None, **settings: Any) -> Steering:
    config = SteeringConfig(**({"horizon": HORIZON} | settings))
    return Steering(config, limits() if within is None else within, DRIVE, step_s=STEP_S, seed=0)


def command(goal: RelativePose, search: Steering | None = None) -> tuple[float, float]:
    """Return the first forward speed and turning rate towards a goal."""
    search = steering() if search is None else search
    search.set_goal_pose(goal)
    forward, turn = search.mean[0].tolist()
    return forward, turn


def after(actions: np.ndarray) -> Pose:
    reached: Pose = np.zeros(3)
    for action in actions:
        reached = compose(reached, DRIVE.motion(action, STEP_S))
    return reached


def test_drive_motion_equals_the_integral_of_its_velocities() -> None:
    reached: Pose = np.zeros(3)
    for _ in range(10_000):
        x, y, yaw = reached
        step = 1.7e-4
        reached = np.array([x + 0.5 * math.cos(yaw) * step, y + 0.5 * math.sin(yaw) * step, yaw - 1.2 * step])
    np.testing.assert_allclose(DRIVE.motion(np.array([0.5, -1.2]), 1.7), reached, atol=1e-4)


@pytest.mark.parametrize("turn", [0.0, 1e-9, 1e-7])
def test_drive_motion_almost_straight_is_straight(turn: float) -> None:
    np.testing.assert_allclose(DRIVE.motion(np.array([0.5, turn]), 2.0), [1.0, 0.0, 0.0], atol=1e-6)


def test_drive_of_actions_in_another_order_finds_its_components() -> None:
    drive = DifferentialDrive.of(("angular.z", "linear.y", "linear.x"))
    np.testing.assert_array_equal(drive.action(0.5, -1.0), np.float32([-1.0, 0.0, 0.5]))


@pytest.mark.parametrize("names", [(), ("vx", "vy"), ("linear.x", "linear.y")])
def test_drive_of_other_actions_raises(names: tuple[str, ...]) -> None:
    with pytest.raises(JepaRuntimeError, check=code("planner.cannot_steer")):
        DifferentialDrive.of(names)


def test_steering_without_a_goal_pose_stands() -> None:
    search = steering()
    assert not search.mean.any()
    search.set_goal_pose(pose(2.0))
    assert search.mean.any()
    search.set_goal_pose(None)
    assert not search.mean.any()


def test_goal_straight_ahead_is_driven_to_at_full_speed() -> None:
    assert command(pose(2.0)) == pytest.approx((0.6, 0.0))


@pytest.mark.parametrize("side", [-1, 1])
def test_goal_to_the_side_is_turned_to_on_the_spot(side: int) -> None:
    forward, turn = command(pose(0.0, side * 1.0))
    assert forward == 0 and turn * side == pytest.approx(1.5)


def test_goal_near_and_behind_is_backed_up_to() -> None:
    forward, turn = command(pose(-0.3))
    assert forward < 0 and turn == pytest.approx(0.0, abs=1e-6)


def test_goal_near_and_behind_a_robot_that_cannot_back_up_is_turned_to() -> None:
    forward, turn = command(pose(-0.3), steering(limits(lowest_speed=0.0)))
    assert forward == 0 and abs(turn) > 1


def test_goal_behind_is_turned_to_in_one_direction_however_noisy_its_bearing() -> None:
    search = steering()
    first = command(pose(-1.0, 0.8), search)[1]
    turns = [command(pose(-1.5, side * 0.1), search)[1] for side in (-1, 1, -1, -1, 1)]
    assert np.sign(turns).tolist() == [np.sign(first)] * 5


def test_goal_turned_to_the_left_is_approached_from_the_right() -> None:
    assert command(pose(2.0, degrees=45))[1] < -0.2
    assert command(pose(2.0, degrees=-45))[1] > 0.2


def test_robot_at_the_goal_turns_to_its_heading() -> None:
    forward, turn = command(pose(0.0, 0.05, degrees=30))
    assert forward == 0 and turn > 0.5


def test_robot_at_the_goal_and_its_heading_covers_the_rest_of_the_way() -> None:
    assert command(pose(0.08))[0] > 0 and command(pose(-0.08))[0] < 0


@pytest.mark.parametrize(
    "goal", [pose(2.0, 0.5, 40), pose(1.0, -1.0, -30), pose(-1.5, 0.2, 60), pose(0.4, 0.1, 180), pose(-0.3)]
)
def test_plan_over_a_long_horizon_ends_at_the_goal(goal: RelativePose) -> None:
    search = steering(horizon=50)
    search.set_goal_pose(goal)
    x, y, yaw = relative(after(search.mean), np.array([goal.x_m, goal.y_m, goal.yaw_rad]))
    assert math.hypot(x, y) < 0.1 and abs(yaw) < 0.1


def test_less_certain_poses_are_driven_to_more_slowly() -> None:
    speeds = [command(pose(1.0, std_m=std))[0] for std in (0.1, 0.4, 0.6, 0.8)]
    assert speeds == sorted(speeds, reverse=True) and len(set(speeds)) == 4


@pytest.mark.parametrize("std_m", [1.0, 30.0, math.inf])
def test_robot_that_does_not_know_where_the_goal_is_looks_around_slowly(std_m: float) -> None:
    search = steering()
    for bearing in (0.3, -0.3, 2.0, -3.0):
        forward, turn = command(pose(math.cos(bearing), math.sin(bearing), std_m=std_m), search)
        assert forward == 0 and turn == pytest.approx(search.config.look_around_radps)


def test_robot_looks_around_to_the_side_where_the_goal_was_last() -> None:
    search = steering()
    command(pose(1.0, -0.3), search)
    assert command(pose(1.0, 0.3, std_m=5.0), search)[1] < 0


def test_heading_that_is_unknown_is_ignored() -> None:
    assert command(pose(2.0, degrees=45, yaw_std_rad=2.0)) == pytest.approx((0.6, 0.0))


def test_goal_nearer_than_a_step_is_not_passed() -> None:
    search = steering(min_speed_mps=0.6, arrival_m=0.01)
    assert command(pose(0.06), search)[0] == pytest.approx(0.2)


def test_candidates_are_the_plan_and_other_motions_within_the_limits() -> None:
    search = steering(limits(max_change=0.1, max_norm=0.7))
    search.executed = np.zeros(2, np.float32)
    search.set_goal_pose(pose(1.0, 0.8))
    candidates = search.ask()
    assert candidates.shape == (4, HORIZON, 2)
    np.testing.assert_array_equal(candidates[0], search.mean)
    np.testing.assert_array_equal(candidates, search.limits.clip(candidates, search.executed))
    assert (np.abs(candidates[:, 0]) <= 0.1).all()
    assert len({each.tobytes() for each in candidates}) == 4


def test_rejected_plan_is_replaced_by_the_best_other_motion_until_it_is_accepted() -> None:
    search = steering()
    search.set_goal_pose(pose(1.0))
    right = search.ask()[2]
    search.tell(np.array([np.inf, 3.0, 1.0, 2.0]))
    np.testing.assert_array_equal(search.mean, right)
    search.set_goal_pose(pose(0.9))
    np.testing.assert_array_equal(search.mean, right)
    search.ask()
    search.tell(np.array([5.0, 3.0, 1.0, 2.0]))
    assert search.mean[0, 0] > 0.5


@pytest.mark.parametrize("cost", [np.inf, np.nan])
def test_robot_of_which_every_motion_is_rejected_stands(cost: float) -> None:
    search = steering()
    search.set_goal_pose(pose(1.0))
    search.ask()
    search.tell(np.full(4, cost))
    assert not search.mean.any()


def test_costs_of_another_number_of_candidates_raise() -> None:
    search = steering()
    with pytest.raises(ValueError, match="4 candidates"):
        search.tell(np.zeros(4))
    search.ask()
    with pytest.raises(ValueError, match="4 candidates"):
        search.tell(np.zeros(3))


def test_directions_are_constant_slow_and_discard_the_plan() -> None:
    search = steering()
    search.set_goal_pose(pose(1.0))
    directions = search.directions(0.3)
    assert not search.mean.any()
    assert (directions == directions[:, :1]).all() and directions.any(axis=(1, 2)).all()
    assert (np.abs(directions) <= 0.3 * np.float32([0.5, 1.5]) + 1e-6).all()


def test_shift_counts_changes_from_the_executed_action() -> None:
    search = steering(limits(max_change=0.1))
    search.shift(1, executed=np.float32([0.4, 0.0]))
    assert command(pose(2.0), search)[0] == pytest.approx(0.5)
    search.shift(1)
    assert command(pose(2.0), search)[0] == pytest.approx(0.6)


def test_config_fitted_is_reduced_to_what_the_model_predicts() -> None:
    usual = SteeringConfig()
    fitted = usual.fitted(horizon=3, num_samples=2)
    assert (fitted.horizon, fitted.num_samples) == (3, 2)
    assert usual.fitted(horizon=1000, num_samples=64) == usual
    search = Steering(fitted, limits(), DRIVE, step_s=STEP_S, seed=0)
    search.set_goal_pose(pose(1.0))
    assert search.ask().shape == (2, 3, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"horizon": 0}, {"num_samples": 0}, {"num_samples": 5}, {"max_speed_mps": 0.0},
        {"max_turn_radps": math.inf}, {"min_speed_mps": 0.7}, {"approach": 1.5}, {"turn_in_place_rad": 2.0},
        {"back_up_beyond_rad": 0.5}, {"arrival_m": math.nan}, {"certain_ratio": 0.8},
        {"lost_ratio": math.nan},
    ],
)  # fmt: skip
def test_config_out_of_range_raises(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SteeringConfig(**wrong)


def test_pose_ratio_is_the_distance_in_tolerances() -> None:
    search = steering(goal_m=0.2, goal_rad=0.1)
    assert search.pose_ratio(None) == 0
    assert search.pose_ratio(RelativePose(0.3, 0.4, 0.1, 0.1, 0.1)) == pytest.approx(2.5)
    assert search.pose_ratio(RelativePose(0.0, 0.1, -0.3, 0.1, 0.1)) == pytest.approx(3.0)
    # A heading that is not known does not count.
    assert search.pose_ratio(RelativePose(0.0, 0.1, -0.3, 0.1, 0.8)) == pytest.approx(0.5)
