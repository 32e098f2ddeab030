"""Rejection of invalid frames."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

intake = pytest.importorskip(
    "jepa_ros.world_model.image_validator", reason="the workspace is not on the paths: . scripts/env.sh"
)

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
        ({"nanosec": 1_000_000_000}, "bad_stamp"),
    ],
)
def test_bad_frame_is_rejected_and_counted(change, reason):
    gate = intake.ImageValidator()
    refusal = gate.check_header(**{**GOOD, **change})
    assert refusal is not None and refusal.reason == reason
    assert gate.rejected == {reason: 1}


@pytest.mark.parametrize("stamp", [{}, {"sec": 0, "nanosec": 1}, {"nanosec": 999_999_999}])
def test_good_frame_is_accepted(stamp):
    gate = intake.ImageValidator()
    assert gate.check_header(**GOOD | stamp) is None
    assert not gate.rejected


def test_frame_of_another_size_is_rejected_and_the_stream_continues():
    gate = intake.ImageValidator()
    assert gate.check_size(height=480, width=640) is None
    assert gate.check_size(height=240, width=320) is not None
    assert gate.check_size(height=480, width=640) is None
    assert gate.rejected == {"size_changed": 1}


def test_lasting_frame_size_becomes_that_of_the_stream():
    gate = intake.ImageValidator()
    gate.check_size(height=480, width=640)
    refused = [gate.check_size(height=240, width=320) for _ in range(intake.NEW_SIZE_FRAMES)]
    assert all(refused[:-1]) and refused[-1] is None
    assert gate.check_size(height=240, width=320) is None
    assert gate.check_size(height=480, width=640) is not None, "which is another one now"


def test_intermittent_frame_size_must_last_from_its_latest_start():
    gate = intake.ImageValidator()
    for height, width in [(480, 640), (240, 320), (480, 640)]:
        gate.check_size(height=height, width=width)
    refused = [gate.check_size(height=240, width=320) for _ in range(intake.NEW_SIZE_FRAMES)]
    assert all(refused[:-1]) and refused[-1] is None


def test_alternating_frame_sizes_never_become_that_of_the_stream():
    gate = intake.ImageValidator()
    gate.check_size(height=480, width=640)
    sizes = [(240, 320), (120, 160)] * 10
    assert all(gate.check_size(height=height, width=width) for height, width in sizes)
    for _ in range(10):
        assert gate.check_size(height=480, width=640) is None
        assert gate.check_size(height=240, width=320) is not None


def test_reader_takes_raw_images_over_compressed_ones():
    images = pytest.importorskip("jepa_ros.world_model.image_reader")
    now_s = [100.0]
    reader = images.ImageReader(clock=lambda: now_s[0])
    raw = images.Image(height=2, width=2, step=8, encoding="rgb8", data=bytes(range(16)))
    unknown = images.Image(height=2, width=2, step=6, encoding="smell", data=bytes(12))
    raw.header.stamp.sec = unknown.header.stamp.sec = 5
    compressed = images.CompressedImage()
    assert reader.read(unknown) is None and reader.needs(compressed), "as long as there are no fit others"
    for _ in range(30):
        now_s[0] += 0.033
        assert reader.needs(raw) and reader.read(raw)[1, 1].tolist() == [11, 12, 13]
        assert not reader.needs(compressed)
    now_s[0] += 1.1
    assert reader.needs(compressed)


def test_reader_skips_a_raw_image_after_its_compressed_twin():
    images = pytest.importorskip("jepa_ros.world_model.image_reader")
    reader = images.ImageReader()
    raw = images.Image(height=2, width=2, step=6, encoding="rgb8", data=bytes(12))
    data = cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes()
    compressed = images.CompressedImage(data=data)
    raw.header.stamp.sec = compressed.header.stamp.sec = 5
    assert reader.needs(compressed) and reader.read(compressed) is not None
    assert not reader.needs(raw)
    raw.header.stamp.nanosec = 1
    assert reader.needs(raw)


def test_reader_takes_all_compressed_images_and_rejects_other_data():
    images = pytest.importorskip("jepa_ros.world_model.image_reader")
    reader = images.ImageReader()

    def read(data, sec=5):
        message = images.CompressedImage(data=data)
        message.header.stamp.sec = sec
        return reader.read(message) if reader.needs(message) else None

    png, larger = (cv2.imencode(".png", np.full((2, width, 3), 7, np.uint8))[1].tobytes() for width in (3, 4))
    for _ in range(3):
        np.testing.assert_array_equal(read(png), np.full((2, 3, 3), 7))
    assert (reader.accepted, reader.rejected, reader.last_rejection) == (3, {}, "")
    assert read(b"") is read(png, sec=0) is read(larger) is read(b"none") is None
    assert reader.rejected == dict.fromkeys(("zero_size", "bad_stamp", "size_changed", "bad_image"), 1)
    assert reader.accepted == 3 and reader.last_rejection.startswith("bad_image: ")
