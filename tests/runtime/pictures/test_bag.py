"""Bags as pictures read them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from rosbags.rosbag2 import Writer

from jepa_runtime.pictures.bag import Bag
from jepa_runtime.recording import messages
from jepa_runtime.recording.definitions import build, typestore


@pytest.mark.parametrize("described", [True, False])
def test_our_messages_are_read_whether_or_not_the_bag_describes_them(tmp_path: Path, described: bool) -> None:
    fields = {"header": messages.header(3, "front"), "value": 0.5, "threshold": 1.0, "surprising": False}
    sent = build(messages.SURPRISE, fields)
    with Writer(tmp_path / "bag", version=9) as writer:
        connection = writer.add_connection("/surprise", messages.SURPRISE, typestore=typestore())
        writer.write(connection, 7, typestore().serialize_cdr(sent, messages.SURPRISE))
    if not described:
        # As ROS 2 Humble writes bags.
        with closing(sqlite3.connect(tmp_path / "bag" / "bag.db3")) as database, database:
            database.execute("DELETE FROM message_definitions")
    with Bag(tmp_path / "bag") as bag:
        assert bag.topics(messages.SURPRISE) == ["/surprise"] and bag.count(["/surprise"]) == 1
        ((topic, log_ns, message),) = bag.messages(["/surprise"])
    assert (topic, log_ns, message.value) == ("/surprise", 7, 0.5)
