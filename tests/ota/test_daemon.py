"""The service: it updates, notifies systemd, stops cleanly, and yields to requests of the operator."""

from __future__ import annotations

import argparse
import configparser
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.commands import run_robot
from jepa_runtime.commands.parsers import run, update
from jepa_runtime.errors import StorageError
from jepa_runtime.ota import audit_log, config, operator_requests, robot, state
from jepa_runtime.ota import daemon as service
from jepa_runtime.ota.config import HANG_S
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.util import atomic_files
from tests.conftest import ROOT
from tests.errors import code
from tests.ota.fleets import Daemon, Fleet, edit, until
from tests.ota.robots import Site, settings
from tests.ota.servers import FaultServer, trickle

UNITS = ROOT / "firmware_configs" / "common" / "etc" / "systemd" / "system"
UPDATES, SERVES = UNITS / "jepa-update.service", UNITS / "jepa-run.service"


@pytest.fixture
def fleet(tmp_path: Path, toy_bundle: Path) -> Fleet:
    fleet = Fleet(tmp_path, toy_bundle)
    assert fleet.provision() == 0
    return fleet


@pytest.fixture
def daemon(fleet: Fleet, tmp_path: Path) -> Iterator[Daemon]:
    started = Daemon(fleet.root, tmp_path / "notify")
    yield started
    started.close()


def stored_state(fleet: Fleet) -> State:
    return state.load(fleet.root / robot.STATE)


def test_daemon_updates_notifies_systemd_and_stops_cleanly(fleet: Fleet, daemon: Daemon) -> None:
    assert daemon.received("READY=1")
    # Nothing is published under the pointer's name yet.
    assert daemon.received("STATUS=failed; active model: 1.0.0")
    assert daemon.received("WATCHDOG=1")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.received("STOPPING=1")
    _, log = daemon.process.communicate(timeout=60)
    assert daemon.process.returncode == 0
    assert log.splitlines()[-1] == "stopped" and "latest.json" in log


def test_daemon_stopped_during_an_update_leaves_it_to_the_next_process(fleet: Fleet, tmp_path: Path) -> None:
    fleet.publish(fleet.bundles[1], 1)
    started = Daemon(fleet.root, tmp_path / "notify")
    until(lambda: stored_state(fleet).phase is Phase.PROBE)
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(60) == 0
    # The step in progress ends first.
    assert stored_state(fleet).phase in (Phase.PROBE, Phase.SHADOW) and stored_state(fleet).stopped
    started.close()
    assert fleet.run("apply") == 0
    assert fleet.version == "2.0.0"


def test_daemon_stop_does_not_wait_for_a_slow_server(fleet: Fleet, tmp_path: Path) -> None:
    name = "metadata/2.root.json"
    (fleet.repository.folder / name).write_bytes(b" " * 100_000)
    with FaultServer(fleet.repository.folder) as server:
        server.faults[name] = trickle(0.5, 600)
        edit(fleet.root, repository=server.url)
        started = Daemon(fleet.root, tmp_path / "notify")
        until(lambda: (name, None) in server.requests)
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(20) == 0
    started.close()
    assert stored_state(fleet).phase is Phase.CHECK and stored_state(fleet).stopped


def test_waiting_daemon_allows_status_pin_approve_and_rollback(
    fleet: Fleet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(fleet.root, approval=True, poll_s=1.0)
    fleet.publish(fleet.bundles[1], 1)
    started = Daemon(fleet.root, tmp_path / "notify")
    try:
        until(lambda: stored_state(fleet).waits > 0)
        capfd.readouterr()
        assert fleet.run("status") == 0
        output = " ".join(capfd.readouterr().out.split())
        assert "armed toy 2.0.0, release 1 of stable (release 1 (2.0.0) waits for approval" in output
        assert fleet.run("pin") == 0 and stored_state(fleet).phase is Phase.IDLE
        until(lambda: "is offered, but this robot is pinned" in stored_state(fleet).reason)
        assert fleet.run("unpin") == 0
        until(lambda: stored_state(fleet).waits > 0)
        assert fleet.run("approve") == 0
        until(lambda: stored_state(fleet).result == "updated")
        assert fleet.version == "2.0.0"
        assert fleet.run("rollback") == 0
        assert fleet.version == "1.0.0"
        until(lambda: stored_state(fleet).result == "rejected")
    finally:
        started.close()


class Waiting:
    """A robot whose service waits in its own process for the approval of 3.0.0; 2.0.0 is active."""

    def __init__(self, site: Site, bundles: list[Bundle]) -> None:
        site.repository.publish(bundles[1], 2)
        site.update()
        config.save(site.root / robot.CONFIG, settings(approval=True))
        site.repository.publish(bundles[2], 3)
        self.site = site
        self.pid = os.fork()
        if not self.pid:
            self._serve()
        until(lambda: self.state.phase is Phase.ARMED)

    def _serve(self) -> None:
        robot._SLICE_S = 0.05
        opened = partial(self.site.opened, clock=time, now=robot.utc_now)
        try:
            round_ = service.polling_round(opened, lambda: 1e6, robot.no_op)
            service.run(round_, stopping=Event(), log=robot.no_op, root=self.site.root)
        finally:
            os._exit(1)

    @property
    def root(self) -> Path:
        return self.site.root

    @property
    def state(self) -> State:
        return state.load(self.root / robot.STATE)

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


@pytest.fixture
def waiting(site: Site, bundles: list[Bundle]) -> Iterator[Waiting]:
    started = Waiting(site, bundles)
    yield started
    started.kill()


def test_approval_reaches_the_daemon_immediately(waiting: Waiting) -> None:
    assert operator_requests.approve(waiting.root).phase is Phase.ARMED
    until(lambda: waiting.state.result == "updated" and waiting.state.phase is Phase.IDLE)
    assert waiting.site.version == "3.0.0" and not waiting.state.approved


@pytest.mark.parametrize("pinned", [True, False], ids=["pin", "cancel"])
def test_dropped_update_is_not_started_again_in_the_same_round(waiting: Waiting, pinned: bool) -> None:
    if pinned:
        dropped = operator_requests.pin(waiting.root, pinned=True)
    else:
        dropped = operator_requests.cancel(waiting.root, "not on a Friday")
    assert (dropped.phase, dropped.result, dropped.pinned) == (Phase.IDLE, "unchanged", pinned)
    time.sleep(0.5)
    assert waiting.state == dropped
    assert waiting.site.version == "2.0.0"


def test_rollback_does_not_wait_for_a_waiting_update(waiting: Waiting) -> None:
    state = operator_requests.rollback(waiting.root, "it drifts")
    assert (state.result, state.phase, waiting.site.version) == ("rolled_back", Phase.IDLE, "1.0.0")
    time.sleep(0.5)
    assert waiting.state == state


def test_operator_requests_are_served_while_an_update_waits_and_it_continues(waiting: Waiting) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(operator_requests.pin, waiting.root, pinned=False) for _ in range(20)]
    assert all(one.result().phase is Phase.ARMED for one in done)
    operator_requests.approve(waiting.root)
    until(lambda: waiting.state.result == "updated")
    messages = [
        entry.event for entry in audit_log.AuditLog(waiting.root / robot.AUDIT, robot.utc_now).entries()
    ]
    assert messages.count("unpinned") == 20


