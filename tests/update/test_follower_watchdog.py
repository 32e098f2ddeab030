"""The sign of life that ``jepa-runtime run --robot`` gives systemd is that of the frames."""

from __future__ import annotations

import threading
import time

import pytest

from jepa_runtime.commands import run_robot
from tests.update.fleets import until
from tests.update.robots import Site
from tests.update.test_follower import running


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What systemd was told; a moment is a tenth of a second."""
    messages: list[str] = []
    monkeypatch.setattr(run_robot, "notify", messages.append)
    monkeypatch.setattr(run_robot, "_LOOK_S", 0.1)
    return messages


def test_it_lives_while_frames_end_and_while_none_come(site: Site, told: list[str]) -> None:
    with running(site.root):
        until(lambda: told.count("WATCHDOG=1") >= 3)
        assert told[0] == "READY=1"
    assert told[-1] == "STOPPING=1"
    told.clear()
    with running(site.root, rate_hz=0.01):
        until(lambda: told.count("WATCHDOG=1") >= 3)


def test_a_model_that_hangs_while_frames_come_gives_none(site: Site, told: list[str]) -> None:
    hung, goes_on = threading.Event(), threading.Event()

    def hangs(frame: int) -> None:
        if frame == 20:
            hung.set()
            goes_on.wait(60)

    with running(site.root, {"1.0.0": hangs}):
        assert hung.wait(60)
        time.sleep(0.3)
        told.clear()
        time.sleep(1)
        assert told == []
        goes_on.set()
        until(lambda: "WATCHDOG=1" in told)
