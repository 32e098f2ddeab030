"""Bags as sources: recorded images are read unchanged, and invalid bags raise errors with codes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from jepa_runtime.errors import SourceError
from jepa_runtime.recording import messages
from jepa_runtime.ros_messages.definitions import build, typestore
from jepa_runtime.sources.bag_file import BagFile
from jepa_runtime.sources.factory import open_bag, open_source
from jepa_runtime.visualization.bag_topics import PLANNER_STATUS
from tests.errors import code
from tests.runtime.bags import IMAGE, Entry, image, twist, write_bag
from tests.runtime.visualization import runs


def picture(value: int) -> np.ndarray:
    shown = np.zeros((6, 8, 3), np.uint8)
    shown[...] = (value, 10, 200)
    return shown


def raw(value: int, stamp_ns: int) -> Entry:
    return stamp_ns, "/image", IMAGE, messages.image(picture(value), stamp_ns, "front")


def packed(value: int, stamp_ns: int) -> Entry:
    png = cv2.imencode(".png", cv2.cvtColor(picture(value), cv2.COLOR_RGB2BGR))[1].reshape(-1)
    fields = {"header": messages.header(stamp_ns, "front"), "format": "png", "data": png}
    return stamp_ns, "/image", messages.COMPRESSED_IMAGE, fields


def write_folder(path: Path, *entries: Entry, storage: StoragePlugin = StoragePlugin.SQLITE3) -> Path:
    """Write a bag as rosbag2 does."""
    store = typestore()
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {}
        for log_ns, topic, type_name, fields in entries:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, type_name, typestore=store)
            cdr = store.serialize_cdr(build(type_name, fields), type_name)
            writer.write(connections[topic], log_ns, cdr)
    return path


def forget_definitions(bag: Path) -> None:
    """Write a bag as ROS 2 Humble does."""
    with closing(sqlite3.connect(bag / f"{bag.name}.db3")) as database, database:
        database.execute("DELETE FROM message_definitions")


@pytest.mark.parametrize("make", [raw, packed])
def test_raw_and_compressed_images_of_an_mcap_are_read(
    tmp_path: Path, make: Callable[[int, int], Entry]
) -> None:
    stamps = [7_000_000_001 + index * 50_000_000 for index in range(4)]
    path = write_bag(tmp_path / "bag.mcap", [make(value, stamp_ns) for value, stamp_ns in enumerate(stamps)])
    source = open_source(str(path))
    frames = list(source.frames())
    source.close()
    source.close()
    with pytest.raises(SourceError, check=code("source.bag_damaged")):
        next(source.frames())
    assert source.rate_hz == pytest.approx(20.0)
    assert [frame.stamp_ns for frame in frames] == stamps
    assert [frame.image[2, 3].tolist() for frame in frames] == [[i, 10, 200] for i in range(4)]
    assert frames[0].frame_id == "front"


@pytest.mark.parametrize("storage", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_rosbag2_folder_is_read(tmp_path: Path, storage: StoragePlugin) -> None:
    path = write_folder(tmp_path / "bag", *(raw(value, 100 + value) for value in range(3)), storage=storage)
    frames = list(open_source(str(path)).frames())
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 1, 2]


def test_image_topic_is_selected_among_several(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag.mcap", [image(1, 1, topic="/left"), image(2, 2, topic="/right")])
    with pytest.raises(SourceError, check=code("source.topic_ambiguous")):
        open_source(str(path))
    with pytest.raises(SourceError, check=code("source.topic_not_found")):
        open_source(f"{path}?topic=/up")
    for name in ("/right", "right"):
        (frame,) = open_source(f"{path}?topic={name}").frames()
        assert frame.image[0, 0, 0] == 2


def test_bag_without_images_lists_its_topics(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag.mcap", [twist(1, 0.0)])
    with pytest.raises(SourceError, check=code("source.topic_not_found")) as caught:
        open_source(str(path))
    assert "/cmd_vel (geometry_msgs/msg/Twist)" in str(caught.value)


@pytest.mark.parametrize(("order", "big_endian"), [("<u2", 0), (">u2", 1)])
def test_image_byte_order_is_respected(tmp_path: Path, order: str, big_endian: int) -> None:
    *where, fields = raw(1, 1)
    wide = np.full((6, 8), 77 * 256 + 3, order).view(np.uint8)
    fields |= {"encoding": "mono16", "step": 16, "is_bigendian": big_endian, "data": wide.reshape(-1)}
    (frame,) = open_source(str(write_bag(tmp_path / "bag.mcap", [(*where, fields)]))).frames()
    assert (frame.image == 77).all()


def test_compressed_image_bayer_pattern_is_respected(tmp_path: Path) -> None:
    *where, fields = packed(1, 1)
    mosaic = np.tile(np.array([[120, 200], [40, 120]], np.uint8), (3, 4))
    fields |= {"format": "bayer_grbg8; png compressed ", "data": cv2.imencode(".png", mosaic)[1].reshape(-1)}
    (frame,) = open_source(str(write_bag(tmp_path / "bag.mcap", [(*where, fields)]))).frames()
    assert (frame.image == (200, 120, 40)).all()


def test_unknown_image_encoding_is_named(tmp_path: Path) -> None:
    *where, fields = raw(1, 1)
    path = write_bag(tmp_path / "bag.mcap", [(*where, fields | {"encoding": "rgbx77"})])
    with pytest.raises(SourceError, check=code("source.image_invalid")) as caught:
        list(open_source(str(path)).frames())
    assert "rgbx77" in str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 500]
)
def test_open_source_rejects_a_damaged_bag(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_bag(tmp_path / "bag.mcap", [raw(1, 1)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SourceError, check=code("source.bag_damaged")):
        open_source(str(path))


def test_open_source_rejects_invalid_bag_metadata_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "metadata.yaml").write_text("a: [b\n")
    with pytest.raises(SourceError, check=code("source.bag_damaged")) as caught:
        open_source(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("described", [True, False])
def test_jepa_messages_are_read_with_and_without_definitions_in_the_bag(
    tmp_path: Path, described: bool
) -> None:
    fields = {
        "header": messages.header(3, "front"), "value": 0.5, "threshold": 1.0, "surprising": False,
        "executed": np.zeros(2, np.float32), "response": 1.0, "discontinuous": False,
    }  # fmt: skip
    path = write_folder(tmp_path / "bag", (7, "/surprise", messages.SURPRISE, fields))
    if not described:
        forget_definitions(path)
    with BagFile(path) as bag:
        assert bag.topics(messages.SURPRISE) == ["/surprise"] and bag.topics(messages.TWIST) == []
        assert bag.connections_on({"/surprise", None})[0].msgcount == 1
        ((topic, log_ns, message),) = bag.read({"/surprise", None})
        assert list(bag.read({"/other"})) == []
    assert (topic, log_ns, message.value) == ("/surprise", 7, 0.5)


def test_planner_commands_are_read_with_and_without_definitions_in_the_bag(tmp_path: Path) -> None:
    taken = [entry for entry in runs.entries() if entry[2] in (IMAGE, PLANNER_STATUS)]
    path = write_folder(tmp_path / "bag", *taken)
    options = {"topic": "/camera/image_raw", "action": "/planner/status:linear.x"}
    before = open_bag(path, options).commands
    forget_definitions(path)
    after = open_bag(path, options).commands
    assert before is not None and after is not None and len(after.values) > 1
    np.testing.assert_array_equal(after.values, before.values)
