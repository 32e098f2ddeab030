"""A candidate that crashes the machine is opened a limited number of times; the serving process counts."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import BackendError, JepaRuntimeError, StorageError
from jepa_runtime.ota import operator_requests, robot, state
from jepa_runtime.ota.health import trial_counter
from jepa_runtime.ota.health.serving_socket import LocalServing
from jepa_runtime.ota.health.trial_counter import MAX_ATTEMPTS, MAX_BOOTS, TrialCounter
from jepa_runtime.ota.operator_alarms import alarms
from jepa_runtime.ota.state import Phase
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.util import atomic_files
from tests.errors import code
from tests.ota.boots import Boot
from tests.ota.fleets import edit, until
from tests.ota.robots import Died, Site, dies_in
from tests.ota.serving_processes import running, served


@pytest.fixture
def switched(site: Site, bundles: list[Bundle]) -> Site:
    """Return a robot whose machine crashed after the switch to 2.0.0, before the observation."""
    site.repository.publish(bundles[1], 2)
    with pytest.raises(Died):
        site.update(on_state=dies_in(Phase.OBSERVE))
    assert (site.version, site.good) == ("2.0.0", "1.0.0")
    return site


def boot(site: Site, number: int, deadly: str = "2.0.0") -> tuple[list[str], int, str]:
    """Return the versions that one boot opens, the exit status of its process, and its report."""
    one = Boot(site.root, number, deadly, duration_s=0.3)
    status = one.wait(60)
    return one.versions, status, one.stderr


@contextmanager
def started(site: Site, number: int, deadly: str) -> Iterator[Boot]:
    """A boot without a crash; at the end of the block its process ends without an error."""
    one = Boot(site.root, number, deadly, duration_s=60.0)
    try:
        yield one
    finally:
        one.terminate()
        status = one.wait(30)
    assert status == 0


def test_candidate_that_crashes_the_machine_is_opened_three_times_then_the_good_model_serves(
    switched: Site,
) -> None:
    """Update without any process but the serving one."""
    boots = [boot(switched, number) for number in range(MAX_ATTEMPTS + 1)]
    assert [opened for opened, _, _ in boots] == [["2.0.0"]] * MAX_ATTEMPTS + [["1.0.0"]]
    assert [status for _, status, _ in boots] == [-9] * MAX_ATTEMPTS + [0]
    assert "the last known good model" in boots[-1][2] and "was opened 3 times in 3 boots" in boots[-1][2]
    state = switched.update(serving=LocalServing(switched.root, gone_s=0.1))
    assert (state.result, switched.version) == ("rejected", "1.0.0") and "in 3 boots" in state.reason


def test_server_that_rejects_a_candidate_reports_the_reason_to_the_update(
    switched: Site, bundles: list[Bundle]
) -> None:
    candidate = bundles[1].sha256
    (switched.root / "serving").mkdir()
    (switched.root / f"serving/{candidate}.attempts").write_text(json.dumps(["a", "b", "b"]))
    with running(switched.root):
        assert served(switched) == "1.0.0"
        with pytest.raises(JepaRuntimeError, check=code("serving.cannot_open")):
            LocalServing(switched.root).swap(SlotStore(switched.root).folder(candidate))


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every write fail as on a full disk."""

    def full(path: Path, content: bytes) -> None:
        raise StorageError(f"{path}: cannot be written: No space left on device", code="storage.full")

    monkeypatch.setattr(atomic_files, "write", full)


def test_attempt_that_cannot_be_recorded_is_not_started(
    switched: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch)
    opened: list[str] = []
    with running(switched.root, opens=opened.append):
        assert opened == ["1.0.0"]


def attempts(site: Site, sha256: str) -> int:
    try:
        return len(json.loads((site.root / f"serving/{sha256}.attempts").read_text()))
    except FileNotFoundError:
        return 0


def test_requested_restarts_and_ordinary_failures_are_no_attempts(
    switched: Site, bundles: list[Bundle]
) -> None:
    candidate = bundles[1].sha256
    for _ in range(MAX_ATTEMPTS + 1):
        with running(switched.root):
            assert served(switched) == "2.0.0" and attempts(switched, candidate) == 1
        assert attempts(switched, candidate) == 0

    def fails(version: str) -> None:
        if version == "2.0.0":
            raise BackendError("no such device")

    with running(switched.root, opens=fails):
        assert attempts(switched, candidate) == 0 and served(switched) == "1.0.0"


