"""Revoked releases are replaced for any orders, requests or failures of a hawkBit server, over real HTTP."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.ota import state_machine
from jepa_runtime.ota.state import Phase
from tests.ota.hawkbit.conftest import Robot
from tests.ota.hawkbit.ddi_faults import answers, delays
from tests.ota.hawkbit.ddi_server import Action, DdiServer
from tests.ota.robots import Died, dies_in, unreachable


def activate_revoked_release(robot: Robot, ddi: DdiServer, bundles: list[Bundle]) -> None:
    """Return a robot whose active model 2.0.0 is revoked; 3.0.0 is offered, but not ordered."""
    robot.repository.publish(bundles[1], 2)
    ddi.assign("2.0.0")
    robot.rounds(2)
    robot.repository.publish(bundles[2], 3, revoked=(2,))


def test_revoked_release_is_replaced_without_a_fleet_order(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    activate_revoked_release(fleet_robot, ddi, bundles)
    fleet_robot.rounds(20)
    assert fleet_robot.version == "1.0.0", "no newer release is installed without an order"
    assert ddi.attributes["jepa.version"] == "1.0.0"
    assert any("lists 2.0.0 as installed, but 1.0.0 is active" in line for line in fleet_robot.lines)


def test_revoked_release_is_replaced_while_the_fleet_server_is_down(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    activate_revoked_release(fleet_robot, ddi, bundles)
    with ddi.fails("robot-1", answers(500)):
        fleet_robot.rounds(20)
    assert fleet_robot.version == "1.0.0"


def test_revoked_release_is_replaced_while_another_is_scheduled_for_later(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    activate_revoked_release(fleet_robot, ddi, bundles)
    action = ddi.assign("3.0.0")
    with ddi.fails(f"/deploymentBase/{action.id}", delays(action)):
        fleet_robot.rounds(20)
    assert fleet_robot.version == "1.0.0"


def test_revoked_release_is_replaced_while_the_server_answers_without_an_order(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    activate_revoked_release(fleet_robot, ddi, bundles)
    action = ddi.assign("3.0.0")
    with ddi.fails(f"/deploymentBase/{action.id}", answers(500)):
        fleet_robot.rounds(20)
    assert fleet_robot.version == "1.0.0" and action.reported == []


def test_revoked_release_is_replaced_while_the_server_rejects_feedback(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    activate_revoked_release(fleet_robot, ddi, bundles)
    action = ddi.assign("3.0.0")
    later = delays(action)
    with ddi.fails(f"/deploymentBase/{action.id}", later), ddi.fails("/feedback", answers(500)):
        fleet_robot.rounds(20)
    assert fleet_robot.version == "1.0.0" and action.reported == []


def test_revoked_release_is_replaced_while_the_server_rejects_confirmations(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    activate_revoked_release(fleet_robot, ddi, bundles)
    ddi.confirms = True
    action = ddi.assign("3.0.0")
    with ddi.fails(f"confirmationBase/{action.id}/feedback", answers(500)):
        fleet_robot.rounds(20)
    assert (fleet_robot.state.phase, fleet_robot.version) == (Phase.ARMED, "1.0.0")


@pytest.mark.parametrize("waits", [False, True], ids=["nothing ordered", "one waits for its window"])
@pytest.mark.parametrize("busy", [False, True], ids=["asked once a day", "busy for a day"])
def test_revoked_release_is_replaced_when_the_server_is_polled_rarely(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle], busy: bool, waits: bool
) -> None:
    (wait_for_its_window if waits else activate_revoked_release)(fleet_robot, ddi, bundles)
    ddi.sleep = "00:05:00" if busy else "24:00:00"
    with ddi.fails("robot-1", answers(429, Retry_After="86400")) if busy else nullcontext():
        fleet_robot.rounds(1)
        fleet_robot.repository.publish(bundles[3], 4, revoked=(2,))
        began, polled = fleet_robot.clock.seconds, len(ddi.seen)
        while fleet_robot.version == "2.0.0" and fleet_robot.clock.seconds < began + 86400:
            fleet_robot.rounds(1)
    assert fleet_robot.version == "1.0.0" and fleet_robot.clock.seconds < began + 2.5 * 3600
    assert len(ddi.seen) - polled < 10, "only the rollback is reported"


def test_deployment_cancelled_without_details_is_not_continued(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    action = wait_for_its_window(fleet_robot, ddi, bundles)
    fleet_robot.repository.publish(bundles[2], 3, revoked=(2,))
    action.window = True
    ddi.cancel(action)
    with ddi.fails(f"cancelAction/{action.id}", answers(500)):
        fleet_robot.rounds(20)
    assert fleet_robot.version == "1.0.0" and action.reported[-1][0] == "scheduled"
    fleet_robot.rounds(1)
    assert action.status == "canceled" and fleet_robot.version == "1.0.0"


def wait_for_its_window(robot: Robot, ddi: DdiServer, bundles: list[Bundle]) -> Action:
    """Return a robot whose candidate 3.0.0 passed the gate and may not replace the active 2.0.0 yet."""
    robot.repository.publish(bundles[1], 2)
    ddi.assign("2.0.0")
    robot.rounds(2)
    robot.repository.publish(bundles[2], 3)
    action = ddi.assign("3.0.0", window=False)
    robot.rounds(2)
    assert (robot.state.phase, robot.version) == (Phase.ARMED, "2.0.0")
    return action


def test_revoked_release_is_replaced_while_another_waits_for_its_window(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    action = wait_for_its_window(fleet_robot, ddi, bundles)
    request, tried = fleet_robot.repository.num_requests, list(fleet_robot.gate.calls)
    fleet_robot.repository.publish(bundles[3], 4)
    fleet_robot.rounds(40)
    assert (fleet_robot.state.phase, fleet_robot.version) == (Phase.ARMED, "2.0.0")
    assert fleet_robot.repository.num_requests - request in (2, 3, 4) and fleet_robot.gate.calls == tried
    assert (fleet_robot.clock.now() - fleet_robot.state.checked_at).total_seconds() < 4000
    fleet_robot.repository.publish(bundles[3], 5, revoked=(2,))
    fleet_robot.rounds(20)
    assert fleet_robot.version == fleet_robot.good == "1.0.0"
    assert action.active and fleet_robot.state.phase is Phase.ARMED
    action.window = True
    # Times are spread at random, and the next round may be that of a check.
    fleet_robot.rounds(3)
    assert (action.status, fleet_robot.version) == ("finished", "3.0.0")


@pytest.mark.parametrize("restarts", [False, True])
def test_revoked_release_is_replaced_at_the_first_safe_moment_while_another_is_scheduled(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle], restarts: bool
) -> None:
    action = wait_for_its_window(fleet_robot, ddi, bundles)
    fleet_robot.repository.publish(bundles[2], 3, revoked=(2,))
    fleet_robot.serving.may_switch = False

    def killed_while_waiting() -> None:
        if fleet_robot.state.waits_to_roll_back:
            raise Died

    fleet_robot.on_alive = killed_while_waiting
    with pytest.raises(Died):
        fleet_robot.rounds(40)
    if restarts:
        fleet_robot.repository.error = unreachable()
        fleet_robot.restart()
    ends = fleet_robot.clock.seconds + 600

    def heartbeat() -> None:
        fleet_robot.serving.may_switch = fleet_robot.clock.seconds > ends

    fleet_robot.on_alive = heartbeat
    fleet_robot.rounds(1)
    assert fleet_robot.version == "1.0.0" and fleet_robot.clock.seconds < ends + 400
    fleet_robot.repository.error = None
    fleet_robot.rounds(5)
    assert (fleet_robot.state.phase, fleet_robot.version) == (Phase.ARMED, "1.0.0")
    action.window = True
    fleet_robot.rounds(1)
    assert (action.status, fleet_robot.version) == ("finished", "3.0.0")


def test_ordered_deployment_does_not_fail_while_the_revoked_release_waits_for_a_safe_moment(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_machine, "MAX_WAITS", 20)
    activate_revoked_release(fleet_robot, ddi, bundles)
    fleet_robot.serving.may_switch = False
    action = ddi.assign("3.0.0")
    fleet_robot.rounds(3)
    assert action.active and fleet_robot.version == "2.0.0"
    fleet_robot.serving.may_switch = True
    fleet_robot.rounds(2)
    assert (action.status, fleet_robot.version) == ("finished", "3.0.0")


def test_candidate_waits_for_its_window_while_the_repository_is_unreachable(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    action = wait_for_its_window(fleet_robot, ddi, bundles)
    fleet_robot.repository.error = unreachable()
    fleet_robot.rounds(40)
    assert 2 <= sum("not checked while a candidate waits" in line for line in fleet_robot.lines) <= 4
    fleet_robot.repository.error = None
    action.window = True
    fleet_robot.rounds(1)
    assert (action.status, fleet_robot.version) == ("finished", "3.0.0")


def test_server_is_polled_while_the_revoked_release_waits_for_a_safe_moment(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    activate_revoked_release(fleet_robot, ddi, bundles)
    fleet_robot.serving.may_switch = False
    while fleet_robot.state.phase is not Phase.RESOLVE:
        fleet_robot.rounds(1)
    began = fleet_robot.clock.seconds
    fleet_robot.repository.error = unreachable()
    fleet_robot.rounds(5)
    assert fleet_robot.clock.seconds - began < 3600
    assert fleet_robot.state.phase is Phase.RESOLVE and fleet_robot.version == "2.0.0"
    fleet_robot.restart()
    fleet_robot.serving.may_switch = True
    fleet_robot.rounds(1)
    assert fleet_robot.version == fleet_robot.good == "1.0.0"


@pytest.mark.parametrize("phase", [Phase.CHECK, Phase.DOWNLOAD, Phase.ARMED])
def test_unfinished_local_update_does_not_keep_a_revoked_release_active(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle], phase: Phase
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    ddi.assign("2.0.0")
    fleet_robot.rounds(2)
    fleet_robot.repository.publish(bundles[2], 3)
    with pytest.raises(Died):
        fleet_robot.update(on_state=dies_in(phase))
    fleet_robot.repository.publish(bundles[3], 4, revoked=(2,))
    fleet_robot.rounds(20)
    assert (fleet_robot.state.phase, fleet_robot.version) == (Phase.IDLE, "1.0.0")
