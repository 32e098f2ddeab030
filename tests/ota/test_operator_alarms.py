"""Alarms that need an operator: no progress, files of another account, a crashing active model."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import TrustError
from jepa_runtime.ota import daemon, robot, state
from jepa_runtime.ota.health import serving_socket
from jepa_runtime.ota.health.serving_socket import LocalServing
from jepa_runtime.ota.operator_alarms import MAX_CRASHES, MAX_FAILED_CHECKS, alarms
from jepa_runtime.ota.state import State
from jepa_runtime.ota.storage.slots import SlotStore
from tests.ota.fleets import Fleet, edit
from tests.ota.health.test_serving_socket import running_server
from tests.ota.robots import Died, Site


def stored_state(root: Path) -> State:
    return state.load(root / robot.STATE)


def test_repository_untrusted_for_long_raises_an_alarm_until_it_is_trusted_again(
    site: Site, bundles: list[Bundle]
) -> None:
    site.repository.publish(bundles[0], 1)
    site.update()
    site.repository.error = TrustError("timestamp.json is expired")
    for number in range(1, MAX_FAILED_CHECKS + 1):
        assert alarms(site.root, stored_state(site.root)) == []
        assert site.update().failed_checks == number
    (alarm,) = alarms(site.root, stored_state(site.root))
    assert "could not be used in the last 10 checks (last success: 2026-03-01 12:00 UTC)" in alarm
    assert "timestamp.json is expired" in alarm
    site.repository.error = None
    site.update()
    assert alarms(site.root, stored_state(site.root)) == []


def test_status_command_reports_an_alarm_to_monitoring(
    tmp_path: Path, toy_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet(tmp_path, toy_bundle)
    assert fleet.provision() == 0
    capfd.readouterr()
    assert fleet.run("status", "--json", "-") == 0
    assert json.loads(capfd.readouterr().out)["alarms"] == []
    path = fleet.root / robot.STATE
    stale = State(result="failed", reason="it is expired", failed_checks=MAX_FAILED_CHECKS)
    state.save(path, stale)
    assert fleet.run("status", "--json", "-") == 5
    output = capfd.readouterr()
    (alarm,) = json.loads(output.out)["alarms"]
    assert "(last success: never): it is expired" in alarm and "ALARM: the repository" in output.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another account")
@pytest.mark.parametrize("name", ["audit.log", "meta/timestamp.json", "lock"])
def test_file_that_updates_cannot_change_raises_an_alarm(site: Site, name: str) -> None:
    """Leave files of another owner, as an update run by root would."""
    path = site.root / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert alarms(site.root, stored_state(site.root)) == []
    os.chown(path, 1, 1)
    (alarm,) = alarms(site.root, stored_state(site.root))
    assert f"{path}: belongs to daemon" in alarm and f"`sudo chown -R root: {site.root}`" in alarm


def crash(root: Path, sha256: str, times: int = 1) -> None:
    for _ in range(times):
        with suppress(Died), running_server(root, serves=sha256):
            raise Died


@pytest.fixture
def updated(site: Site, bundles: list[Bundle]) -> Site:
    """Return a robot with the committed model 2.0.0 and the earlier one 1.0.0."""
    site.repository.publish(bundles[1], 2)
    assert site.update().result == "updated"
    return site


def test_active_model_that_crashes_repeatedly_raises_an_alarm(updated: Site, bundles: list[Bundle]) -> None:
    active, due = bundles[1].sha256, daemon.crash_detector(updated.root)
    crash(updated.root, active, MAX_CRASHES)
    assert alarms(updated.root, stored_state(updated.root)) == [] and not due()
    crash(updated.root, active)
    (alarm,) = alarms(updated.root, stored_state(updated.root))
    assert "toy 2.0.0, the active model, has crashed 5 times since boot" in alarm
    assert due() and not due(), "the next round starts immediately, and only once"
    updated.update(serving=LocalServing(updated.root, gone_s=0.1))
    assert updated.version == "2.0.0", "no rollback happens unless it is configured"
    with running_server(updated.root, serves=active):
        pass
    with running_server(updated.root, serves=active):
        assert alarms(updated.root, stored_state(updated.root)) == [], "it was stopped and restarted"


def test_active_model_that_crashes_is_replaced_where_configured(updated: Site, bundles: list[Bundle]) -> None:
    edit(updated.root, rollback_on_crashes=True)
    crash(updated.root, bundles[1].sha256, MAX_CRASHES + 1)
    with updated.opened(serving=LocalServing(updated.root, gone_s=0.1)) as client:
        ended = client.update()
    assert updated.version == updated.good == "1.0.0"
    assert "has crashed 5 times" in ended.rejections[bundles[1].sha256].reason
    assert alarms(updated.root, stored_state(updated.root)) == []


def test_crashes_of_another_boot_or_model_are_not_counted(
    updated: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(updated.root, bundles[0].sha256, MAX_CRASHES + 1)
    assert alarms(updated.root, stored_state(updated.root)) == []
    crash(updated.root, bundles[1].sha256, MAX_CRASHES + 1)
    assert alarms(updated.root, stored_state(updated.root)) != []
    monkeypatch.setattr(serving_socket, "boot_id", lambda: "another")
    assert alarms(updated.root, stored_state(updated.root)) == []


def test_active_model_that_served_for_an_hour_resets_its_crash_count(
    updated: Site, bundles: list[Bundle]
) -> None:
    active = bundles[1].sha256
    crash(updated.root, active, MAX_CRASHES)
    with serving_socket.listen(updated.root) as server_socket:
        server_socket.blame(active)
        assert alarms(updated.root, stored_state(updated.root)) != []
        server_socket.forgive(active)
        assert alarms(updated.root, stored_state(updated.root)) == []
    assert SlotStore(updated.root).current() == active


def test_failed_check_is_repeated_with_increasing_delay(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "jitter", lambda: 1.0)
    site.repository.publish(bundles[0], 1)
    site.repository.error = TrustError("the clock is not set yet")
    round_ = daemon.polling_round(site.opened, lambda: 1000.0, robot.no_op)
    pauses = [round_(robot.no_op) for _ in range(6)]
    assert pauses == [60.0, 120.0, 240.0, 480.0, 960.0, 1000.0]
    site.repository.error = None
    assert round_(robot.no_op) == 1000.0
    site.repository.error = TrustError("again")
    assert round_(robot.no_op) == 60.0
    (site.root / robot.STATE).unlink()
    assert round_(robot.no_op) == 120.0, "also without a stored state"