def test_candidate_that_served_long_enough_is_no_longer_counted(
    switched: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_counter, "STABLE_S", 0.2)
    store = SlotStore(switched.root)
    candidate = store.current()
    assert candidate
    tried = TrialCounter(store)
    with tried.opening(candidate):
        assert attempts(switched, candidate) == 1
    tried._timer.join()  # type: ignore[union-attr]
    assert attempts(switched, candidate) == 0


def test_rolled_back_candidate_is_retried_by_a_later_update(switched: Site) -> None:
    store = SlotStore(switched.root)
    candidate = store.current()
    assert candidate
    for _ in range(MAX_ATTEMPTS):
        with TrialCounter(store).opening(candidate):
            pass
    with (
        pytest.raises(BackendError, check=code("serving.too_many_attempts")),
        TrialCounter(store).opening(candidate),
    ):
        pass
    operator_requests.rollback(switched.root, "by hand", now=switched.clock.now)
    assert switched.version == "1.0.0" and attempts(switched, candidate) == 0


def test_damaged_attempt_record_is_replaced(switched: Site) -> None:
    store = SlotStore(switched.root)
    candidate = store.current()
    assert candidate
    (switched.root / "serving").mkdir()
    for content in (
        "",
        "[]",
        "{}",
        "1",
        "[" * 5000,
    ):
        (switched.root / f"serving/{candidate}.attempts").write_text(content)
        with TrialCounter(store).opening(candidate):
            assert attempts(switched, candidate) == 1


