"""The heartbeat that ``jepa-runtime run --robot`` sends to systemd is that of the frames."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from jepa_runtime.commands import run_robot
from tests.ota.fleets import COMMAND, Fleet, until
from tests.ota.robots import Site
from tests.ota.serving_processes import running


def test_follower_notifies_systemd_from_its_first_frame_to_its_exit(
    tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, toy_bundle)
    assert fleet.provision() == 0
    command = [COMMAND, "run", "--robot", fleet.root, "--source", "two_rooms", "--rate", "50"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{tmp_path}/notify")
        systemd.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            notifications = [systemd.recv(100) for _ in range(3)]
            process.send_signal(signal.SIGTERM)
            while notifications[-1] == b"WATCHDOG=1":
                notifications.append(systemd.recv(100))
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
    assert (notifications[0], set(notifications[1:-1]), notifications[-1]) == (
        b"READY=1",
        {b"WATCHDOG=1"},
        b"STOPPING=1",
    )


@pytest.fixture
def notified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the notifications to systemd; a period is a tenth of a second."""
    messages: list[str] = []
    monkeypatch.setattr(run_robot, "notify", messages.append)
    monkeypatch.setattr(run_robot, "_POLL_S", 0.1)
    return messages


def test_watchdog_is_notified_while_frames_finish_and_while_none_arrive(
    site: Site, notified: list[str]
) -> None:
    with running(site.root):
        until(lambda: notified.count("WATCHDOG=1") >= 3)
        assert notified[0] == "READY=1"
    assert notified[-1] == "STOPPING=1"
    notified.clear()
    with running(site.root, rate_hz=0.01):
        until(lambda: notified.count("WATCHDOG=1") >= 3)


def test_watchdog_with_a_hanging_model_is_not_notified(site: Site, notified: list[str]) -> None:
    hung, goes_on = threading.Event(), threading.Event()

    def hangs(frame: int) -> None:
        if frame == 20:
            hung.set()
            goes_on.wait(60)

    with running(site.root, {"1.0.0": hangs}):
        assert hung.wait(60)
        time.sleep(0.3)
        notified.clear()
        time.sleep(1)
        assert notified == []
        goes_on.set()
        until(lambda: "WATCHDOG=1" in notified)
