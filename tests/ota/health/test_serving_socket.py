"""The serving process without ROS: requests of updates to it, and reports about a crashed one."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import ReleaseRejectedError, StorageError, UpdateError
from jepa_runtime.ota.health import serving_socket
from jepa_runtime.ota.health.serving_interface import Health
from jepa_runtime.ota.health.serving_socket import (
    HOLD,
    SOCKET,
    LocalServing,
    ServingReport,
    listen,
    send_report,
)
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.storage.slots import SlotStore
from tests.errors import code
from tests.ota.fleets import until
from tests.ota.robots import Died, Site, dies_in


@contextmanager
def running_server(root: Path, *, at_work: str = "", **fields: object) -> Iterator[list[ServingReport]]:
    """Serve from ``root`` and report the last given health; crash if the block raises.

    Args:
        at_work: The model that it serves or opens, if the health does not contain it.
    """
    ending = threading.Event()
    with listen(root) as server_socket:
        server_socket.server.settimeout(0.01)
        messages = [replace(server_socket.idle_report, **fields)]  # type: ignore[arg-type]
        server_socket.blame(at_work or messages[0].serves or "0" * 64)

        def serve() -> None:
            while not ending.is_set():
                with suppress(TimeoutError):
                    send_report(server_socket.server.accept()[0], messages[-1])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield messages
        finally:
            ending.set()
            thread.join()


def crashed_server(root: Path) -> None:
    """Serve from ``root`` and crash."""
    with suppress(Died), running_server(root, serves="0" * 64):
        raise Died


@pytest.fixture
def serving(site: Site) -> LocalServing:
    return LocalServing(site.root, gone_s=0.3)


def slot(site: Site, bundle: Bundle) -> Path:
    return SlotStore(site.root).folder(bundle.sha256)


def test_swap_without_any_server_sends_no_request(site: Site, bundles: list[Bundle]) -> None:
    serving, began = LocalServing(site.root), time.monotonic()
    serving.swap(slot(site, bundles[1]))
    assert serving.health() == Health()
    (site.root / HOLD).touch()
    assert serving.health() == Health(may_switch=False)
    assert time.monotonic() - began < 5


def test_cleanly_stopped_server_is_no_failure_and_is_awaited(
    site: Site, serving: LocalServing, bundles: list[Bundle]
) -> None:
    with running_server(site.root, serves=bundles[0].sha256):
        assert serving.health() == Health(serves=bundles[0].sha256)
    assert not (site.root / SOCKET).exists()
    health = serving.health()
    assert (health.serves, health.failure, health.may_switch) == ("", "", False)
    assert "the serving process has ended: start it" in health.absent
    with pytest.raises(UpdateError, check=code("serving.gone")):
        serving.swap(slot(site, bundles[1]))
    serving.swap(slot(site, bundles[0]))
    with running_server(site.root, serves=bundles[1].sha256):
        assert serving.health() == Health(serves=bundles[1].sha256)


def test_health_right_after_boot_waits_for_a_starting_server(
    site: Site, serving: LocalServing, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_server(site.root):
        pass
    monkeypatch.setattr(serving_socket, "_STARTING_S", 1e9)
    late = LocalServing(site.root, gone_s=30)
    with ExitStack() as stack:
        start = threading.Timer(
            0.3, lambda: stack.enter_context(running_server(site.root, serves=bundles[1].sha256))
        )
        start.start()
        assert late.health() == Health(serves=bundles[1].sha256)
        start.join()
    assert serving.health() == Health(), "the wait is limited"
    monkeypatch.setattr(serving_socket, "_STARTING_S", 0.0)
    began = time.monotonic()
    assert LocalServing(site.root).health() == Health() and time.monotonic() - began < 5


def test_server_is_asked_to_swap_and_may_refuse(
    site: Site, serving: LocalServing, bundles: list[Bundle]
) -> None:
    with running_server(site.root, serves=bundles[1].sha256) as reports:
        serving.swap(slot(site, bundles[1]))
        assert serving.health() == Health(serves=bundles[1].sha256)
        reports.append(replace(reports[0], refused=bundles[2].sha256, reason="no such device"))
        with pytest.raises(ReleaseRejectedError, check=code("serving.cannot_open")):
            serving.swap(slot(site, bundles[2]))
        reports.append(replace(reports[0], failure="it computes NaN or infinity", idle=True))
        assert (serving.health().failure, serving.health().idle) == ("it computes NaN or infinity", True)
        (site.root / HOLD).touch()
        assert not serving.health().may_switch


def test_swap_that_may_still_succeed_is_awaited(
    site: Site, serving: LocalServing, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, expected = bundles[0].sha256, bundles[1].sha256
    with running_server(
        site.root, serves=other, refused=expected, reason="no memory", passing=True
    ) as reports:
        monkeypatch.setattr(serving_socket, "_RETRY_TIMEOUT_S", 0.3)
        with pytest.raises(UpdateError, check=code("serving.not_opened")) as raised:
            serving.swap(slot(site, bundles[1]))
        assert not isinstance(raised.value, ReleaseRejectedError)
        monkeypatch.setattr(serving_socket, "_RETRY_TIMEOUT_S", 30)
        reports.append(replace(reports[0], refused=bundles[2].sha256, passing=False))
        later = threading.Timer(0.3, lambda: reports.append(replace(reports[0], serves=expected, refused="")))
        later.start()
        serving.swap(slot(site, bundles[1]))
        reports.append(replace(reports[0], refused=""))
        monkeypatch.setattr(serving_socket, "_OPEN_TIMEOUT_S", 0.3)
        with pytest.raises(UpdateError, check=code("serving.not_opened")):
            serving.swap(slot(site, bundles[1]))


def test_server_crash_is_a_failure_even_after_a_restart_with_the_same_pid(
    site: Site, serving: LocalServing, bundles: list[Bundle]
) -> None:
    with suppress(Died), running_server(site.root, serves=bundles[1].sha256):
        serving.swap(slot(site, bundles[1]))
        raise Died
    with running_server(site.root) as reports:
        health = serving.health()
        assert "died, and was restarted" in health.failure and "is opening its model" in health.absent
        reports.append(replace(reports[0], serves=bundles[1].sha256))
        assert "died, and was restarted" in serving.health().failure, "it is still recorded"
        serving.swap(slot(site, bundles[1]))
        assert serving.health().failure == "", "another switch resets the count"


def test_planned_restart_is_no_crash(site: Site, serving: LocalServing, bundles: list[Bundle]) -> None:
    for _ in range(2):
        with running_server(site.root, serves=bundles[1].sha256):
            assert serving.health() == Health(serves=bundles[1].sha256)


def test_crashed_server_does_not_block_a_rollback(
    site: Site, serving: LocalServing, bundles: list[Bundle]
) -> None:
    with suppress(Died), running_server(site.root, serves=bundles[0].sha256):
        serving.health()
        raise Died
    health = serving.health()
    assert (health.serves, health.may_switch, health.failure) == ("", True, health.absent)
    assert "the serving process died" in health.failure and "jepa-runtime run --robot" in health.failure
    (site.root / HOLD).touch()
    assert not serving.health().may_switch
    serving.swap(slot(site, bundles[0]))


def test_server_killed_by_its_model_rejects_it_and_another_may_fix_it(
    site: Site, serving: LocalServing, bundles: list[Bundle]
) -> None:
    with suppress(Died), running_server(site.root, at_work=bundles[1].sha256):
        serving.health()
        raise Died
    with pytest.raises(ReleaseRejectedError, check=code("serving.died")):
        serving.swap(slot(site, bundles[1]))
    serving.swap(slot(site, bundles[2]))
    assert serving.health().failure == "", "another model crashed"


def test_server_that_cannot_open_the_good_model_does_not_block_the_fix(
    site: Site, serving: LocalServing
) -> None:
    with running_server(site.root):
        assert not serving.health().may_switch, "it may still succeed"
    crashed_server(site.root)
    with running_server(site.root):
        health = serving.health()
        assert health.may_switch and "is opening its model" in health.absent


def test_server_that_crashes_repeatedly_while_opening_a_model_rejects_it(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving, ending = LocalServing(site.root, gone_s=5), threading.Event()

    def loop() -> None:
        while not ending.is_set():
            with suppress(Died), running_server(site.root, at_work=bundles[1].sha256):
                time.sleep(0.3)
                raise Died

    dying = threading.Thread(target=loop)
    dying.start()
    until(lambda: (site.root / SOCKET).exists())
    try:
        with pytest.raises(ReleaseRejectedError, check=code("serving.died")):
            serving.swap(slot(site, bundles[1]))
    finally:
        ending.set()
        dying.join()


def test_server_that_crashed_once_while_opening_a_model_may_succeed_after_a_restart(
    site: Site, bundles: list[Bundle]
) -> None:
    serving, expected = LocalServing(site.root, gone_s=5), bundles[1].sha256
    with running_server(site.root, serves=bundles[0].sha256):
        serving.health()
    with suppress(Died), running_server(site.root, at_work=expected):
        raise Died
    with running_server(site.root, at_work=expected) as reports:
        assert reports[0].blamed == expected
        later = threading.Timer(0.5, lambda: reports.append(replace(reports[0], serves=expected)))
        later.start()
        serving.swap(slot(site, bundles[1]))
        later.join()


def test_planned_restarts_while_opening_do_not_reject_the_model(site: Site, bundles: list[Bundle]) -> None:
    serving, expected = LocalServing(site.root, gone_s=5), bundles[1].sha256
    with ExitStack() as stack:

        def restarts() -> None:
            for _ in range(3):
                with running_server(site.root, at_work=expected):
                    time.sleep(0.3)
            stack.enter_context(running_server(site.root, serves=expected))

        restarting = threading.Thread(target=restarts)
        restarting.start()
        until(lambda: (site.root / SOCKET).exists())
        try:
            serving.swap(slot(site, bundles[1]))
        finally:
            restarting.join()


def test_server_crashed_long_ago_does_not_block_updates_but_is_monitored_before_the_commit(
    site: Site, bundles: list[Bundle]
) -> None:
    """The serving process may have crashed because of its model: the update is the fix."""
    crashed_server(site.root)
    health = LocalServing(site.root, gone_s=0.2).health()
    assert (health.failure, health.may_switch, health.serves) == ("", True, "")
    assert "the serving process died, or the machine stopped" in health.absent
    site.repository.publish(bundles[1], 2)
    waits: list[str] = []
    with ExitStack() as stack:

        def tell(state: State, why: str) -> None:
            if state.phase is not Phase.OBSERVE or not why:
                return
            waits.append(why)
            if len(waits) == 5:
                stack.enter_context(running_server(site.root, serves=bundles[1].sha256))

        state = site.update(serving=LocalServing(site.root, gone_s=0), on_state=tell)
    assert state.result == "updated" and all("the serving process died" in why for why in waits)
    assert site.clock.seconds >= 4 * 30


def test_power_cut_is_no_server_crash(site: Site, serving: LocalServing, bundles: list[Bundle]) -> None:
    with suppress(Died), running_server(site.root, serves=bundles[0].sha256):
        serving.health()
        raise Died
    (site.root / "serving/what").write_text(f"another-boot {bundles[0].sha256}")
    with running_server(site.root, serves=bundles[0].sha256):
        assert serving.health().failure == ""


def test_hanging_server_is_reported_and_cannot_roll_back(
    site: Site, serving: LocalServing, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_socket, "_REPLY_TIMEOUT_S", 0.1)
    with listen(site.root):
        with pytest.raises(UpdateError, check=code("serving.no_response")):
            serving.health()
        with pytest.raises(UpdateError, check=code("serving.no_response")):
            serving.swap(slot(site, bundles[0]))


def test_later_server_version_with_more_fields_is_read(site: Site, serving: LocalServing) -> None:
    with listen(site.root) as server_socket:

        def serve() -> None:
            with server_socket.server.accept()[0] as connection:
                connection.sendall(json.dumps({"token": "t", "serves": "0" * 64, "later": 1}).encode())

        later = threading.Thread(target=serve)
        later.start()
        assert serving.health() == Health(serves="0" * 64)
        later.join()


def test_waiting_for_a_server_notifies_the_watchdog(site: Site, bundles: list[Bundle]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    serving = LocalServing(site.root, stop, gone_s=30)
    with running_server(site.root, serves=bundles[0].sha256), pytest.raises(KeyboardInterrupt):
        serving.swap(slot(site, bundles[1]))
    crashed_server(site.root)
    with pytest.raises(KeyboardInterrupt):
        serving.health()


def test_second_server_or_missing_folder_is_an_error(site: Site, tmp_path: Path) -> None:
    with listen(site.root):
        twice = pytest.raises(StorageError, check=code("storage.locked"))
        with twice, listen(site.root):
            pass
        assert (site.root / SOCKET).exists()
    with pytest.raises(StorageError, check=code("storage.io_error")), listen(tmp_path / "none"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
def test_socket_of_another_account_is_reported(site: Site) -> None:
    with running_server(site.root, serves="0" * 64):
        shutil.chown(site.root / SOCKET, 1)
        for folder in (site.root, *site.root.parents):
            if folder.stat().st_uid == 0 and folder != Path("/"):
                folder.chmod(folder.stat().st_mode & 0o7777 | 0o055)
        groups = os.getgroups()
        os.setgroups([])
        os.setegid(65534)
        os.seteuid(65534)
        try:
            with pytest.raises(UpdateError, check=code("serving.permission")):
                LocalServing(site.root).health()
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)


def test_folder_with_a_long_path_has_a_socket(tmp_path: Path, bundles: list[Bundle]) -> None:
    root = tmp_path / ("long" * 40)
    root.mkdir()
    with running_server(root, serves=bundles[0].sha256, failure="\ud800" * 100_000):
        health = LocalServing(root).health()
        assert health.serves == bundles[0].sha256 and len(health.failure) == 1000


def test_update_after_a_suspend_is_not_committed_unmonitored(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    with running_server(site.root, serves=bundles[1].sha256), pytest.raises(Died):
        site.update(serving=LocalServing(site.root), on_state=dies_in(Phase.OBSERVE))
    looks = 0

    def tell(*_: object) -> None:
        nonlocal looks
        looks += 1
        if looks > 5:
            raise Died

    with pytest.raises(Died):
        site.update(serving=LocalServing(site.root, gone_s=0), on_state=tell)
    assert site.good == "1.0.0"
    with running_server(site.root, serves=bundles[1].sha256):
        assert site.update(serving=LocalServing(site.root)).result == "updated"
    assert site.good == "2.0.0"
