"""``jepa-runtime run --robot``: reactions to changes of a robot's folder and to faults of its models."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.commands import run_robot
from jepa_runtime.errors import BackendError, DeviceLostError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.ota import operator_requests
from jepa_runtime.ota.health.serving_socket import LocalServing, listen
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.storage.slots import SlotStore
from tests.ota.fleets import edit, until
from tests.ota.robots import Died, Site
from tests.ota.serving_processes import Happens, running, served, update


@pytest.fixture
def site(tmp_path: Path, bundles: list[Bundle]) -> Site:
    site = Site(tmp_path / "robot", bundles[0], health_window_s=2.0)
    site.repository.publish(bundles[1], 2)
    return site


def fails(_: int) -> None:
    raise RuntimeError("device lost")


def fails_every_other_frame(frame: int) -> None:
    if frame % 2:
        raise RuntimeError("device lost")


def is_late(_: int) -> None:
    time.sleep(0.02)


def test_new_model_becomes_active_and_is_rolled_back_manually(site: Site, bundles: list[Bundle]) -> None:
    with running(site.root) as pipeline:
        assert update(site).result == "updated"
        assert served(site) == site.version == site.good == "2.0.0"
        operator_requests.rollback(site.root, "it drifts")
        assert served(site) == site.version == "1.0.0"
        until(lambda: pipeline.stats().processed > 20)
        assert pipeline.stats().failed == 0
    assert site.gate.calls == ["check", "probe", "shadow"], "the active model is monitored, not probed again"


@pytest.mark.parametrize(
    ("happens", "rate_hz", "deadline_ms", "why"),
    [
        (fails, 2.0, 1000.0, r"(\d+) of \1 frames failed: RuntimeError: device lost"),
        (fails_every_other_frame, 50.0, 1000.0, r"\d+ of \d+ frames failed: RuntimeError: device lost"),
        (is_late, 20.0, 10.0, r"\d+ of \d+ frames exceeded the latency budget of 10 ms"),
    ],
)
def test_model_with_poor_service_is_rolled_back(
    site: Site, happens: Happens, rate_hz: float, deadline_ms: float, why: str
) -> None:
    with running(site.root, {"2.0.0": happens}, rate_hz=rate_hz, deadline_ms=deadline_ms):
        time.sleep(0.5)
        state = update(site)
        assert state.result == "rejected" and re.search(why, state.reason), state.reason
        assert served(site) == site.version == "1.0.0"


def test_model_that_hangs_is_rolled_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(site.root, health_window_s=30.0)
    monkeypatch.setattr(run_robot, "_SILENT_S", 1.0)
    going_on = threading.Event()

    def hangs(frame: int) -> None:
        if frame > 12:
            going_on.wait(4)

    with running(site.root, {"2.0.0": hangs}):
        state = update(site)
        going_on.set()
        assert state.result == "rejected" and "images arrive, but none was processed for 1 s" in state.reason
        assert served(site) == site.version == "1.0.0"


@pytest.mark.slow
def test_process_with_a_model_hanging_forever_exits_and_the_next_serves_the_good_model(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(site.root, health_window_s=30.0)
    monkeypatch.setattr(run_robot, "_SILENT_S", 1.0)
    monkeypatch.setattr("jepa_runtime.serving.pipeline._TIMEOUT_S", 0.3)
    going_on, ends = threading.Event(), []

    def hangs(frame: int) -> None:
        if frame > 12:
            going_on.wait(60)

    def end(why: str) -> None:
        ends.append(why)
        going_on.set()

    with running(site.root, {"2.0.0": hangs}, end=end):
        state = update(site)
        until(lambda: bool(ends))
        time.sleep(0.5)
    assert state.result == "rejected" and "images arrive, but none was processed" in state.reason
    assert "the active model hangs, and cannot be replaced" in ends[0]


def test_process_that_lost_its_device_exits(site: Site) -> None:
    ends: list[str] = []

    def loses(_: int) -> None:
        raise DeviceLostError("the GPU failed")

    with running(site.root, {"1.0.0": loses}, end=ends.append):
        until(lambda: bool(ends))
    assert ends[0] == "the GPU failed"


def test_model_opening_at_a_stop_request_is_not_blamed(site: Site) -> None:
    with running(site.root):
        assert update(site).result == "updated"
    store, marker, opening, spared = SlotStore(site.root), site.root / "serving/what", threading.Event(), []
    other = next(slot for slot in store.present() if slot != store.current())

    def slow(version: str) -> None:
        if version == "1.0.0":
            opening.set()
            until(lambda: not marker.read_text())
            spared.append(version)

    with running(site.root, opens=slow):
        store.point("current", other)
        assert opening.wait(20)
    assert spared == ["1.0.0"]


def test_model_that_loses_the_device_while_opening_is_blamed_for_the_exit(site: Site) -> None:
    with running(site.root):
        assert update(site).result == "updated"
    store, blamed = SlotStore(site.root), []
    other = next(slot for slot in store.present() if slot != store.current())

    def loses(version: str) -> None:
        if version == "1.0.0":
            raise DeviceLostError("the GPU failed")

    def end(_: str) -> None:
        blamed.append((site.root / "serving/what").read_text().split()[1])

    with running(site.root, opens=loses, end=end):
        store.point("current", other)
        until(lambda: bool(blamed))
    assert blamed[0] == other


@pytest.mark.slow
def test_restart_after_a_crash_serves_the_good_model_and_does_not_open_the_candidate(site: Site) -> None:
    with running(site.root):
        assert update(site).result == "updated"
    store = SlotStore(site.root)
    store.point("good", next(slot for slot in store.present() if slot != store.current()))
    current = store.current()
    assert current

    def opened_after_crash_of(sha256: str) -> list[str]:
        with suppress(Died), listen(site.root) as server_socket:
            server_socket.blame(sha256)
            raise Died
        opened: list[str] = []
        with running(site.root, opens=opened.append):
            time.sleep(3)
        return opened

    assert opened_after_crash_of(current) == ["1.0.0"]
    assert opened_after_crash_of(store.good() or "") == ["2.0.0"], "it was not the cause"
    store.point("good", current)
    assert opened_after_crash_of(current) == ["2.0.0"], "it was committed since"


@pytest.mark.slow
def test_model_still_opening_when_the_link_moves_never_serves(site: Site) -> None:
    with running(site.root):
        assert update(site).result == "updated"
    store, active = SlotStore(site.root), []
    first, second = store.current(), next(slot for slot in store.present() if slot != store.current())
    assert first

    def moves_on(version: str) -> None:
        if version == "1.0.0":
            store.point("current", first)

    with running(site.root, opens=moves_on) as pipeline:
        store.point("current", second)
        for _ in range(20):
            active.append(pipeline.model.bundle.sha256)
            time.sleep(0.1)
    assert set(active) == {first}


def test_model_as_fast_as_the_previous_one_stays(site: Site) -> None:
    with running(site.root, {"1.0.0": is_late, "2.0.0": is_late}, rate_hz=20.0, deadline_ms=10.0):
        time.sleep(1.5)
        assert update(site).result == "updated"


def test_single_late_frame_causes_no_rollback(site: Site) -> None:
    def once(frame: int) -> None:
        time.sleep(0.1 if frame == 1 else 0)

    with running(site.root, {"2.0.0": once}, rate_hz=10.0, deadline_ms=50.0):
        assert update(site).result == "updated"


@pytest.mark.slow
def test_model_that_cannot_be_opened_temporarily_is_retried_and_permanently_is_rejected(site: Site) -> None:
    errors = [MemoryError("taken"), MemoryError("taken")]

    def passing(version: str) -> None:
        if version == "2.0.0" and errors:
            raise errors.pop()

    with running(site.root, opens=passing):
        assert update(site).result == "updated"
        operator_requests.rollback(site.root, "by hand")

    def never(version: str) -> None:
        if version == "2.0.0":
            raise BackendError("no such device")

    with running(site.root, opens=never):
        state = update(site, retry_rejected=True)
        assert state.result == "rejected" and "the serving process cannot serve" in state.reason
        assert served(site) == "1.0.0"


def test_rollback_target_unavailable_for_a_while_is_abandoned(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_robot, "_FIRST_PAUSE_S", 0.1)
    with running(site.root) as pipeline:
        assert update(site).result == "updated"
        pipeline.commit()
        errors: list[Exception] = [MemoryError("taken")]
        swap = pipeline.swap

        def shut(open_model: Callable[[], WorldModel]) -> bool:
            if errors:
                raise errors.pop()
            return swap(open_model)

        monkeypatch.setattr(pipeline, "swap", shut)
        state = operator_requests.rollback(site.root, "it drifts")
        assert (state.alarm, served(site), site.version) == ("", "1.0.0", "1.0.0")


@pytest.mark.slow
def test_active_model_is_selected_for_the_next_start_when_the_rollback_is_refused(site: Site) -> None:
    with running(site.root):
        assert update(site).result == "updated"

    def refuses(version: str) -> None:
        if version == "1.0.0":
            raise BackendError("it has nothing in int8")

    with running(site.root, opens=refuses):
        assert "it has nothing in int8" in operator_requests.rollback(site.root, "it drifts").alarm
        assert served(site) == "2.0.0"
    with running(site.root, opens=refuses):
        assert served(site) == "2.0.0"


def test_last_known_good_model_serves_when_the_candidate_cannot_be_opened_at_the_start(site: Site) -> None:
    with running(site.root):
        assert update(site).result == "updated"
    SlotStore(site.root).point("good", SlotStore(site.root).present()[-1])

    def never(version: str) -> None:
        if version == site.version:
            raise BackendError("no such device")

    with running(site.root, opens=never):
        health = LocalServing(site.root).health()
        assert health.serves == SlotStore(site.root).good() != SlotStore(site.root).current()


def test_old_crash_is_not_counted_against_a_new_model(site: Site, bundles: list[Bundle]) -> None:
    with suppress(Died), listen(site.root) as server_socket:
        server_socket.blame(bundles[0].sha256)
        raise Died
    with ExitStack() as stack:
        waits: list[str] = []

        def on_state(state: State, why: str) -> None:
            if state.phase is Phase.OBSERVE and why:
                waits.append(why)
            if len(waits) == 1:
                waits.append("it comes")
                stack.enter_context(running(site.root))

        # Only the awaited events take time here.
        state = site.update(serving=LocalServing(site.root, gone_s=0.0), on_state=on_state)
        assert state.result == "updated"
        assert served(site) == site.good == "2.0.0"


def test_last_known_good_model_that_cannot_be_opened_is_replaced_by_the_fix(site: Site) -> None:
    def damaged(version: str) -> None:
        if version == "1.0.0":
            raise BackendError("no such device")

    ending, opened = threading.Event(), []

    def opens(version: str) -> None:
        opened.append(version)
        damaged(version)

    def supervised() -> None:
        """Restart the process as systemd does."""
        while not ending.is_set():
            with suppress(BackendError), running(site.root, opens=opens):
                ending.wait()
            ending.wait(0.2)

    supervisor = threading.Thread(target=supervised)
    supervisor.start()
    try:
        until(lambda: len(opened) > 1)
        assert update(site).result == "updated"
    finally:
        ending.set()
        supervisor.join()
    assert site.good == "2.0.0" and opened[-1] == "2.0.0"


@pytest.mark.slow
def test_model_that_hangs_while_opening_ends_the_process_once_it_is_deselected(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_robot, "_OPENING_S", 1.0)
    with running(site.root):
        assert update(site).result == "updated"
    store, going_on, ends = SlotStore(site.root), threading.Event(), []
    first, second = store.current(), next(slot for slot in store.present() if slot != store.current())

    def hangs(version: str) -> None:
        if version == "1.0.0":
            going_on.wait(60)

    def end(why: str) -> None:
        ends.append(why)
        going_on.set()

    with running(site.root, opens=hangs, end=end):
        store.point("current", second)
        time.sleep(2.5)
        assert not ends, "it is awaited as long as it is selected"
        store.point("current", first)
        until(lambda: bool(ends))
    assert "hangs" in ends[0]
