"""Odometry of a bag: a pose for each image, or an error with a code."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from jepa_runtime.errors import OdometryError, SourceError
from jepa_runtime.ros_messages.definitions import build
from jepa_runtime.ros_messages.odometry import ODOMETRY, planar_pose
from jepa_runtime.sources.factory import open_source
from jepa_runtime.util.odometry_history import OdometryPose
from tests.errors import code
from tests.runtime.bags import Entry, image, odometry, twist, write_bag

START_NS, STEP_NS = 5_000_000_000, 50_000_000


def poses(path: Path) -> list[OdometryPose | None]:
    source = open_source(f"{path}?odometry=/odom")
    try:
        assert source.pose is None, "before the first image"
        return [source.pose for _ in source.frames()]
    finally:
        source.close()


def images(count: int) -> list[Entry]:
    return [image(START_NS + index * STEP_NS) for index in range(count)]


def test_each_image_has_the_interpolated_pose(tmp_path: Path) -> None:
    # Recorded late, and between the images.
    driven = [
        odometry(stamp_ns + 30_000_000, 0.1 * step, 0.2, 0.3 * step, stamp_ns=stamp_ns)
        for step in range(4)
        for stamp_ns in [START_NS - STEP_NS // 2 + step * STEP_NS]
    ]
    found = poses(write_bag(tmp_path / "bag.mcap", [*images(3), *driven]))
    for step, located in enumerate(found):
        assert located is not None and located.part == 0
        assert located.pose == pytest.approx((0.1 * step + 0.05, 0.2, 0.3 * step + 0.15))


def test_image_without_odometry_around_it_has_no_pose_and_a_jump_begins_a_part(tmp_path: Path) -> None:
    driven = [odometry(START_NS, 1.0), odometry(START_NS + STEP_NS, 9.0)]
    found = poses(write_bag(tmp_path / "bag.mcap", [*images(14), *driven]))
    assert [None if each is None else each.part for each in found] == [0, *[1] * 11, None, None]


def test_source_without_the_option_has_no_poses(tmp_path: Path) -> None:
    source = open_source(str(write_bag(tmp_path / "bag.mcap", [*images(1), odometry(START_NS, 1.0)])))
    assert [source.pose for _ in source.frames()] == [None]


@pytest.mark.parametrize(
    ("entries", "option", "expected"),
    [
        ([odometry(START_NS, 1.0)], "/elsewhere", "source.topic_not_found"),
        ([twist(START_NS, 1.0)], "/cmd_vel", "source.topic_not_found"),
        (
            [odometry(START_NS, 1.0), odometry(START_NS + 1, 1.0, stamp_ns=START_NS)],
            "/odom",
            "source.odometry_invalid",
        ),
        ([odometry(START_NS, math.nan)], "/odom", "source.odometry_invalid"),
    ],
)
def test_bag_without_usable_odometry_is_rejected(
    tmp_path: Path, entries: list[Entry], option: str, expected: str
) -> None:
    path = write_bag(tmp_path / "bag.mcap", [*images(1), *entries])
    with pytest.raises(SourceError, check=code(expected)):
        open_source(f"{path}?odometry={option}")


def test_odometry_of_another_clock_is_reported_after_the_last_image(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag.mcap", [*images(2), odometry(START_NS, 1.0, stamp_ns=100 * START_NS)])
    with pytest.raises(SourceError, check=code("source.odometry_unmatched")):
        list(open_source(f"{path}?odometry=odom").frames())


@pytest.mark.parametrize("yaw", [-3.0, -1.5, 0.0, 1.5, 3.0])
def test_yaw_of_a_pitched_robot_is_that_of_its_heading(yaw: float) -> None:
    fields = odometry(0, 1.0, 2.0)[3]
    pitch = 0.3
    fields["pose"]["pose"]["orientation"] = {
        "x": -math.sin(yaw / 2) * math.sin(pitch / 2),
        "y": math.cos(yaw / 2) * math.sin(pitch / 2),
        "z": math.sin(yaw / 2) * math.cos(pitch / 2),
        "w": math.cos(yaw / 2) * math.cos(pitch / 2),
    }
    assert planar_pose(build(ODOMETRY, fields)) == pytest.approx((1.0, 2.0, yaw))


@pytest.mark.parametrize("norm", [0.0, 2.0])
def test_orientation_that_is_no_unit_quaternion_is_rejected(norm: float) -> None:
    fields = odometry(0, 1.0)[3]
    fields["pose"]["pose"]["orientation"]["w"] = norm
    with pytest.raises(OdometryError, check=code("odometry.pose_invalid")):
        planar_pose(build(ODOMETRY, fields))
