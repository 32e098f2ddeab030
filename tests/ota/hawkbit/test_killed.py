"""A process is killed at any point of the protocol: the next one finishes the deployment, once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.ota.hawkbit.ddi_client import DdiClient
from jepa_runtime.util import atomic_files
from tests.ota.campaigns.scene import remove
from tests.ota.hawkbit.conftest import Robot
from tests.ota.hawkbit.ddi_server import DdiServer


class _Killed(BaseException):
    pass


def killed(
    at: int, *, after: bool, what: tuple[Any, str], monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]
) -> bool:
    """Return whether ``work`` was stopped, as by a kill, before or after call number ``at`` of ``what``."""
    count, (owner, name) = 0, what
    real = getattr(owner, name)

    def counted(*args: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        if count == at and not after:
            raise _Killed
        result = real(*args, **more)
        if count == at:
            raise _Killed
        return result

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, counted)
        try:
            work()
        except _Killed:
            return True
    return False


CASES = ["success", "rejected", "window", "cancelled", "confirmed"]


class Life:
    """Run a deployment from its order to its end, in two processes."""

    def __init__(self, folder: Path, bundles: list[Bundle], ddi: DdiServer, case: str) -> None:
        self.robot, self.ddi, self.case = Robot(folder, bundles[0], ddi), ddi, case
        self.good_at_success: list[str] = []
        ddi.on_success = lambda: self.good_at_success.append(self.robot.good)
        ddi.confirms = case == "confirmed"
        self.robot.gate.bad = {"2.0.0": "probe"} if case == "rejected" else {}
        self.robot.repository.publish(bundles[1], 2)
        self.action = ddi.assign("2.0.0", window=False if case in ("window", "cancelled") else None)

    def live(self) -> None:
        self.robot.rounds(2)
        if self.case == "cancelled" and self.action.active and not self.action.stops:
            self.ddi.cancel(self.action)
        if self.case == "window":
            self.action.window = True
        self.robot.rounds(2)

    def check(self) -> None:
        ended = [messages[:2] for messages in self.action.reported if messages[0] == "closed"]
        result = self.action.status, self.robot.version, ended
        if self.case == "cancelled":
            assert result == ("canceled", "1.0.0", [])
        elif self.case == "rejected":
            assert result == ("error", "1.0.0", [("closed", "failure")])
        else:
            assert result == ("finished", "2.0.0", [("closed", "success")])
            assert self.good_at_success == ["2.0.0"], "no success is reported before the commit"
        fetched = self.robot.repository.fetched
        assert len(fetched) <= len(set(fetched)) + 1, "only the interrupted file is fetched again"


def lives(
    folder: Path,
    bundles: list[Bundle],
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    what: tuple[Any, str],
    step: int,
) -> None:
    # The result of a kill does not depend on earlier content of the disk.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for after in (False, True):
        at, was_killed = 1, True
        while was_killed:
            with DdiServer() as ddi:
                life = Life(folder / f"{after} {at}", bundles, ddi, case)
                was_killed = killed(at, after=after, what=what, monkeypatch=monkeypatch, work=life.live)
                life.robot.restart()
                life.live()
                life.check()
            remove(life.robot.root)
            at += step
        assert at > 10


@pytest.mark.parametrize(
    "what", [(DdiClient, "_request"), (atomic_files, "write")], ids=["requests", "writes"]
)
def test_agent_killed_at_sampled_points_leaves_an_order_to_the_next_process(
    tmp_path: Path, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch, what: tuple[Any, str]
) -> None:
    lives(tmp_path, bundles, monkeypatch, "success", what, 4)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "what", [(DdiClient, "_request"), (atomic_files, "write")], ids=["requests", "writes"]
)
@pytest.mark.parametrize("case", CASES)
def test_agent_killed_at_every_request_and_write_leaves_an_order_to_the_next_process(
    tmp_path: Path, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch, case: str, what: tuple[Any, str]
) -> None:
    lives(tmp_path, bundles, monkeypatch, case, what, 1)
