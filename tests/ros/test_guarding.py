"""What makes the robot stand, and when that is over."""

from __future__ import annotations

import numpy as np
import pytest

guarding = pytest.importorskip(
    "jepa_ros.planning.guarding", reason="the workspace is not on the paths: . scripts/env.sh"
)
from jepa_ros.diagnostics import Level, Verdict  # noqa: E402

Cause, Guard = guarding.Cause, guarding.Guard
OTHERWISE = Verdict(Level.OK, "seeking")

pytestmark = pytest.mark.ros


class Clock:
    """Seconds, as they are set."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def guard(clock):
    return Guard(surprised_after=3, clock=clock)


def images(guard, *surprising):
    """Images come: some surprise the model, some do not, some (None) it cannot judge."""
    for each in surprising:
        guard.image()
        if each is not None:
            guard.surprised(each)


def test_without_a_reason_the_robot_may_drive(guard):
    assert not guard.holds and not guard.blocks and guard.why == ""
    assert guard.verdict(OTHERWISE) == OTHERWISE


@pytest.mark.parametrize(
    ("cause", "level"),
    [
        ("MODEL", Level.ERROR),
        ("FAULT", Level.ERROR),
        ("FORBIDDEN", Level.ERROR),
        ("FROZEN", Level.ERROR),
        ("SURPRISE", Level.WARN),
        ("OLD", Level.WARN),
        ("STALE", Level.STALE),
        ("UNANSWERED", Level.WARN),
    ],
)
def test_each_reason_has_its_level_and_its_words(guard, cause, level):
    guard.hold(Cause[cause], "because")
    assert guard.verdict(OTHERWISE) == Verdict(level, "the robot stands: because")
    guard.release(Cause[cause])
    assert guard.verdict(OTHERWISE) == OTHERWISE


def test_of_several_reasons_the_gravest_is_told(guard):
    guard.hold(Cause.STALE, "silence")
    guard.hold(Cause.FAULT, "a fault")
    assert guard.verdict(OTHERWISE).message == "the robot stands: a fault"
    assert guard.why == "a fault"


def test_a_reason_counts_once_and_lasts_from_its_beginning(guard, clock):
    guard.hold(Cause.OLD, "0.6 s old")
    clock.now_s += 1.0
    guard.hold(Cause.OLD, "1.6 s old")
    assert guard.counts == {"old": 1}
    assert guard.lasting(0.9) == "1.6 s old" and guard.lasting(1.1) == ""
    guard.release(Cause.OLD)
    assert guard.lasting(0.9) == ""
    guard.hold(Cause.OLD, "again")
    assert guard.counts == {"old": 2}


def test_reasons_that_come_and_go_last_until_the_robot_did_as_decided(guard, clock):
    for cause in (Cause.OLD, Cause.STALE):
        guard.hold(cause, cause.label)
        clock.now_s += 1.0
        guard.release(cause)
    guard.hold(Cause.OLD, "old again")
    assert guard.lasting(1.9) == "old again"
    guard.release(Cause.OLD)
    guard.obeyed()
    guard.hold(Cause.OLD, "old once more")
    assert guard.lasting(0.0) == ""


def test_what_only_another_plan_can_end_does_not_keep_from_planning(guard):
    for cause in (Cause.FORBIDDEN, Cause.FAULT):
        guard.hold(cause, "because")
    assert guard.holds and not guard.blocks
    guard.hold(Cause.OLD, "old")
    assert guard.blocks
    guard.obeyed()
    assert guard.holds == {Cause.OLD: "old"}, "and the other plan was found"


def test_so_many_surprises_in_a_row_are_a_reason_and_fewer_are_none(guard):
    images(guard, True, True, False, True, True)
    assert not guard.holds
    images(guard, True)
    assert "3 images in a row" in guard.holds[Cause.SURPRISE]


def test_it_is_over_when_as_many_other_images_came_judged_or_not(guard):
    images(guard, True, True, True)
    images(guard, False, None)
    assert guard.holds
    images(guard, True, False, None, None)
    assert guard.holds, "one more surprise, and it begins anew"
    images(guard, None)
    assert not guard.holds


def test_surprise_may_be_no_reason(clock):
    guard = Guard(surprised_after=0, clock=clock)
    images(guard, *[True] * 100)
    assert not guard.holds


@pytest.fixture
def looks(clock):
    """A guard whom images come every 0.4 s, of an energy and after the robot was told to move or to stand."""
    guard = Guard(surprised_after=0, frozen_after_s=1.0, clock=clock)

    def look(energy, *, moving, times=1):
        for _ in range(times):
            clock.now_s += 0.4
            guard.looked(energy, moving=moving)
        return guard.holds

    return look


def test_images_that_stay_the_same_while_the_robot_moves_are_a_reason_until_another_comes(looks):
    assert not looks(5.0, moving=True, times=3)
    assert "the same while it was to move for 1.2 s" in looks(5.0, moving=True)[Cause.FROZEN]
    assert looks(5.0, moving=False, times=9), "it stands now, and the camera may still hang"
    assert not looks(np.nextafter(5.0, 6.0), moving=True)


def test_a_robot_that_stands_may_see_the_same_for_ever(looks):
    assert not looks(5.0, moving=False, times=99)
    assert not looks(5.0, moving=True, times=2)


def test_a_robot_that_other_reasons_make_stand_now_and_then_moves_as_blindly(looks):
    assert not looks(5.0, moving=True, times=2)
    assert not looks(5.0, moving=False, times=9)
    assert looks(5.0, moving=True, times=2)


def test_without_a_goal_and_without_a_limit_nothing_is_the_same(looks, clock, guard):
    assert not looks(float("nan"), moving=True, times=99)
    for _ in range(99):
        clock.now_s += 1.0
        guard.looked(5.0, moving=True)
    assert not guard.holds
