"""The pose at the stamp of an image, and everything that makes it unknown."""

from __future__ import annotations

import math

import pytest

from jepa_runtime.errors import OdometryError
from jepa_runtime.util.odometry_history import OdometryHistory, PoseTuple
from tests.errors import code

MS = 1_000_000
TIMEOUT_S = 0.5


def history(*poses: tuple[int, PoseTuple], memory_s: float = 10.0) -> OdometryHistory:
    """Return a history of poses, each with its time in milliseconds."""
    filled = OdometryHistory(timeout_s=TIMEOUT_S, memory_s=memory_s)
    for stamp_ms, pose in poses:
        filled.add(stamp_ms * MS, pose)
    return filled


DRIVING = history((1000, (1.0, 2.0, 0.0)), (1100, (1.1, 2.0, 0.2)), (1200, (1.2, 2.1, 0.4)))


@pytest.mark.parametrize(
    ("stamp_ms", "expected"),
    [
        (1000, (1.0, 2.0, 0.0)),
        (1025, (1.025, 2.0, 0.05)),
        (1150, (1.15, 2.05, 0.3)),
        (1200, (1.2, 2.1, 0.4)),
        # Extrapolated, but not further than the last motion.
        (1250, (1.25, 2.15, 0.5)),
        (1300, (1.3, 2.2, 0.6)),
        (1600, (1.3, 2.2, 0.6)),
        # Shortly before the first pose.
        (900, (1.0, 2.0, 0.0)),
    ],
)
def test_pose_between_and_near_samples_is_interpolated(stamp_ms: int, expected: PoseTuple) -> None:
    located = DRIVING.at(stamp_ms * MS)
    assert located.pose == pytest.approx(expected) and located.part == 0


def test_yaw_is_interpolated_across_half_a_turn() -> None:
    turning = history((0, (0.0, 0.0, math.pi - 0.1)), (100, (0.0, 0.0, 0.1 - math.pi)))
    assert turning.at(75 * MS).pose[2] == pytest.approx(0.05 - math.pi)


@pytest.mark.parametrize(
    ("stamp_ms", "expected"), [(1701, "odometry.too_old"), (499, "odometry.image_too_old")]
)
def test_pose_beyond_the_timeout_is_unknown(stamp_ms: int, expected: str) -> None:
    with pytest.raises(OdometryError, check=code(expected)):
        DRIVING.at(stamp_ms * MS)


def test_pose_without_odometry_is_unknown() -> None:
    with pytest.raises(OdometryError, check=code("odometry.missing")):
        OdometryHistory().at(0)


@pytest.mark.parametrize("stamp_ms", [1200, 1199, 701])
def test_time_that_does_not_increase_is_refused(stamp_ms: int) -> None:
    driving = history((1100, (1.0, 0.0, 0.0)), (1200, (1.1, 0.0, 0.0)))
    with pytest.raises(OdometryError, check=code("odometry.time_backward")):
        driving.add(stamp_ms * MS, (5.0, 0.0, 0.0))
    assert len(driving) == 2 and driving.at(1200 * MS).pose == (1.1, 0.0, 0.0)


def test_clock_set_back_begins_again_with_another_part() -> None:
    reset = history((90_000, (1.0, 0.0, 0.0)), (100, (0.0, 0.0, 0.0)), (200, (0.1, 0.0, 0.0)))
    assert len(reset) == 2
    located = reset.at(150 * MS)
    assert located.pose == pytest.approx((0.05, 0.0, 0.0)) and located.part == 1


@pytest.mark.parametrize("jumped", [(4.0, 0.0, 0.0), (1.0, 0.0, 2.5)])
def test_pose_that_jumps_begins_another_part(jumped: PoseTuple) -> None:
    after = (jumped[0] + 0.1, *jumped[1:])
    reset = history((0, (0.9, 0.0, 0.0)), (100, (1.0, 0.0, 0.0)), (200, jumped), (300, after))
    parts = [reset.at(stamp_ms * MS).part for stamp_ms in (50, 100, 200, 250)]
    assert parts == [0, 0, 1, 1]
    # Nothing is interpolated over the jump.
    assert reset.at(150 * MS).pose == pytest.approx((1.05, 0.0, 0.0))
    assert reset.at(200 * MS).pose == jumped


def test_fast_turn_and_dense_noise_do_not_begin_another_part() -> None:
    moving = history((0, (0.0, 0.0, 0.0)), (1, (0.05, 0.0, 0.0)), (101, (0.05, 0.0, 1.0)))
    assert moving.at(101 * MS).part == 0


def test_gap_begins_another_part() -> None:
    resumed = history((0, (0.0, 0.0, 0.0)), (600, (0.1, 0.0, 0.0)))
    assert [resumed.at(stamp_ms * MS).part for stamp_ms in (500, 600)] == [0, 1]
    with pytest.raises(OdometryError, check=code("odometry.too_old")):
        resumed.at(510 * MS)


@pytest.mark.parametrize("pose", [(math.nan, 0.0, 0.0), (0.0, math.inf, 0.0)])
def test_pose_that_is_not_finite_is_refused(pose: PoseTuple) -> None:
    with pytest.raises(OdometryError, check=code("odometry.pose_invalid")):
        history((0, pose))


def test_memory_is_bounded() -> None:
    every_s = [(100 * step, (0.01 * step, 0.0, 0.0)) for step in range(1000)]
    driving = history(*every_s, memory_s=2.0)
    assert len(driving) <= 2 * 20 + 2
    assert driving.at(98_000 * MS).pose[0] == pytest.approx(9.8)
    with pytest.raises(OdometryError, check=code("odometry.image_too_old")):
        driving.at(1000 * MS)
    assert history(*every_s, memory_s=math.inf).at(1000 * MS).pose[0] == pytest.approx(0.1)


@pytest.mark.parametrize("options", [{"timeout_s": 0.0}, {"memory_s": 0.0}, {"timeout_s": math.nan}])
def test_times_must_be_positive(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        OdometryHistory(**options)
