"""Whole updates on a real folder: the active model, and rejections."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import InconclusiveError, StorageError, TrustError, UpdateError
from jepa_runtime.ota import audit_log, provisioning, state
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.trust.metadata import Floors
from tests.errors import code
from tests.ota.fleets import edit
from tests.ota.robots import NOW, Clock, Died, Serving, Site, dies_in, factory, unreachable


def test_update_to_a_new_release_activates_it(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    stored = site.update()
    assert (stored.result, site.version, site.good, site.slots) == ("updated", "2.0.0", "2.0.0", 2)
    assert stored.previous is not None and stored.previous.version == "1.0.0"
    assert site.reports == ["updated"]
    # Without a serving process, the model is tested again in its slot.
    assert site.gate.calls == ["check", "probe", "shadow", "probe"]
    assert state.load(site.root / "state.json") == stored


@pytest.mark.parametrize(
    ("budgets", "reason"),
    [({}, "sets no source of frames"), ({"max_error_ratio": None}, "the release sets no max_error_ratio")],
)
def test_update_without_a_comparison_logs_the_reason(
    site: Site, bundles: list[Bundle], budgets: dict[str, None], reason: str
) -> None:
    site.repository.publish(bundles[1], 2, budgets=budgets)
    assert site.update().result == "updated"
    log = audit_log.AuditLog(site.root / "audit.log", site.clock.now).entries()
    (why,) = (entry.facts["reason"] for entry in log if entry.event == "not compared")
    assert reason in why


def test_robot_outside_the_rollout_waits(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2, rollout={"percent": 0.0, "salt": "s"})
    state = site.update()
    assert state.result == "unchanged" and "0 % of the robots" in state.reason


@pytest.mark.parametrize("part", ["check", "probe", "shadow"])
def test_candidate_rejected_by_the_gate_is_never_active_and_not_retried_for_a_while(
    site: Site, bundles: list[Bundle], part: str
) -> None:
    site.repository.publish(bundles[1], 2)
    site.gate.bad = {"2.0.0": part}
    state = site.update()
    assert (state.result, state.reason) == ("rejected", f"2.0.0 does not pass {part}")
    assert (site.version, site.slots) == ("1.0.0", 1)
    request = len(site.gate.calls)
    again = site.update()
    assert again.result == "rejected" and "was rejected until 2026-03-01 13:00 UTC" in again.reason
    assert len(site.gate.calls) == request
    site.clock.sleep(3601)
    site.gate.bad = {}
    assert site.update().result == "updated"


def test_gate_receives_the_number_of_earlier_comparisons_of_a_candidate(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.repository.publish(bundles[1], 2)
    site.gate.bad = {"2.0.0": "shadow"}
    for _ in range(2):
        site.update(retry_rejected=True)
    ends = iter((InconclusiveError("the bag ends"), KeyboardInterrupt()))

    def judge(part: str, _: Path) -> None:
        if part == "shadow":
            raise next(ends)

    monkeypatch.setattr(site.gate, "_judge", judge)
    with pytest.raises(KeyboardInterrupt):
        site.update(retry_rejected=True)
    monkeypatch.undo()
    site.update(retry_rejected=True)
    assert site.gate.comparisons == [0, 1, 2, 3, 4]


def test_release_for_another_software_version_is_rejected_unless_allowed(
    site: Site, bundles: list[Bundle]
) -> None:
    site.repository.publish(bundles[1], 2, interface="e" * 64)
    assert "other actions, limits or steps" in site.update().reason
    assert site.update(any_interface=True, retry_rejected=True).result == "updated"


def test_release_not_offered_to_this_robot_is_installed_once_it_is(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2, hardware_ids=("orin",))
    for _ in range(5):
        state = site.update()
        assert state.result == "rejected" and "is for hardware orin, this robot is bench" in state.reason
        site.clock.sleep(3601)
    edit(site.root, hardware_ids=["bench", "orin"])
    assert site.update().result == "updated" and site.version == "2.0.0"


def test_model_that_fails_in_service_is_rolled_back(site: Site, bundles: list[Bundle]) -> None:
    site.serving = serving = Serving(bad=("2.0.0",))
    site.repository.publish(bundles[1], 2)
    state = site.update()
    assert (state.result, state.reason) == ("rejected", "it computes NaN")
    assert serving.swaps == ["2.0.0", "1.0.0"]
    assert (site.version, site.good, site.slots) == ("1.0.0", "1.0.0", 1)


def test_model_that_was_replaced_before_the_commit_is_not_committed(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.serving = serving = Serving()
    serving.swap(bundles[0].path)
    monkeypatch.setattr(serving, "swap", lambda folder: None)
    site.repository.publish(bundles[1], 2)
    state = site.update()
    assert (state.result, state.reason) == (
        "rejected",
        f"the serving process runs {bundles[0].sha256[:12]} instead of the candidate",
    )
    assert (site.version, site.good) == ("1.0.0", "1.0.0")


def test_new_model_is_monitored_for_the_whole_window(site: Site, bundles: list[Bundle]) -> None:
    site.serving = Serving()
    site.repository.publish(bundles[1], 2)
    lived: list[float] = []
    site.update(heartbeat=lambda: lived.append(site.clock.seconds))
    assert 30 <= site.clock.seconds < 32
    assert all(later - sooner <= 1 for sooner, later in pairwise(lived)), "otherwise its watchdog ends it"
    assert site.gate.calls.count("probe") == 1


def test_switch_waits_for_a_safe_moment(site: Site, bundles: list[Bundle]) -> None:
    site.serving = serving = Serving()
    serving.may_switch = False
    site.repository.publish(bundles[1], 2)

    class Busy(Clock):
        def sleep(self, seconds: float, /) -> None:
            super().sleep(seconds)
            serving.may_switch = self.seconds > 300
            assert serving.may_switch or not serving.swaps

    site.clock = Busy()
    assert site.update().result == "updated"
    assert serving.swaps == ["2.0.0"]


def test_update_with_a_transient_network_failure_retries(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    site.repository.error = unreachable()

    class RecoveringClock(Clock):
        def sleep(self, seconds: float, /) -> None:
            super().sleep(seconds)
            site.repository.error = None

    site.clock = RecoveringClock()
    assert site.update().result == "updated"


def test_untrusted_repository_is_not_queried_twice(site: Site) -> None:
    site.repository.error = TrustError("timestamp: has expired")
    state = site.update()
    assert (state.result, state.reason, site.clock.seconds) == ("failed", "timestamp: has expired", 0)


def test_older_signed_release_is_rejected(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[2], 7)
    site.update()
    site.repository.publish(bundles[1], 6)
    state = site.update()
    assert state.result == "failed" and "offers release 6, but release 7 was offered before" in state.reason
    site.repository.publish(bundles[1], 8)
    assert site.update().result == "updated" and site.version == "2.0.0"


def test_refresh_sets_the_version_floor_of_the_next_one(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    site.repository.seen = Floors({"timestamp": 41, "snapshot": 7}, NOW)
    site.update()
    site.update()
    assert site.repository.floors is not None
    assert (site.repository.floors.versions, site.repository.floors.signed_at) == (
        {"timestamp": 41, "snapshot": 7},
        NOW,
    )


def test_first_model_of_a_robot_has_no_rollback_target(tmp_path: Path, bundles: list[Bundle]) -> None:
    site = Site(tmp_path / "robot", None)
    site.repository.publish(bundles[1], 2)
    site.serving = Serving(bad=("2.0.0",))
    assert site.update().result == "rejected" and not (site.root / "current").exists()
    site.serving = Serving()
    assert site.update(retry_rejected=True).result == "updated" and site.version == "2.0.0"


def test_concurrent_updates_are_rejected(site: Site) -> None:
    with site.opened(), pytest.raises(StorageError, check=code("storage.locked")), site.opened():
        pass


def test_stopped_update_continues_without_a_failed_attempt(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.update(on_progress=stop)
    stored = state.load(site.root / "state.json")
    assert (stored.phase, stored.stopped) == (Phase.DOWNLOAD, True)
    with site.opened() as client, pytest.raises(UpdateError, check=code("update.in_progress")):
        client.check()
    messages: list[State] = []
    assert site.update(on_state=lambda state, _: messages.append(state)).result == "updated"
    assert all(not state.attempts for state in messages)


def test_probe_killed_by_a_shutdown_is_not_counted_against_its_model(
    site: Site, bundles: list[Bundle]
) -> None:
    site.repository.publish(bundles[1], 2)
    site.gate.bad = {"2.0.0": "probe"}

    def heartbeat() -> None:
        if "probe" in site.gate.calls:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.update(heartbeat=heartbeat)
    stored = state.load(site.root / "state.json")
    assert (stored.phase, stored.stopped, stored.rejections) == (Phase.PROBE, True, {})
    site.gate.bad = {}
    assert site.update().result == "updated"


def test_removed_links_are_restored(site: Site) -> None:
    (site.root / "current").unlink()
    with site.opened():
        assert site.version == "1.0.0"


def test_lost_state_is_rebuilt_from_the_slots(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    site.update()
    (site.root / "state.json").write_bytes(b"\0" * 100)
    with pytest.raises(StorageError, check=code("storage.state_damaged")):
        site.update()
    state = provisioning.rebuild(site.root)
    assert state.current is not None and state.current.version == "2.0.0" and state.current == state.good
    site.repository.publish(bundles[2], 3)
    assert site.update().result == "updated"


def test_state_lost_before_the_commit_starts_with_a_rollback(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    with pytest.raises(Died):
        site.update(on_state=dies_in(Phase.OBSERVE))
    assert site.version == "2.0.0"
    (site.root / "state.json").unlink()
    provisioning.rebuild(site.root)
    site.repository.error = unreachable()
    site.update()
    assert site.version == site.good == "1.0.0"


def test_provision_of_an_existing_robot_is_rejected(site: Site, bundles: list[Bundle]) -> None:
    with pytest.raises(UpdateError, check=code("update.already_provisioned")):
        factory(site.root, bundles[1])
    assert site.version == "1.0.0"