def test_killed_daemon_releases_the_lock(waiting: Waiting) -> None:
    os.kill(waiting.pid, signal.SIGSTOP)
    with pytest.raises(StorageError, check=code("storage.locked")):
        operator_requests.cancel(waiting.root, "too slow", wait_s=0.2)
    waiting.kill()
    assert operator_requests.cancel(waiting.root, "it hung", wait_s=10).reason == "it hung"


def test_round_that_yields_is_called_again_without_a_pause_and_none_ends_the_loop(tmp_path: Path) -> None:
    calls: list[str] = []
    turn = ExitStack()

    def round_(heartbeat: service.Alive) -> float | None:
        calls.append("wanted" if atomic_files.is_lock_requested(tmp_path / robot.LOCK) else "called")
        if len(calls) == 1:
            turn.enter_context(atomic_files.locked(tmp_path / robot.LOCK, purpose="another", wait_s=1))
            threading.Timer(0.2, turn.close).start()
            heartbeat()
            calls.append("worked on without the lock")
        if len(calls) == 2:
            heartbeat()
            return 0.01
        return None

    service.run(round_, stopping=Event(), log=robot.no_op, root=tmp_path)
    assert calls == ["called"] * 3


def read(unit: Path) -> tuple[configparser.SectionProxy, argparse.Namespace]:
    """Return the service section of a unit, and its command as parsed by the code."""
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read(unit)
    reported = parsed["Service"]
    command = reported["ExecStart"].split()
    assert Path(command[0]).name == "jepa-runtime"
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    update.add_parser(subparsers)
    run.add_parser(subparsers)
    return reported, parser.parse_args(command[1:])


def test_systemd_units_agree_with_the_code_and_each_other() -> None:
    (updates, daemon), (active, command) = read(UPDATES), read(SERVES)
    assert float(updates["WatchdogSec"]) == HANG_S
    assert (updates["Type"], active["Type"]) == ("notify", "notify")
    assert float(active["WatchdogSec"]) > run_robot._SILENT_S
    assert float(active["TimeoutStartSec"]) == run_robot._OPENING_S
    assert (daemon.action, daemon.robot) == ("daemon", Path("/var/lib") / updates["StateDirectory"])
    # The server only reads the folder of updates; updates contact it over a socket.
    assert command.robot == daemon.robot
    assert (active["User"], active["Group"]) == ("jepa-run", updates["User"])
    assert "StateDirectory" not in active and "CacheDirectory" not in active
    assert active["ReadWritePaths"] == updates["ReadWritePaths"] == "-/var/lib/jepa-edge-run"
    assert "AF_UNIX" in updates["RestrictAddressFamilies"].split()


def test_daemon_without_progress_exits_and_reports_where_it_hung() -> None:
    program = (
        "import threading, time\n"
        "from jepa_runtime.ota import daemon\n"
        "daemon.HANG_S = 0.3\n"
        "with daemon.heartbeat_watchdog(threading.Event()) as heartbeat:\n"
        "    for _ in range(3):\n"
        "        heartbeat()\n"
        "        time.sleep(0.2)\n"
        "    print('lives', flush=True)\n"
        "    time.sleep(60)\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == "lives\n"
    assert 'File "<string>", line 9' in done.stderr
    assert time.monotonic() - began < 30
