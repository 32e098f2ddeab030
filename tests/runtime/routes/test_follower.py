"""Goals along a route, and how a drive ends."""

from __future__ import annotations

import pytest

from jepa_runtime.control import StopCause
from jepa_runtime.routes.follower import (
    FollowerConfig,
    FollowerState,
    RobotStatus,
    RouteFollower,
    RouteOutcome,
    SubGoal,
)
from jepa_runtime.routes.localizer import Place
from jepa_runtime.routes.route import Route
from tests.runtime.routes.drives import line, record, turning

CONFIG = FollowerConfig()
DRIVES = RobotStatus(is_driving=True)
PERIOD_S = 0.1


class Drive:
    """A follower with the places of its images."""

    def __init__(self, config: FollowerConfig = CONFIG, *, route: Route | None = None) -> None:
        self.route = record(line()) if route is None else route
        self.follower = RouteFollower(self.route, config)
        self.now_s = 0.0

    def at(
        self,
        index: float,
        status: RobotStatus = DRIVES,
        *,
        confidence: float = 0.95,
        contrast: float = 0.95,
        energy: float = 0.05,
        is_tracked: bool = False,
        for_s: float = PERIOD_S,
    ) -> SubGoal | None:
        last = len(self.route) - 1
        place = Place(
            key_frame=round(index), index=index, progress=index / last, confidence=confidence,
            contrast=contrast, entropy=0.1, energy=energy, is_tracked=is_tracked,
        )  # fmt: skip
        goal = self.follower.goal
        for _ in range(max(1, round(for_s / PERIOD_S))):
            self.now_s += PERIOD_S
            goal = self.follower.update(place, status, now_s=self.now_s)
        return goal

    def outcome(self) -> RouteOutcome | None:
        return None if self.follower.result is None else self.follower.result.outcome


def test_follower_goal_lies_ahead_and_moves_with_the_place() -> None:
    drive = Drive()
    goals = [drive.at(index / 2) for index in range(2 * len(drive.route) - 2)]
    indices = [goal.index for goal in goals if goal is not None]
    assert indices[0] > 0 and indices == sorted(indices) and indices[-1] == len(drive.route) - 1
    assert goals[-1] is not None and goals[-1].is_last and not goals[0].is_last  # type: ignore[union-attr]
    ahead_s = drive.route.times_s[indices[4]] - drive.route.times_s[2]
    assert ahead_s == pytest.approx(CONFIG.lookahead_s, abs=0.5)


def test_follower_goal_on_a_route_with_odometry_is_near_in_meters_and_turns() -> None:
    drive = Drive(route=turning())
    goals = [drive.at(index) for index in (2.5, 6.5, 10.0)]
    assert [goal.index for goal in goals if goal is not None] == [8, 11, 13]


def test_follower_goal_that_is_reached_on_the_way_moves_on() -> None:
    drive = Drive()
    first = drive.at(0)
    assert first is not None
    then = drive.at(0, RobotStatus(reached=True))
    assert then is not None and then.index == first.index + 1 and drive.outcome() is None


def test_follower_end_of_the_route_is_reached_only_at_its_last_goal() -> None:
    drive = Drive()
    last = len(drive.route) - 1
    drive.at(last - 1)
    drive.at(last, RobotStatus(reached=True))
    assert drive.outcome() is RouteOutcome.REACHED and drive.follower.goal is None
    assert drive.at(0) is None, "the first result is final"


def test_follower_uncertain_start_is_lost_after_the_configured_time() -> None:
    drive = Drive()
    assert drive.at(0, confidence=0.2, for_s=CONFIG.lost_after_s - 1) is None
    assert drive.follower.state is FollowerState.LOCALIZING and drive.outcome() is None
    drive.at(0, confidence=0.2, for_s=2)
    assert drive.outcome() is RouteOutcome.LOST


def test_follower_uncertain_place_on_the_way_stops_and_goes_on_when_it_is_found() -> None:
    drive = Drive()
    drive.at(3)
    assert drive.at(3, confidence=0.2, for_s=1.0) is None
    assert drive.follower.state is FollowerState.WAITING and "uncertain" in drive.follower.reason
    assert drive.at(9, RobotStatus(), for_s=CONFIG.wait_s + 0.5) is not None
    assert drive.follower.state is FollowerState.FOLLOWING
    assert [reason for _, reason in drive.follower.stops] == ["the place is uncertain (confidence 0.20)"]


def test_follower_place_that_stays_uncertain_is_lost() -> None:
    drive = Drive()
    drive.at(3)
    drive.at(12, confidence=0.2, contrast=0.3, for_s=CONFIG.lost_after_s + 2)
    assert drive.outcome() is RouteOutcome.LOST


