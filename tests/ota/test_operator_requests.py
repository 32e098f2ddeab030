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
from tests.ota.robots import Died, Site, dies_in


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
    assert state.candidate is None and not state.rejections and site.version == "1.0.0"
    last = log(site)[-1]
    assert (last.event, last.facts["reason"]) == ("cancelled", "not on a Friday")
    assert phase is Phase.CHECK or last.facts["version"] == "2.0.0"
    fetched = len(site.repository.fetched)
    assert site.update().result == "updated"
    assert phase in DROPPABLE[:3] or len(site.repository.fetched) == fetched


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


@pytest.mark.parametrize(
    ("wish", "expected"),
    [*zip(WISHES, [*["storage.state_missing"] * 3, "update.config_unreadable"], strict=True)],
    ids=["pin", "approve", "cancel", "rollback"],
)
def test_folder_without_a_robot_is_unchanged(
    tmp_path: Path, wish: Callable[..., State], expected: str
) -> None:
    with pytest.raises(UpdateError, check=code(expected)):
        wish(tmp_path)
    assert not list(tmp_path.iterdir())