@pytest.mark.parametrize("where", ["serves", "is damaged"])
def test_slot_with_another_bundle_than_the_signed_one_is_not_served(
    site: Site, bundles: list[Bundle], where: str
) -> None:
    """Put another complete bundle into the slot, like a wrong restore or an edited disk."""
    store = SlotStore(site.root)
    slot = store.folder(bundles[0].sha256)
    for path in (slot, *slot.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(slot)
    shutil.copytree(bundles[1].path, slot)
    if where == "is damaged":
        assert "holds another bundle" in store.damage(bundles[0].sha256)
    else:
        with pytest.raises(JepaRuntimeError, check=code("storage.damaged_slot")), running(site.root):
            pass


def test_first_model_that_crashes_the_machine_is_opened_a_limited_number_of_times(
    tmp_path: Path, bundles: list[Bundle]
) -> None:
    """Without a rollback target the serving process waits for another model, and the update can finish."""
    site = Site(tmp_path / "empty", None, health_window_s=2.0)
    site.repository.publish(bundles[1], 2)
    with pytest.raises(Died):
        site.update(on_state=dies_in(Phase.OBSERVE))
    boots = [boot(site, number)[:2] for number in range(MAX_ATTEMPTS)]
    assert boots == [(["2.0.0"], -9)] * MAX_ATTEMPTS
    with started(site, 99, "2.0.0") as last:
        until(lambda: "no model is opened" in last.stderr)
        assert "was opened 3 times in 3 boots" in last.stderr
        state = site.update(serving=LocalServing(site.root))
        assert state.result == "rejected" and SlotStore(site.root).current() is None
        site.repository.publish(bundles[2], 3)
        state = site.update(serving=LocalServing(site.root), clock=time)
        assert (state.result, site.version) == ("updated", "3.0.0"), state.reason
    assert last.versions == ["3.0.0"]


@pytest.fixture
def updated(site: Site, bundles: list[Bundle]) -> Site:
    """Return a robot with the committed model 2.0.0 and the earlier one 1.0.0."""
    site.repository.publish(bundles[1], 2)
    assert site.update().result == "updated"
    assert (site.version, site.good) == ("2.0.0", "2.0.0")
    return site


def test_active_model_that_crashes_the_machine_at_each_boot_is_replaced_by_the_previous_one(
    updated: Site, bundles: list[Bundle]
) -> None:
    """The serving process replaces the model; the update rolls back once its process runs."""
    boots = [boot(updated, number) for number in range(MAX_BOOTS + 2)]
    assert [opened for opened, _, _ in boots] == [["2.0.0"]] * MAX_BOOTS + [["1.0.0"]] * 2
    assert [status for _, status, _ in boots] == [-9] * MAX_BOOTS + [0] * 2
    assert f"was opened in {MAX_BOOTS} consecutive boots" in boots[-1][2]
    (alarm,) = alarms(updated.root, state.load(updated.root / robot.STATE))
    assert alarm.startswith("1.0.0 is active instead: toy 2.0.0, the active model: ")
    assert f"was opened in {MAX_BOOTS} consecutive boots" in alarm
    stored = updated.update(serving=LocalServing(updated.root, gone_s=0.1))
    assert (updated.version, updated.good) == ("1.0.0", "1.0.0")
    assert f"was opened in {MAX_BOOTS} consecutive boots" in stored.rejections[bundles[1].sha256].reason
    assert alarms(updated.root, stored) == []


def test_previous_model_is_opened_a_limited_number_of_times(updated: Site) -> None:
    boots = [boot(updated, number, "1.0.0,2.0.0")[0] for number in range(MAX_BOOTS + MAX_ATTEMPTS)]
    assert boots == [["2.0.0"]] * MAX_BOOTS + [["1.0.0"]] * MAX_ATTEMPTS
    with started(updated, 99, "1.0.0,2.0.0") as last:
        until(lambda: "no model is opened" in last.stderr)
        (alarm,) = alarms(updated.root, state.load(updated.root / robot.STATE))
        assert "no model is active" in alarm
    assert last.versions == []


def test_server_without_a_previous_model_waits_and_opens_the_next_release(
    site: Site, bundles: list[Bundle]
) -> None:
    edit(site.root, health_window_s=2.0)
    boots = [boot(site, number, "1.0.0")[:2] for number in range(MAX_BOOTS)]
    assert boots == [(["1.0.0"], -9)] * MAX_BOOTS
    with started(site, 99, "1.0.0") as last:
        until(lambda: "no model is opened" in last.stderr)
        assert f"was opened in {MAX_BOOTS} consecutive boots" in last.stderr
        (alarm,) = alarms(site.root, state.load(site.root / robot.STATE))
        assert "toy 1.0.0, the active model" in alarm and "no model is active" in alarm
        serving = LocalServing(site.root)
        assert (serving.health().serves, serving.health().may_switch) == ("", True)
        site.repository.publish(bundles[1], 2)
        stored = site.update(serving=serving, clock=time)
        assert (stored.result, site.version, site.good) == ("updated", "2.0.0", "2.0.0"), stored.reason
        assert serving.health().serves == bundles[1].sha256
        assert site.gate.probed[0][1] is None and "shadow" not in site.gate.calls, "not opened by the update"
    assert last.versions == ["2.0.0"]
    assert alarms(site.root, stored) == []


def test_pinned_robot_serves_no_other_model(updated: Site) -> None:
    operator_requests.pin(updated.root, pinned=True, now=updated.clock.now)
    for number in range(MAX_BOOTS):
        boot(updated, number)
    with started(updated, 99, "2.0.0") as last:
        until(lambda: "no model is opened" in last.stderr)
    assert last.versions == []


def test_crashes_of_the_active_model_count_once_per_boot_and_are_reset_by_service(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    active, tried = bundles[0].sha256, TrialCounter(SlotStore(site.root))
    for _ in range(2 * MAX_BOOTS):
        with TrialCounter(SlotStore(site.root)).opening(active):
            assert attempts(site, active) == 1
    for number in range(1, MAX_BOOTS):
        assert not tried.exhausted(active)
        monkeypatch.setattr(trial_counter, "boot_id", partial(str, number))
        with TrialCounter(SlotStore(site.root)).opening(active):
            pass
    assert f"was opened in {MAX_BOOTS} consecutive boots" in tried.exhausted(active)
    (site.root / f"serving/{active}.attempts").unlink()
    monkeypatch.setattr(trial_counter, "STABLE_S", 0.1)
    with tried.opening(active):
        assert attempts(site, active) == 1
    tried._timer.join()  # type: ignore[union-attr]
    assert attempts(site, active) == 0


def test_active_model_is_served_when_the_attempt_cannot_be_recorded(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full or read-only disk does not take a robot out of service."""
    fill_disk(monkeypatch)
    with running(site.root):
        assert served(site) == "1.0.0"


def test_clean_stop_is_not_blamed_on_the_active_model(site: Site, bundles: list[Bundle]) -> None:
    with running(site.root):
        assert attempts(site, bundles[0].sha256) == 1
    assert attempts(site, bundles[0].sha256) == 0
