"""Causes that stop the robot, and their end."""

from __future__ import annotations

import math

import pytest

from jepa_runtime.control import safety_monitor as safety_monitor
from jepa_runtime.telemetry.diagnostics import Level, Verdict

StopCause, SafetyMonitor = safety_monitor.StopCause, safety_monitor.SafetyMonitor
OTHERWISE = Verdict(Level.OK, "seeking")


class Clock:
    """A settable clock."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def monitor(clock):
    return SafetyMonitor(surprise_window_s=0.5, surprise_ratio=0.6, clock=clock)


STEP_S, PERIOD_S, FROZEN_AFTER_S = 0.2, 0.05, 1.0
# Minimum time that a held robot stands before it is released.
RETRY_S = 1.1


class Images:
    """Adds an image and its comparison in each period."""

    def __init__(self, monitor, clock) -> None:
        self.monitor, self.clock = monitor, clock
        self.energy = 100.0
        monitor.step_s = STEP_S

    def receive(self, seconds, *, effort=1.0, response=1.0, surprising=False, energy=None, **image):
        """Return the seconds until a hold started, or None. A held robot is commanded to stand."""
        discontinuous = image.pop("discontinuous", False)
        for index in range(round(seconds / PERIOD_S)):
            commanded = 0.0 if self.monitor.holds else effort
            self.monitor.motion.set_command(commanded)
            self.clock.now_s += PERIOD_S
            self.energy -= 0.001
            before = set(self.monitor.holds)
            self.monitor.add_image(self.energy if energy is None else energy(index), **image)
            self.monitor.add_surprise(
                surprising,
                effort=commanded,
                response=response if commanded else math.nan,
                discontinuous=discontinuous,
            )
            if set(self.monitor.holds) - before:
                return (index + 1) * PERIOD_S
        return None


@pytest.fixture
def images(clock):
    monitor = SafetyMonitor(
        surprise_window_s=0.5, surprise_ratio=0.6, frozen_after_s=FROZEN_AFTER_S, clock=clock
    )
    return Images(monitor, clock)


def test_monitor_without_a_reason_allows_driving(monitor):
    assert not monitor.holds and not monitor.blocks_planning and monitor.reason == ""
    assert monitor.verdict(OTHERWISE) == OTHERWISE


@pytest.mark.parametrize(
    ("cause", "level"),
    [
        ("MODEL", Level.ERROR),
        ("FAULT", Level.ERROR),
        ("FORBIDDEN", Level.ERROR),
        ("CAMERAS", Level.ERROR),
        ("FROZEN", Level.ERROR),
        ("DISCONTINUOUS", Level.ERROR),
        ("SURPRISE", Level.WARN),
        ("OLD", Level.WARN),
        ("STALE", Level.STALE),
        ("UNANSWERED", Level.WARN),
        ("NO_POSE", Level.WARN),
    ],
)
def test_each_reason_has_its_level_and_message(monitor, cause, level):
    monitor.hold(StopCause[cause], "because")
    assert monitor.verdict(OTHERWISE) == Verdict(level, "robot stopped: because")
    monitor.release(StopCause[cause])
    assert monitor.verdict(OTHERWISE) == OTHERWISE


def test_most_severe_of_several_reasons_is_reported(monitor):
    monitor.hold(StopCause.STALE, "silence")
    monitor.hold(StopCause.FAULT, "a fault")
    assert monitor.verdict(OTHERWISE).message == "robot stopped: a fault"
    assert monitor.reason == "a fault"


def test_reason_counts_once_and_lasts_from_its_start(monitor, clock):
    monitor.hold(StopCause.OLD, "0.6 s old")
    clock.now_s += 1.0
    monitor.hold(StopCause.OLD, "1.6 s old")
    assert monitor.counts == {"old": 1}
    assert monitor.held_longer_than(0.9) == "1.6 s old" and monitor.held_longer_than(1.1) == ""
    monitor.release(StopCause.OLD)
    assert monitor.held_longer_than(0.9) == ""
    monitor.hold(StopCause.OLD, "again")
    assert monitor.counts == {"old": 2}


def test_intermittent_reasons_last_until_the_robot_has_followed_the_decision(monitor, clock):
    for cause in (StopCause.OLD, StopCause.STALE):
        monitor.hold(cause, cause.label)
        clock.now_s += 1.0
        monitor.release(cause)
    monitor.hold(StopCause.OLD, "old again")
    assert monitor.held_longer_than(1.9) == "old again"
    monitor.release(StopCause.OLD)
    monitor.decision_executed()
    monitor.hold(StopCause.OLD, "old again")
    assert monitor.held_longer_than(0.0) == ""


def test_reason_that_only_another_plan_can_end_does_not_block_planning(monitor):
    for cause in (StopCause.FORBIDDEN, StopCause.FAULT):
        monitor.hold(cause, "because")
    assert monitor.holds and not monitor.blocks_planning
    monitor.hold(StopCause.OLD, "old")
    assert monitor.blocks_planning
    monitor.decision_executed()
    assert monitor.holds == {StopCause.OLD: "old"}, "and the other plan was found"


def test_motion_visible_in_images_is_no_reason_for_any_duration(images):
    assert images.receive(30.0) is None and images.monitor.motion.unconfirmed_s == 0.0


@pytest.mark.parametrize("effort", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("response", [0.0, math.nan, -0.2])
def test_motion_invisible_in_images_at_full_effort_is_a_reason_after_the_limit(images, effort, response):
    images.receive(5.0)
    after_s = images.receive(20.0, effort=effort, response=response)
    assert FROZEN_AFTER_S / 2 <= after_s * effort <= FROZEN_AFTER_S + 0.2
    assert "do not show" in images.monitor.holds[StopCause.FROZEN] and images.monitor.reason


def test_images_that_alternate_without_net_motion_are_a_reason(images):
    """With a ring of buffers most images show the motion, and one the reverse."""
    images.receive(5.0)
    driven_s, responses = 0.0, [1.0, 1.0, 1.0, -3.0]
    while not images.monitor.holds:
        images.receive(PERIOD_S, response=responses[round(driven_s / PERIOD_S) % 4])
        driven_s += PERIOD_S
    assert driven_s <= 3 * FROZEN_AFTER_S


def test_motion_without_a_response_measurement_is_a_reason(images):
    monitor, clock = images.monitor, images.clock
    monitor.motion.set_command(1.0)
    for _ in range(round(FROZEN_AFTER_S / PERIOD_S)):
        clock.now_s += PERIOD_S
        images.energy -= 1.0
        monitor.add_image(images.energy, history_reset="gap")
        monitor.check_motion()
    assert not monitor.holds.keys() - {StopCause.DISCONTINUOUS}
    clock.now_s += 2 * PERIOD_S
    monitor.check_motion()
    assert StopCause.FROZEN in monitor.holds


def test_motion_blocked_by_other_nodes_is_not_counted(images):
    """A collision monitor limits the commands, and the world model receives its output."""
    for _ in range(200):
        images.monitor.motion.set_command(1.0)
        images.clock.now_s += PERIOD_S
        images.energy -= 1.0
        images.monitor.add_image(images.energy)
        images.monitor.add_surprise(False, effort=0.0)
    assert not images.monitor.holds


def test_motion_after_a_long_gap_between_images_counts_from_its_start(images):
    """The effort is a mean of one step, and the robot stood in most of the gap."""
    images.receive(PERIOD_S)
    images.monitor.motion.set_command(0.0)
    images.clock.now_s += 5.0
    images.monitor.motion.set_command(1.0)
    images.clock.now_s += STEP_S / 2
    images.monitor.add_surprise(False, effort=0.5, response=math.nan)
    assert images.monitor.unconfirmed_ratio == pytest.approx(STEP_S / 2 / FROZEN_AFTER_S)


def test_motion_during_a_long_gap_between_images_counts(images):
    images.receive(PERIOD_S)
    images.monitor.motion.set_command(1.0)
    images.clock.now_s += 0.8
    images.monitor.add_surprise(False, effort=1.0, response=math.nan)
    assert images.monitor.unconfirmed_ratio == pytest.approx(0.8 / FROZEN_AFTER_S)


@pytest.mark.parametrize("size", range(1, 33))
def test_images_that_repeat_a_recent_one_are_a_reason(images, size):
    images.receive(5.0)
    after_s = images.receive(5.0, energy=lambda index: float(index % size))
    # The first round is new.
    assert after_s <= FROZEN_AFTER_S + size * PERIOD_S
    assert "repeat earlier ones exactly" in images.monitor.holds[StopCause.FROZEN]


def test_repeated_image_confirms_no_motion(images):
    images.receive(5.0)
    images.receive(PERIOD_S, energy=lambda index: 7.0)
    unconfirmed_s = images.monitor.motion.unconfirmed_s
    images.receive(PERIOD_S, energy=lambda index: 7.0)
    assert images.monitor.motion.unconfirmed_s == pytest.approx(unconfirmed_s + PERIOD_S)


def test_standing_robot_may_see_the_same_image_forever(images):
    assert images.receive(60.0, effort=0.0, energy=lambda index: 7.0) is None


def test_unchanged_energy_without_a_goal_is_no_reason(images):
    assert images.receive(20.0, energy=lambda index: math.nan) is None


def test_standing_confirms_nothing_and_attempts_are_short_until_a_goal_is_active(images):
    """Motion that the images do not show is limited for any surprises."""
    images.receive(5.0)
    first_s = images.receive(20.0, response=0.0)
    blind_s, attempts_s = first_s, []
    for _ in range(200):
        while images.monitor.holds and len(attempts_s) < 10:
            if images.receive(RETRY_S, response=0.0, effort=0.0) is None and images.monitor.holds:
                break
        if images.monitor.holds:
            break
        attempts_s.append(images.receive(20.0, response=0.0))
    assert len(attempts_s) == 1 and all(each <= 0.4 for each in attempts_s)
    assert blind_s + sum(attempts_s) <= 2 * FROZEN_AFTER_S
    images.receive(60.0, effort=0.0, response=0.0)
    assert StopCause.FROZEN in images.monitor.holds, "for any duration of the stop"
    images.monitor.allow_retry()
    assert not images.monitor.holds
    assert images.receive(20.0, response=0.0) <= 0.4, "a goal is one more attempt"
    images.receive(60.0, effort=0.0)
    assert StopCause.FROZEN in images.monitor.holds


def test_confirmed_motion_restores_all_attempts(images):
    for _ in range(5):
        images.receive(5.0)
        assert images.receive(20.0, response=0.0) > 0.9
        images.receive(RETRY_S, effort=0.0)
        assert not images.monitor.holds
    assert images.monitor.counts["frozen"] == 5


def test_camera_that_shows_motion_intermittently_does_not_end_probation(images):
    images.receive(5.0)
    images.receive(20.0, response=0.0)
    for _ in range(20):
        images.receive(0.5)
        images.receive(0.5, response=0.0)
    assert images.monitor.counts["frozen"] == 2
    images.receive(30.0, effort=0.0)
    assert StopCause.FROZEN in images.monitor.holds


def test_holds_for_unconfirmed_motion_last_as_one(images):
    images.receive(5.0)
    images.receive(20.0, response=0.0)
    images.receive(RETRY_S, effort=0.0)
    images.monitor.decision_executed()
    images.receive(20.0, response=0.0)
    assert "do not show" in images.monitor.held_longer_than(1.2)
    images.monitor.allow_retry()
    images.receive(5.0)
    images.monitor.decision_executed()
    assert images.receive(20.0, response=0.0) and images.monitor.held_longer_than(0.5) == ""


def test_motion_without_a_limit_is_not_compared_with_images(clock):
    images = Images(SafetyMonitor(surprise_window_s=0.5, surprise_ratio=0.6, clock=clock), clock)
    assert images.receive(20.0, response=0.0, energy=lambda index: 7.0) is None


@pytest.mark.parametrize("step_s", [0.2, 1.0])
def test_model_with_long_steps_has_time_to_see_motion(images, step_s):
    images.monitor.step_s = step_s
    images.receive(5.0)
    assert images.receive(20.0, response=0.0) == pytest.approx(max(FROZEN_AFTER_S, 4 * step_s), abs=0.2)


@pytest.mark.parametrize(("each", "is_a_reason"), [(1, True), (2, False)])
def test_rate_of_surprising_images_over_the_limit_is_a_reason(images, each, is_a_reason):
    images.receive(5.0)
    for index in range(100):
        images.receive(PERIOD_S, surprising=index % each == 0)
    assert bool(images.monitor.counts["surprise"]) is is_a_reason


def test_end_of_a_surprise_releases_the_robot_on_probation(images):
    images.receive(5.0)
    assert images.receive(5.0, surprising=True) <= 0.6
    images.receive(RETRY_S + 1.0, effort=0.0)
    assert not images.monitor.holds
    assert images.receive(5.0, response=0.0) <= 0.4


def test_ratio_of_one_disables_the_surprise_check(clock):
    images = Images(SafetyMonitor(surprise_window_s=0.5, surprise_ratio=1.0, clock=clock), clock)
    assert images.receive(20.0, surprising=True) is None


def test_images_that_do_not_follow_the_previous_ones_are_a_reason(images):
    images.receive(5.0)
    assert images.receive(5.0, discontinuous=True) <= 4 * PERIOD_S
    assert "several cameras" in images.monitor.holds[StopCause.DISCONTINUOUS]


@pytest.mark.parametrize("reset", ["gap", "clock_backwards", "frame"])
def test_repeated_history_resets_are_a_reason(images, reset):
    images.receive(5.0)
    assert images.receive(5.0, history_reset=reset) <= 4 * PERIOD_S
    images.receive(RETRY_S + 0.5, effort=0.0)
    assert not images.monitor.holds


def test_single_wrong_image_and_a_swapped_model_are_no_reason(images):
    images.receive(5.0)
    for inputs in ({"discontinuous": True}, {"discontinuous": True}, {"history_reset": "model"}) * 2:
        images.receive(PERIOD_S, **inputs)
        images.receive(1.0)
    assert not images.monitor.counts


def test_two_image_publishers_are_a_reason_while_they_last(images):
    images.receive(5.0)
    assert images.receive(5.0, publishers=2) == PERIOD_S
    images.receive(10.0, publishers=2)
    images.monitor.allow_retry()
    assert StopCause.CAMERAS in images.monitor.holds and "2 publishers" in images.monitor.reason
    images.receive(PERIOD_S, publishers=1)
    assert not images.monitor.holds
    assert images.receive(5.0, response=0.0) <= 0.4, "which of them is left is not known yet"


def test_unconfirmed_ratio_is_the_fraction_of_the_motion_limit(images):
    images.receive(2.0)
    assert images.monitor.unconfirmed_ratio == 0.0
    assert images.receive(0.5, response=0.0) is None
    assert images.monitor.unconfirmed_ratio == pytest.approx(0.5)
