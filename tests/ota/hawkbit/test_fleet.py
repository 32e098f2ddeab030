"""Execution of hawkBit orders by a robot, over real HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.cli import main
from jepa_runtime.errors import StorageError
from jepa_runtime.ota import config, operator_requests
from jepa_runtime.ota.hawkbit import saved_state
from jepa_runtime.ota.hawkbit.agent import STATE_FILE
from jepa_runtime.ota.hawkbit.saved_state import SavedState
from jepa_runtime.ota.state import Phase
from tests.ota.hawkbit.conftest import Robot
from tests.ota.hawkbit.ddi_faults import answers, delays
from tests.ota.hawkbit.ddi_server import DdiServer
from tests.ota.robots import Died, Serving, dies_in, unreachable


def test_deployment_is_successful_once_committed(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    good_at_success: list[str] = []
    ddi.on_success = lambda: good_at_success.append(fleet_robot.good)
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0")
    fleet_robot.rounds(1)
    assert (action.status, fleet_robot.version, good_at_success) == ("finished", "2.0.0", ["2.0.0"])
    assert action.executions == ["proceeding", "download", "downloaded", "scheduled", "closed"]
    assert any("latency_p99_ms 1.0" in line for line in action.reported[-1][2]), (
        "the measurements of the gate are reported"
    )
    assert ddi.attributes["jepa.version"] == "1.0.0"
    request = len(fleet_robot.repository.fetched)
    fleet_robot.rounds(3)
    assert ddi.attributes["jepa.version"] == "2.0.0" and not ddi.asks
    assert action.ends == [("closed", "success")] and len(fleet_robot.repository.fetched) == request


def test_release_rejected_by_the_gate_fails_once_and_is_not_fetched_again(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.gate.bad = {"2.0.0": "probe"}
    fleet_robot.repository.publish(bundles[1], 2)
    first = ddi.assign("2.0.0")
    fleet_robot.rounds(4)
    assert first.ends == [("closed", "failure")] and first.status == "error"
    assert "does not pass probe" in first.reported[-1][2][0]
    fetched = list(fleet_robot.repository.fetched)
    second = ddi.assign("2.0.0")
    fleet_robot.rounds(2)
    assert second.ends == [("closed", "failure")]
    assert "was rejected until" in second.reported[-1][2][0]
    assert fleet_robot.repository.fetched == fetched and fleet_robot.version == "1.0.0"


def test_model_that_fails_in_service_is_rolled_back_and_the_deployment_fails(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.serving = Serving(bad=("2.0.0",))
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0")
    fleet_robot.rounds(2)
    assert action.ends == [("closed", "failure")] and "NaN" in action.reported[-1][2][0]
    assert fleet_robot.version == fleet_robot.good == "1.0.0"


@pytest.mark.parametrize(
    ("version", "more", "why"),
    [
        ("3.0.0", {}, "the fleet requests version 3.0.0"),
        ("2.0.0", {"name": "another"}, "has 0 versions of toy (software modules: another 2.0.0)"),
    ],
)
def test_release_not_offered_to_this_robot_fails_without_a_fetch(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle], version: str, more: dict[str, str], why: str
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign(version, **more)
    fleet_robot.rounds(2)
    assert action.ends == [("closed", "failure")] and why in action.reported[-1][2][0]
    assert not fleet_robot.repository.fetched and fleet_robot.version == "1.0.0"


def test_pinned_robot_keeps_its_model(fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    operator_requests.pin(fleet_robot.root, pinned=True)
    action = ddi.assign("2.0.0")
    fleet_robot.rounds(1)
    assert action.ends == [("closed", "failure")] and "pinned" in action.reported[-1][2][0]
    assert ddi.attributes["jepa.pinned"] == "yes" and not fleet_robot.repository.fetched


def test_module_metadata_may_name_the_model(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    about = [{"key": "model_id", "value": "toy"}, {"key": "version", "value": "2.0.0"}]
    action = ddi.assign("7", name="perception", metadata=about)
    fleet_robot.rounds(1)
    assert action.status == "finished" and fleet_robot.version == "2.0.0"


def test_order_for_the_active_model_succeeds_without_repository_access(
    fleet_robot: Robot, ddi: DdiServer
) -> None:
    action = ddi.assign("1.0.0")
    fleet_robot.round()
    assert action.ends == [("closed", "success")]
    assert fleet_robot.repository.floors is None


def test_order_with_an_unreachable_repository_waits(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    fleet_robot.repository.error = unreachable()
    action = ddi.assign("2.0.0")
    fleet_robot.rounds(3)
    assert action.active and any(
        "the repository cannot be used now" in reported[2][0] for reported in action.reported
    )
    fleet_robot.repository.error = None
    fleet_robot.rounds(1)
    assert action.status == "finished"


def test_deployment_outside_its_window_is_fetched_and_tried_but_not_activated(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0", window=False)
    fleet_robot.rounds(20)
    assert (fleet_robot.version, fleet_robot.state.phase) == ("1.0.0", Phase.ARMED)
    assert fleet_robot.gate.calls == ["check", "probe", "shadow"]
    assert action.reported[-1][0] == "scheduled" and "maintenance window" in action.reported[-1][2][0]
    reported, fetched = len(action.reported), list(fleet_robot.repository.fetched)
    fleet_robot.restart()
    fleet_robot.rounds(1)
    assert len(action.reported) == reported + 1
    action.window = True
    fleet_robot.rounds(1)
    assert (action.status, fleet_robot.version) == ("finished", "2.0.0")
    assert fleet_robot.repository.fetched == fetched


def test_release_revoked_while_its_window_is_closed_is_not_activated(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0", window=False)
    fleet_robot.rounds(10)
    fleet_robot.repository.publish(bundles[0], 3, revoked=(2,))
    action.window = True
    fleet_robot.rounds(1)
    assert action.ends == [("closed", "failure")] and "was revoked" in action.reported[-1][2][0]
    assert fleet_robot.version == "1.0.0"


def test_download_only_deployment_ends_after_the_gate_and_is_not_fetched_again(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    first = ddi.assign("2.0.0", kind="download_only")
    fleet_robot.rounds(3)
    assert (first.status, fleet_robot.version) == ("downloaded", "1.0.0")
    assert first.reported[-1][0] == "downloaded" and any("probed" in line for line in first.reported[-1][2])
    assert fleet_robot.state.phase is Phase.IDLE
    fetched = list(fleet_robot.repository.fetched)
    second = ddi.assign("2.0.0")
    fleet_robot.rounds(1)
    assert (second.status, fleet_robot.version) == ("finished", "2.0.0")
    assert fleet_robot.repository.fetched == fetched


def test_forced_deployment_waits_until_the_robot_allows_the_switch(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.serving.may_switch = False
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0", kind="soft")

    def heartbeat() -> None:
        if fleet_robot.clock.seconds > 400:
            action.kind = "forced"
        if fleet_robot.clock.seconds > 1000:
            fleet_robot.serving.may_switch = True

    fleet_robot.on_alive = heartbeat
    fleet_robot.round()
    assert fleet_robot.clock.seconds > 1000 and action.status == "finished"
    assert fleet_robot.gate.calls == ["check", "probe", "shadow"], "no step was repeated for it"


def test_unreachable_server_does_not_block_updates(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0")
    unavailable = answers(503)

    def heartbeat() -> None:
        if fleet_robot.state.phase is Phase.DOWNLOAD:
            ddi.faults["robot-1"] = ddi.faults["/feedback"] = unavailable

    fleet_robot.on_alive = heartbeat
    fleet_robot.round()
    assert fleet_robot.version == "2.0.0" and action.active
    assert "the server responded 503" in fleet_robot.lines[-1]
    fleet_robot.on_alive = lambda: None
    fleet_robot.rounds(2)
    assert action.active
    ddi.faults.clear()
    fleet_robot.rounds(1)
    assert action.ends == [("closed", "success")]


def test_accepted_order_is_executed_without_the_server(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    fleet_robot.repository.error = unreachable()
    ddi.assign("2.0.0")
    fleet_robot.rounds(1)
    fleet_robot.repository.error = None
    fleet_robot.restart()
    with ddi.fails("robot-1", answers(502)):
        fleet_robot.rounds(1)
    assert fleet_robot.version == "2.0.0"


def test_local_update_that_has_switched_finishes_first(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)

    def stop() -> None:
        if fleet_robot.version == "2.0.0":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fleet_robot.update(heartbeat=stop)
    assert fleet_robot.state.phase is Phase.OBSERVE
    with ddi.fails("robot-1", answers(500)):
        fleet_robot.rounds(1)
    assert fleet_robot.good == "2.0.0"
    action = ddi.assign("2.0.0")
    fleet_robot.rounds(1)
    assert action.ends == [("closed", "success")]


def test_local_update_in_progress_is_not_interrupted(fleet_robot: Robot, bundles: list[Bundle]) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    with fleet_robot.opened(on_state=dies_in(Phase.ARMED)) as client:
        with pytest.raises(Died):
            client.update()
        fleet_robot.rounds(3)
        assert fleet_robot.state.phase is Phase.ARMED
    assert any("another process has it" in line for line in fleet_robot.lines)


@pytest.mark.parametrize("content", [None, b"{", b'{"schema_version": 1, "order": 5}', b"\xff\x00"])
def test_agent_without_its_stored_state_continues(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle], content: bytes | None
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0", window=False)
    fleet_robot.rounds(5)
    path = fleet_robot.root / "hawkbit.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    fleet_robot.restart()
    action.window = True
    fleet_robot.rounds(1)
    assert action.status == "finished" and fleet_robot.version == "2.0.0"


def test_robot_without_a_server_reports_it(fleet_robot: Robot) -> None:
    path = fleet_robot.root / "config.json"
    config.save(path, config.load(path).model_copy(update={"hawkbit": None}))
    assert fleet_robot.round() >= 5
    assert "has no field hawkbit" in fleet_robot.lines[-1]


def test_fetch_outside_its_window_waits(fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0")
    with ddi.fails(f"/deploymentBase/{action.id}", delays(action)):
        fleet_robot.rounds(3)
    assert [messages[:1] for messages in action.reported] == [
        ("scheduled",)
    ] and not fleet_robot.repository.fetched
    fleet_robot.rounds(1)
    assert action.status == "finished"


def test_server_that_requests_a_pause_is_not_polled(fleet_robot: Robot, ddi: DdiServer) -> None:
    with ddi.fails("robot-1", answers(429, Retry_After="3600")):
        assert 3240 <= fleet_robot.round() <= 3960
    assert "retry after 3600 s" in fleet_robot.lines[0]


def test_feedback_that_the_server_rejects_does_not_block_other_deployments(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    first = ddi.assign("1.0.0")
    with ddi.fails(f"/{first.id}/feedback", answers(400)), ddi.fails("/configData", answers(429)):
        fleet_robot.rounds(2)
        ddi.force_quit(first)
        fleet_robot.repository.publish(bundles[1], 2)
        second = ddi.assign("2.0.0")
        fleet_robot.rounds(1)
    assert second.status == "finished" and first.reported == []


def test_answer_to_a_deleted_action_is_retried_once(fleet_robot: Robot, ddi: DdiServer) -> None:
    action = ddi.assign("1.0.0")
    with ddi.fails(f"/{action.id}/feedback", answers(503)):
        fleet_robot.rounds(1)
    ddi.force_quit(action)
    fleet_robot.rounds(4)
    answered = [one.status for one in ddi.seen if one.path.endswith(f"/{action.id}/feedback")]
    assert sum(status in (404, 410) for status in answered) == 1


def test_time_of_the_last_server_answer_is_stored_hourly_and_shown(
    fleet_robot: Robot, capsys: pytest.CaptureFixture[str]
) -> None:
    def last_contact() -> str:
        assert main(["update", "status", "--robot", str(fleet_robot.root)]) == 0
        (line,) = (
            line for line in capsys.readouterr().out.splitlines() if line.startswith("last hawkBit response")
        )
        return line.removeprefix("last hawkBit response").strip()

    assert last_contact() == "never"
    fleet_robot.round()
    began = fleet_robot.clock.now()
    assert last_contact() == f"{began:%Y-%m-%d %H:%M} UTC"
    written = (fleet_robot.root / STATE_FILE).stat().st_ino
    fleet_robot.clock.sleep(1800)
    fleet_robot.round()
    assert (fleet_robot.root / STATE_FILE).stat().st_ino == written, "the disk is rarely written"
    fleet_robot.clock.sleep(1801)
    fleet_robot.round()
    assert last_contact() == f"{fleet_robot.clock.now():%Y-%m-%d %H:%M} UTC"


def test_full_disk_is_reported_to_the_server(
    fleet_robot: Robot, ddi: DdiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: SavedState) -> None:
        raise StorageError(f"{path}: cannot be written: No space left on device", code="storage.full")

    monkeypatch.setattr(saved_state, "save", full)
    fleet_robot.round()
    assert ddi.attributes["jepa.version"] == "1.0.0"
    assert "No space left" in fleet_robot.lines[-1]


def test_deployment_stays_open_while_the_machine_is_too_busy(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.gate.busy = True
    fleet_robot.repository.publish(bundles[1], 2, budgets={"latency_p99_ms": 20.0})
    action = ddi.assign("2.0.0")
    fleet_robot.rounds(2)
    assert action.active and "it is retried soon: " in action.reported[-1][2][0]
    fleet_robot.gate.busy = False
    fleet_robot.rounds(3)
    assert (action.status, fleet_robot.version) == ("finished", "2.0.0")