def test_follower_same_place_that_looks_different_is_changed() -> None:
    drive = Drive()
    drive.at(3)
    drive.at(3, confidence=0.2, contrast=0.95, energy=1.0, for_s=CONFIG.lost_after_s + 2)
    assert drive.outcome() is RouteOutcome.CHANGED


@pytest.mark.parametrize(
    ("is_tracked", "outcome"), [(True, RouteOutcome.CHANGED), (False, RouteOutcome.LOST)]
)
def test_follower_uncertain_place_is_changed_if_odometry_tracks_the_robot(
    is_tracked: bool, outcome: RouteOutcome
) -> None:
    """A closed door fills its view: the images match no place of the route."""
    drive = Drive()
    drive.at(3)
    drive.at(12, confidence=0.0, contrast=0.3, is_tracked=is_tracked, for_s=CONFIG.lost_after_s + 2)
    assert drive.outcome() is outcome
    progress = (3 if is_tracked else 12) / (len(drive.route) - 1)
    assert drive.follower.result is not None
    assert drive.follower.result.reason.endswith(f"gave up at {progress:.0%} of the route")


def test_follower_robot_without_progress_is_blocked_after_all_attempts() -> None:
    drive = Drive()
    drive.at(3)
    once_s = CONFIG.blocked_after_s + CONFIG.wait_s
    drive.at(3, for_s=once_s + 1)
    assert drive.outcome() is None and drive.follower.state is FollowerState.FOLLOWING
    drive.at(3, for_s=CONFIG.attempts * once_s + 1)
    assert drive.outcome() is RouteOutcome.BLOCKED
    assert len(drive.follower.stops) == CONFIG.attempts + 1


def test_follower_robot_without_progress_among_changed_images_is_changed() -> None:
    drive = Drive(FollowerConfig(attempts=0))
    drive.at(3, energy=10.0, for_s=CONFIG.blocked_after_s + CONFIG.wait_s + 2)
    assert drive.outcome() is RouteOutcome.CHANGED


def test_follower_robot_that_is_not_asked_to_move_is_not_blocked() -> None:
    drive = Drive()
    drive.at(3, RobotStatus(is_driving=False), for_s=60)
    assert drive.outcome() is None and drive.follower.state is FollowerState.FOLLOWING


def test_follower_attempts_count_again_after_progress() -> None:
    drive = Drive(FollowerConfig(attempts=1))
    for index in (3, 9, 15):
        drive.at(index)
        drive.at(index, for_s=CONFIG.blocked_after_s + CONFIG.wait_s + 0.5)
        assert drive.follower.state is FollowerState.FOLLOWING
    assert drive.outcome() is None


@pytest.mark.parametrize(
    ("cause", "outcome"),
    [(StopCause.SURPRISE, RouteOutcome.CHANGED), (StopCause.FROZEN, RouteOutcome.BLOCKED)],
)
def test_follower_hold_of_the_safety_monitor_waits_and_then_gives_up(
    cause: StopCause, outcome: RouteOutcome
) -> None:
    drive = Drive(FollowerConfig(attempts=1))
    drive.at(3)
    held = RobotStatus(cause=cause, reason="held")
    assert drive.at(3, held) is None and drive.follower.reason == "held"
    drive.at(3, held, for_s=2 * CONFIG.wait_s + 2)
    assert drive.outcome() is outcome
    assert drive.follower.result is not None and "held" in drive.follower.result.reason


def test_follower_other_holds_are_left_to_the_controller() -> None:
    drive = Drive()
    goal = drive.at(3)
    assert drive.at(3, RobotStatus(cause=StopCause.STALE, reason="no futures"), for_s=30) is goal
    assert drive.outcome() is None and not drive.follower.stops


def test_follower_driving_without_progress_is_noticed_although_single_images_are_late() -> None:
    drive = Drive()
    late = RobotStatus(cause=StopCause.OLD, reason="the image is old")
    for _ in range(20):
        drive.at(3, RobotStatus(is_driving=True), for_s=3.5)
        drive.at(3, late, for_s=0.1)
    assert drive.follower.stops and "no progress" in drive.follower.stops[0][1]


def test_follower_robot_found_further_back_gets_an_earlier_goal() -> None:
    drive = Drive()
    later = drive.at(20)
    earlier = drive.at(4)
    assert later is not None and earlier is not None and earlier.index < later.index


@pytest.mark.parametrize("field", [{"wait_s": 0.0}, {"min_confidence": 1.0}, {"attempts": -1}])
def test_follower_settings_out_of_range_are_rejected(field: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        FollowerConfig(**field)  # type: ignore[arg-type]
