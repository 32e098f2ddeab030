"""Which frames are refused, and why."""

from __future__ import annotations

import pytest

intake = pytest.importorskip("jepa_ros.intake", reason="the workspace is not on the paths: . scripts/env.sh")

pytestmark = pytest.mark.ros

GOOD = {"height": 4, "width": 6, "data_bytes": 72, "sec": 5, "nanosec": 0}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"height": 0}, "zero_size"),
        ({"width": 0}, "zero_size"),
        ({"data_bytes": 0}, "zero_size"),
        ({"sec": 0}, "bad_stamp"),
        ({"sec": -1}, "bad_stamp"),
        ({"nanosec": 4_000_000_000}, "bad_stamp"),
    ],
)
def test_a_bad_frame_is_refused_and_counted(change, reason):
    gate = intake.Intake()
    refusal = gate.check(**{**GOOD, **change})
    assert refusal is not None and refusal.reason == reason
    assert gate.refused == {reason: 1}


def test_a_good_frame_is_accepted():
    gate = intake.Intake()
    assert gate.check(**GOOD) is None
    assert not gate.refused


def test_a_frame_of_another_size_is_refused_and_the_stream_goes_on():
    gate = intake.Intake()
    assert gate.check_size(height=480, width=640) is None
    assert gate.check_size(height=240, width=320) is not None
    assert gate.check_size(height=480, width=640) is None
    assert gate.refused == {"size_changed": 1}


def test_a_size_that_lasts_becomes_the_streams():
    gate = intake.Intake()
    gate.check_size(height=480, width=640)
    refused = [gate.check_size(height=240, width=320) for _ in range(intake.NEW_SIZE_AFTER)]
    assert all(refused[:-1]) and refused[-1] is None
    assert gate.check_size(height=240, width=320) is None


def test_sizes_that_alternate_never_become_the_streams():
    gate = intake.Intake()
    gate.check_size(height=480, width=640)
    sizes = [(240, 320), (120, 160)] * 10
    assert all(gate.check_size(height=height, width=width) for height, width in sizes)
