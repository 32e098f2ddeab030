"""A terminal that hangs up, as where the connection to a robot breaks off."""

from __future__ import annotations

import fcntl
import os
import pty
import termios
import threading
from functools import partial

import pytest

pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")
from jepa_msgs.msg import PlannerStatus
from mcap.reader import make_reader

pytestmark = pytest.mark.ros


def test_what_the_monitor_recorded_is_whole_although_nothing_can_be_shown_any_more(ros_graph, tmp_path):
    recording = tmp_path / "all.mcap"
    ours, theirs = pty.openpty()
    ros_graph.start(
        "monitor",
        {"mcap": recording},
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=partial(fcntl.ioctl, theirs, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    shown = threading.Event()

    def read() -> None:
        while b"planner" not in os.read(ours, 1 << 16):
            pass
        shown.set()

    threading.Thread(target=read, daemon=True).start()
    ros_graph.until(shown.is_set, "the live view")
    ros_graph.publisher(PlannerStatus, "planner/status").publish(PlannerStatus())
    ros_graph.spin_for(0.5)
    os.close(ours)
    ros_graph.exit_code("monitor")
    with recording.open("rb") as file:
        assert len(list(make_reader(file).iter_messages(["/planner/status"]))) == 1
    assert ros_graph.report("monitor")["messages"]["/planner/status"] == 1
