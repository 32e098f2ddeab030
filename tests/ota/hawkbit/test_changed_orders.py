"""Orders that change during their execution: canceled, replaced, confirmed, approved, superseded."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import StorageError, UpdateError
from jepa_runtime.ota import operator_requests
from jepa_runtime.ota.audit_log import AuditLog
from jepa_runtime.ota.daemon import YieldLock
from jepa_runtime.ota.state import Phase
from tests.errors import code
from tests.ota.hawkbit.conftest import Robot
from tests.ota.hawkbit.ddi_faults import answers
from tests.ota.hawkbit.ddi_server import DdiServer
from tests.ota.robots import unreachable


def test_deployment_cancelled_before_its_switch_is_dropped(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.serving.may_switch = False
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0")

    def heartbeat() -> None:
        if fleet_robot.state.phase is Phase.ARMED and not action.stops:
            ddi.cancel(action)

    fleet_robot.on_alive = heartbeat
    fleet_robot.rounds(2)
    assert action.ends == [("cancel closed", "success")] and action.status == "canceled"
    assert (fleet_robot.state.phase, fleet_robot.version) == (Phase.IDLE, "1.0.0")
    fleet_robot.serving.may_switch = True
    fleet_robot.rounds(3)
    assert fleet_robot.version == "1.0.0"
    again = ddi.assign("2.0.0")
    fleet_robot.rounds(1)
    assert again.status == "finished", "a cancellation is not blamed on the release"


def test_cancellation_before_the_update_started_is_accepted(fleet_robot: Robot, ddi: DdiServer) -> None:
    action = ddi.assign("2.0.0")
    ddi.cancel(action)
    with ddi.fails("/feedback", answers(503)):
        fleet_robot.rounds(2)
    assert action.active
    fleet_robot.rounds(1)
    assert action.ends == [("cancel closed", "success")]


def test_cancellation_with_an_unreachable_repository_is_accepted(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    fleet_robot.repository.error = unreachable()
    action = ddi.assign("2.0.0")
    fleet_robot.rounds(2)
    assert action.reported[-1][0] == "proceeding" and fleet_robot.state.phase is Phase.IDLE
    ddi.cancel(action)
    fleet_robot.rounds(1)
    fleet_robot.repository.error = None
    fleet_robot.rounds(2)
    assert action.ends == [("cancel closed", "success")] and fleet_robot.version == "1.0.0"


def test_cancellation_after_the_switch_is_rejected_and_success_reported(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0")
    with ddi.fails(f"/deploymentBase/{action.id}/feedback", answers(503)):
        fleet_robot.rounds(1)
        ddi.cancel(action)
        fleet_robot.rounds(1)
    assert action.ends == [("cancel rejected", "none")] and action.status == "running"
    fleet_robot.rounds(1)
    assert action.status == "finished" and fleet_robot.version == "2.0.0"


def test_cancellation_that_cannot_be_stored_is_not_rejected(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("state.json: cannot be written: No space left on device", code="storage.full")

    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0", window=False)
    fleet_robot.rounds(5)
    ddi.cancel(action)
    with monkeypatch.context() as patch:
        patch.setattr(operator_requests, "cancel", full)
        fleet_robot.rounds(2)
    assert action.ends == [] and "No space left" in fleet_robot.lines[-1]
    fleet_robot.rounds(1)
    assert action.ends == [("cancel closed", "success")] and fleet_robot.state.phase is Phase.IDLE


def test_action_deleted_on_the_server_is_dropped(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0", window=False)
    fleet_robot.rounds(5)
    assert fleet_robot.state.phase is Phase.ARMED
    ddi.force_quit(action)
    fleet_robot.rounds(2)
    assert (fleet_robot.state.phase, fleet_robot.version) == (Phase.IDLE, "1.0.0")
    log = AuditLog(fleet_robot.root / "audit.log", fleet_robot.clock.now).entries()
    dropped = [entry.facts["reason"] for entry in log if entry.event == "cancelled"]
    assert dropped == [f"deployment {action.id} is no longer requested"]


def test_latest_of_several_deployments_becomes_active(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    first = ddi.assign("2.0.0", window=False)
    fleet_robot.rounds(5)
    fleet_robot.repository.publish(bundles[2], 3)
    second = ddi.assign("3.0.0")
    fleet_robot.rounds(3)
    assert (first.status, second.status) == ("canceled", "finished")
    assert (fleet_robot.version, fleet_robot.serving.swaps) == ("3.0.0", ["3.0.0"])


@pytest.mark.parametrize("was_bad", [False, True])
def test_server_that_reuses_deployment_ids_gets_no_result_of_an_earlier_one(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle], was_bad: bool
) -> None:
    fleet_robot.gate.bad = {"2.0.0": "probe"} if was_bad else {}
    fleet_robot.repository.publish(bundles[1], 2)
    first = ddi.assign("2.0.0")
    fleet_robot.rounds(2)
    ddi.actions.clear()
    ddi.installed = None
    fleet_robot.repository.publish(bundles[2], 3)
    second = ddi.assign("3.0.0")
    assert second.id == first.id
    fleet_robot.rounds(2)
    assert (second.ends, fleet_robot.version) == ([("closed", "success")], "3.0.0")


def test_confirmation_without_local_approval_is_automatic(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    ddi.confirms = True
    action = ddi.assign("2.0.0")
    fleet_robot.rounds(2)
    assert action.executions[0] == "confirmed" and action.status == "finished"


def test_confirmation_with_local_approval_waits_for_it_and_then_switches(
    tmp_path: Path, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    robot = Robot(tmp_path / "asks", bundles[0], ddi, approval=True)
    robot.repository.publish(bundles[1], 2)
    ddi.confirms = True
    action = ddi.assign("2.0.0")
    with pytest.raises(UpdateError, check=code("update.nothing_to_approve")):
        operator_requests.approve(robot.root)
    robot.rounds(10)
    assert (action.reported, robot.state.phase, robot.version) == ([], Phase.ARMED, "1.0.0")
    assert robot.gate.calls == ["check", "probe", "shadow"], "the operator sees that it passed the gate"
    operator_requests.approve(robot.root)
    robot.rounds(2)
    assert (action.reported[0][0], action.status, robot.version) == ("confirmed", "finished", "2.0.0")


def test_release_rejected_by_the_gate_before_confirmation_is_denied_once(
    tmp_path: Path, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    robot = Robot(tmp_path / "asks", bundles[0], ddi, approval=True)
    robot.gate.bad = {"2.0.0": "shadow"}
    robot.repository.publish(bundles[1], 2)
    ddi.confirms = True
    action = ddi.assign("2.0.0")
    with ddi.fails(f"/{action.id}/feedback", answers(503)):
        robot.rounds(2)
    robot.rounds(2)
    assert action.ends == [("denied", "none")] and "does not pass shadow" in action.reported[-1][2][0]
    ddi.confirm(action)
    robot.rounds(1)
    assert action.ends[-1] == ("closed", "failure"), "a later confirmation is answered with the reason"


def test_order_without_a_version_of_this_model_is_denied_once(fleet_robot: Robot, ddi: DdiServer) -> None:
    ddi.confirms = True
    action = ddi.assign("2.0.0", name="another")
    fleet_robot.rounds(4)
    assert action.ends == [("denied", "none")] and "has 0 versions of toy" in action.reported[-1][2][0]


def test_forced_deployment_does_not_replace_local_approval(
    tmp_path: Path, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    robot = Robot(tmp_path / "asks", bundles[0], ddi, approval=True)
    robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0", kind="forced")

    def heartbeat() -> None:
        if robot.clock.seconds > 700:
            raise YieldLock

    robot.on_alive = heartbeat
    with pytest.raises(YieldLock):
        robot.round()
    assert (robot.state.phase, robot.version) == (Phase.ARMED, "1.0.0")
    assert action.reported[-1][0] == "scheduled" and "waits for approval" in action.reported[-1][2][1]
    operator_requests.approve(robot.root)
    robot.on_alive = lambda: None
    robot.rounds(1)
    assert action.status == "finished"


def test_operator_cancelling_with_the_lock_ends_the_deployment(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.serving.may_switch = False
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0")

    def heartbeat() -> None:
        if fleet_robot.state.phase is Phase.ARMED:
            raise YieldLock

    fleet_robot.on_alive = heartbeat
    with pytest.raises(YieldLock):
        fleet_robot.round()
    operator_requests.cancel(fleet_robot.root, "not today")
    fleet_robot.on_alive = lambda: None
    fleet_robot.serving.may_switch = True
    fleet_robot.rounds(2)
    assert action.ends == [("closed", "failure")] and "not today" in action.reported[-1][2][0]
    assert fleet_robot.version == "1.0.0"
