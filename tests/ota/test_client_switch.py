"""The last moment before a switch: required approvals, and changes in the meantime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import TrustError
from jepa_runtime.ota import audit_log, operator_requests, robot, state, state_machine
from jepa_runtime.ota.state import Phase
from tests.ota.robots import Clock, Died, Serving, Site, dies_in, unreachable


class Moving(Serving):
    """A serving process that swaps the model only while it may."""

    def swap(self, folder: Path) -> None:
        assert self.may_switch
        super().swap(folder)


class Wait(Clock):
    """A clock that calls ``then`` once the robot has been busy for five minutes."""

    def __init__(self, site: Site, then: Callable[[], object]) -> None:
        super().__init__()
        self._then = then
        site.serving = self.serving = Moving()
        self.serving.may_switch = False
        site.clock = self

    def sleep(self, seconds: float, /) -> None:
        super().sleep(seconds)
        if self.seconds > 300 and not self.serving.may_switch:
            self.serving.may_switch = True
            self._then()


@pytest.fixture
def cautious(tmp_path: Path, bundles: list[Bundle]) -> Site:
    """Return a robot that is offered 2.0.0 and requires approval."""
    site = Site(tmp_path / "robot", bundles[0], approval=True)
    site.repository.publish(bundles[1], 2)
    return site


def wait_for_approval(site: Site, seconds: float = 60) -> None:
    ends = site.clock.seconds + seconds

    def heartbeat() -> None:
        if site.clock.seconds > ends:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.update(heartbeat=heartbeat)


def test_switch_with_required_approval_waits_for_it(cautious: Site) -> None:
    wait_for_approval(cautious)
    assert cautious.version == "1.0.0"
    state = operator_requests.approve(cautious.root)
    assert state.reason == "release 2 (2.0.0) waits for approval: run `jepa-runtime update approve`"
    assert cautious.update().result == "updated"


def test_unapproved_update_expires_like_one_without_a_safe_moment_and_is_logged_once(
    cautious: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_machine, "MAX_WAITS", 20)
    state = cautious.update()
    assert state.result == "failed" and "waits for approval" in state.reason
    assert cautious.clock.seconds == 19 * state_machine.WAIT_S
    assert cautious.repository.num_requests == 1, "at the interval poll_s, not at each check for an approval"
    assert cautious.version == "1.0.0"
    entries = audit_log.AuditLog(cautious.root / robot.AUDIT, robot.utc_now).entries()
    assert [entry.event for entry in entries].count("armed -> armed") == 1


def test_wait_for_approval_continues_regardless_of_repository_errors(
    cautious: Site, bundles: list[Bundle]
) -> None:
    wait_for_approval(cautious, 2 * 3600 + 60)
    assert cautious.repository.num_requests == 3
    cautious.repository.error = unreachable()
    wait_for_approval(cautious, 3600 + 60)
    assert "repository not checked while waiting" in (cautious.root / robot.AUDIT).read_text()
    cautious.repository.error = None
    operator_requests.approve(cautious.root)
    assert cautious.update().result == "updated"


def test_approval_applies_to_one_release_only(cautious: Site, bundles: list[Bundle]) -> None:
    wait_for_approval(cautious)
    stored = operator_requests.approve(cautious.root)
    state.save(cautious.root / robot.STATE, replace(stored, approved=bundles[2].sha256))
    wait_for_approval(cautious)
    operator_requests.approve(cautious.root)
    cautious.repository.publish(bundles[2], 3)
    stored = cautious.update()
    assert stored.reason == "release 3 (3.0.0) is offered instead of release 2 (2.0.0)"
    wait_for_approval(cautious)
    assert cautious.version == "1.0.0"


def test_release_revoked_while_waiting_is_dropped(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    Wait(site, lambda: site.repository.publish(bundles[0], 3, revoked=(2,)))
    state = site.update()
    assert (state.result, state.reason) == ("unchanged", "release 2 (2.0.0) was revoked before the switch")
    assert site.version == "1.0.0" and not state.rejections
    entries = list(audit_log.AuditLog(site.root / robot.AUDIT, robot.utc_now).entries())
    assert entries[-1].event == "armed -> idle"


def test_revoked_active_model_is_replaced_once_the_robot_allows_the_switch(
    site: Site, bundles: list[Bundle]
) -> None:
    site.repository.publish(bundles[1], 2)
    assert site.update().result == "updated"
    none = {"percent": 0.0, "salt": "s"}
    site.repository.publish(bundles[2], 3, revoked=(2,), rollout=none)
    messages: list[str] = []
    wait = Wait(site, lambda: messages.append(site.version))
    state = site.update()
    assert messages == ["2.0.0"] and wait.serving.swaps == ["1.0.0"]
    assert state.rejections[bundles[1].sha256].not_before is None
    entries = [entry.event for entry in audit_log.AuditLog(site.root / robot.AUDIT, robot.utc_now).entries()]
    assert entries.count("resolve -> resolve") == 1


def test_revoked_active_model_is_replaced_while_its_successor_waits_for_approval(
    cautious: Site, bundles: list[Bundle]
) -> None:
    """To fix a model, its publisher first publishes a new one: the latest release cannot be revoked."""
    cautious.repository.publish(bundles[1], 2)
    wait_for_approval(cautious)
    operator_requests.approve(cautious.root)
    assert cautious.update().result == "updated"
    cautious.repository.publish(bundles[2], 3)
    wait_for_approval(cautious)
    cautious.repository.publish(bundles[2], 3, revoked=(2,))
    cautious.serving = Moving()
    cautious.serving.may_switch = False
    wait_for_approval(cautious, 3700)
    assert cautious.version == "2.0.0"
    cautious.serving.may_switch = True
    wait_for_approval(cautious, 3700)
    assert cautious.version == cautious.good == "1.0.0"
    operator_requests.approve(cautious.root)
    assert cautious.update().result == "updated" and cautious.version == "3.0.0"


@pytest.mark.parametrize("ends", [KeyboardInterrupt, Died])
def test_active_model_known_to_be_revoked_is_replaced_after_the_repository_disappeared(
    site: Site, bundles: list[Bundle], ends: type[BaseException]
) -> None:
    def stop() -> None:
        raise ends

    site.repository.publish(bundles[1], 2)
    assert site.update().result == "updated"
    site.repository.publish(bundles[2], 3, revoked=(2,))
    Wait(site, stop)
    with pytest.raises(ends):
        site.update()
    site.repository.error = unreachable()
    state = site.update()
    assert site.version == site.good == "1.0.0"
    assert state.rejections[bundles[1].sha256].not_before is None


def test_check_does_not_wait_for_a_safe_moment(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    assert site.update().result == "updated"
    site.repository.publish(bundles[2], 3, revoked=(2,))
    site.serving = Moving()
    site.serving.may_switch = False
    with site.opened() as client:
        assert client.check() is None
    assert site.clock.seconds < 60


def test_release_no_longer_offered_is_replaced_by_the_one_offered(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    Wait(site, lambda: site.repository.publish(bundles[2], 3))
    assert site.update().result == "unchanged" and site.version == "1.0.0"
    assert site.update().result == "updated" and site.version == "3.0.0"


def test_rollout_that_shrinks_while_its_release_waits_excludes_this_robot(
    site: Site, bundles: list[Bundle]
) -> None:
    none = {"percent": 0.0, "salt": "s"}
    site.repository.publish(bundles[1], 2)
    Wait(site, lambda: site.repository.publish(bundles[1], 2, rollout=none))
    state = site.update()
    assert (state.result, site.version) == ("unchanged", "1.0.0") and not state.rejections
    assert (
        state.reason
        == "release 2 (2.0.0) has been rolled out to 0 % of the robots, which do not include this one"
    )
    site.repository.publish(bundles[1], 2)
    assert site.update().result == "updated"


@pytest.mark.parametrize("phase", [Phase.PROBE, Phase.SHADOW, Phase.ARMED])
def test_rollout_that_shrank_during_an_interruption_excludes_this_robot(
    site: Site, bundles: list[Bundle], phase: Phase
) -> None:
    site.repository.publish(bundles[1], 2)
    with pytest.raises(Died):
        site.update(on_state=dies_in(phase))
    site.repository.publish(bundles[1], 2, rollout={"percent": 0.0, "salt": "s"})
    site.clock.sleep(3600.0)
    assert site.update().result == "unchanged" and site.version == "1.0.0"


def test_unreachable_repository_does_not_block_a_switch(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    Wait(site, lambda: setattr(site.repository, "error", unreachable()))
    assert site.update().result == "updated" and site.version == "2.0.0"
    output = (site.root / robot.AUDIT).read_text()
    assert "repository not checked before the switch" in output


def test_untrusted_repository_blocks_a_switch(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    Wait(site, lambda: setattr(site.repository, "error", TrustError("timestamp: has expired")))
    state = site.update()
    assert (state.result, state.reason, site.version) == ("failed", "timestamp: has expired", "1.0.0")


def test_robot_that_becomes_busy_during_the_repository_check_is_not_switched(
    site: Site, bundles: list[Bundle]
) -> None:
    site.repository.publish(bundles[1], 2)
    wait = Wait(site, lambda: None)
    refresh = site.repository.refresh
    busy_at: list[float] = []

    def slow(*args: object) -> object:
        if wait.serving.may_switch and not busy_at:
            busy_at.append(wait.seconds)
            wait.serving.may_switch = False
        return refresh(*args)  # type: ignore[arg-type]

    site.repository.refresh = slow  # type: ignore[assignment, method-assign]
    assert site.update().result == "updated"
    assert busy_at and wait.serving.swaps == ["2.0.0"]


# A clock set back does not show for how long.
@pytest.mark.parametrize(("hours", "num_requests"), [(0, 1), (1, 2), (-1, 2)])
def test_update_interrupted_long_before_its_switch_checks_the_repository_again(
    site: Site, bundles: list[Bundle], hours: int, num_requests: int
) -> None:
    site.repository.publish(bundles[1], 2)
    with pytest.raises(Died):
        site.update(on_state=dies_in(Phase.ARMED))
    site.clock.sleep(3600.0 * hours)
    assert site.update().result == "updated"
    assert site.repository.num_requests == num_requests
