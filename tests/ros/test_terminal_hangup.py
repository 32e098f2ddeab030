"""Closed terminals, as when the connection to a robot is lost, and terminals with a limited character set."""

from __future__ import annotations

import fcntl
import os
import pty
import termios
import threading
from functools import partial

import pytest

pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from jepa_msgs.msg import PlannerStatus
from mcap.reader import make_reader

pytestmark = pytest.mark.ros


def test_recording_is_complete_after_the_terminal_hangs_up(ros_graph, tmp_path):
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


def test_character_that_the_output_cannot_encode_is_escaped(ros_graph, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    ros_graph.start("monitor")
    status = DiagnosticStatus(name="pump", message="temp\u00e9rature", level=DiagnosticStatus.WARN)
    publisher = ros_graph.publisher(DiagnosticArray, "/diagnostics")

    def shown() -> bool:
        publisher.publish(DiagnosticArray(status=[status]))
        return r"WARN: temp\xe9rature" in ros_graph.log("monitor").read_text()

    ros_graph.until(shown, "the message")
    assert ros_graph.stop("monitor") == 0
