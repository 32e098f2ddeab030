"""Requests of the operator between the steps of an update; those during one are in test_daemon.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import StorageError, UpdateError
from jepa_runtime.ota import audit_log, operator_requests, robot
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.state_machine import DROPPABLE
from tests.errors import code
from tests.ota.robots import Died, Serving, Site, dies_in

LATE = (Phase.SWITCH, Phase.OBSERVE, Phase.COMMIT, Phase.REPORT, Phase.GC)


def cut_off(site: Site, phase: Phase) -> None:
    with pytest.raises(Died):
        site.update(on_state=dies_in(phase))


def log(site: Site) -> list[audit_log.Entry]:
    return list(audit_log.AuditLog(site.root / robot.AUDIT, robot.utc_now).entries())


@pytest.mark.parametrize("phase", DROPPABLE)
def test_cancelled_update_leaves_its_release_for_the_next_check(
    site: Site, bundles: list[Bundle], phase: Phase
) -> None:
    site.repository.publish(bundles[1], 2)
    cut_off(site, phase)
    state = operator_requests.cancel(site.root, "not on a Friday")
    assert (state.phase, state.result, state.reason) == (Phase.IDLE, "unchanged", "not on a Friday")
    assert state.work is None and not state.refused and site.version == "1.0.0"
    last = log(site)[-1]
    assert (last.event, last.facts["reason"]) == ("cancelled", "not on a Friday")
    assert phase is Phase.CHECK or last.facts["version"] == "2.0.0"
    fetched = len(site.repository.fetched)
    assert site.update().result == "updated"
    assert phase in DROPPABLE[:3] or len(site.repository.fetched) == fetched


@pytest.mark.parametrize("phase", LATE)
def test_switched_update_cannot_be_cancelled(site: Site, bundles: list[Bundle], phase: Phase) -> None:
    site.repository.publish(bundles[1], 2)
    cut_off(site, phase)
    with pytest.raises(UpdateError, check=code("update.too_late_to_cancel")):
        operator_requests.cancel(site.root, "too late")
    assert site.update().result == "updated"


def test_cancel_and_approve_between_updates_are_rejected(site: Site) -> None:
    before = log(site)
    with pytest.raises(UpdateError, check=code("update.nothing_to_cancel")):
        operator_requests.cancel(site.root, "by hand")
    with pytest.raises(UpdateError, check=code("update.nothing_to_approve")):
        operator_requests.approve(site.root)
    assert log(site) == before


@pytest.mark.parametrize("phase", DROPPABLE)
def test_pin_cancels_an_update_before_its_switch(site: Site, bundles: list[Bundle], phase: Phase) -> None:
    site.repository.publish(bundles[1], 2)
    cut_off(site, phase)
    state = operator_requests.pin(site.root, pinned=True)
    assert (state.phase, state.result, state.pinned) == (Phase.IDLE, "unchanged", True)
    assert site.update().result == "unchanged" and site.version == "1.0.0"


@pytest.mark.parametrize("phase", LATE)
def test_pin_lets_a_switched_update_finish(site: Site, bundles: list[Bundle], phase: Phase) -> None:
    site.repository.publish(bundles[1], 2)
    cut_off(site, phase)
    state = operator_requests.pin(site.root, pinned=True)
    assert (state.phase, state.pinned) == (phase, True)
    state = site.update()
    assert (state.result, state.pinned, site.version) == ("updated", True, "2.0.0")


def test_unpin_cancels_nothing(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    cut_off(site, Phase.SHADOW)
    assert operator_requests.pin(site.root, pinned=False).phase is Phase.SHADOW
    assert site.update().result == "updated"


@pytest.mark.parametrize("phase", [phase for phase in (*DROPPABLE, *LATE) if phase is not Phase.ARMED])
def test_approve_accepts_only_a_waiting_release(site: Site, bundles: list[Bundle], phase: Phase) -> None:
    site.repository.publish(bundles[1], 2)
    cut_off(site, phase)
    with pytest.raises(UpdateError, check=code("update.nothing_to_approve")):
        operator_requests.approve(site.root)


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.ARMED, Phase.OBSERVE])
def test_rollback_ends_an_update_in_progress_and_notifies_the_server(
    site: Site, bundles: list[Bundle], phase: Phase
) -> None:
    site.serving = serving = Serving()
    site.repository.publish(bundles[1], 2)
    site.update()
    site.repository.publish(bundles[2], 3)
    cut_off(site, phase)
    state = operator_requests.rollback(site.root, "it drifts", serving=serving)
    # A switched release is replaced by the last known good one; any other is dropped.
    expected = "2.0.0" if phase is Phase.OBSERVE else "1.0.0"
    assert (state.phase, site.version, serving.swaps[-1]) == (Phase.IDLE, expected, expected)
    assert state.reason == "it drifts"


def test_rollback_without_an_earlier_release_is_rejected(site: Site) -> None:
    with pytest.raises(UpdateError, check=code("update.no_earlier_model")):
        operator_requests.rollback(site.root, "by hand")


WISHES: list[Callable[..., State]] = [
    partial(operator_requests.pin, pinned=True),
    operator_requests.approve,
    partial(operator_requests.cancel, reason="by hand", wait_s=0.05),
    partial(operator_requests.rollback, reason="by hand"),
]


@pytest.mark.parametrize("wish", WISHES, ids=["pin", "approve", "cancel", "rollback"])
def test_holder_of_the_lock_beyond_the_wait_is_named(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch, wish: Callable[..., State]
) -> None:
    site.repository.publish(bundles[1], 2)
    cut_off(site, Phase.ARMED)
    monkeypatch.setattr(operator_requests, "WAIT_S", 0.05)
    with (
        site.opened(),
        pytest.raises(StorageError, check=code("storage.locked")),
    ):
        wish(site.root)


@pytest.mark.parametrize(
    ("wish", "expected"),
    [*zip(WISHES[1:3], ("update.nothing_to_approve", "update.nothing_to_cancel"), strict=True)],
    ids=["approve", "cancel"],
)
def test_invalid_request_interrupts_no_update(site: Site, wish: Callable[..., State], expected: str) -> None:
    with site.opened(), pytest.raises(UpdateError, check=code(expected)):
        wish(site.root)


@pytest.mark.parametrize("wish", WISHES, ids=["pin", "approve", "cancel", "rollback"])
def test_folder_without_a_robot_is_unchanged(tmp_path: Path, wish: Callable[..., State]) -> None:
    with pytest.raises(UpdateError, match="jepa-runtime update provision"):
        wish(tmp_path)
    assert not list(tmp_path.iterdir())
