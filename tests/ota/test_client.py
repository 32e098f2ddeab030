"""Whole updates on a real folder: what then serves, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import InconclusiveError, StorageError, TrustError, UpdateError
from jepa_runtime.ota import audit_log, operator_requests, provisioning, state
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.trust.metadata import Floors
from tests.errors import code
from tests.ota.fleets import edit
from tests.ota.robots import NOW, Clock, Died, Serving, Site, dies_in, factory, unreachable


def test_a_release_is_installed_and_serves(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    kept = site.update()
    assert (kept.result, site.version, site.good, site.slots) == ("updated", "2.0.0", "2.0.0", 2)
    assert kept.previous is not None and kept.previous.version == "1.0.0"
    assert site.reports == ["updated"]
    # Without anybody to watch, the model is tried once more from its new place.
    assert site.gate.calls == ["check", "probe", "shadow", "probe"]
    assert state.load(site.root / "state.json") == kept


@pytest.mark.parametrize(
    ("budgets", "reason"),
    [({}, "sets no source of frames"), ({"max_error_ratio": None}, "the release sets no max_error_ratio")],
)
def test_why_nothing_was_compared_is_in_the_log(
    site: Site, bundles: list[Bundle], budgets: dict[str, None], reason: str
) -> None:
    site.repository.publish(bundles[1], 2, budgets=budgets)
    assert site.update().result == "updated"
    log = audit_log.AuditLog(site.root / "audit.log", site.clock.now).entries()
    (why,) = (entry.facts["reason"] for entry in log if entry.event == "not compared")
    assert reason in why


def test_the_same_bytes_under_another_number_are_not_installed_again(
    site: Site, bundles: list[Bundle]
) -> None:
    site.repository.publish(bundles[0], 9)
    kept = site.update()
    assert kept.result == "unchanged" and kept.current == kept.good
    assert kept.current is not None and kept.current.release_seq == 9


def test_a_robot_outside_of_the_rollout_waits(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2, rollout={"percent": 0.0, "salt": "s"})
    kept = site.update()
    assert kept.result == "unchanged" and "0 % of the robots" in kept.reason


def test_a_pinned_robot_stays_until_it_is_unpinned(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    operator_requests.pin(site.root, pinned=True)
    assert (
        site.update().reason == "release 2 (2.0.0) is offered, but this robot is pinned to its active model"
    )
    operator_requests.pin(site.root, pinned=False)
    assert site.update().result == "updated"


@pytest.mark.parametrize("part", ["check", "probe", "shadow"])
def test_what_does_not_pass_the_gate_never_serves_and_is_left_alone_for_a_while(
    site: Site, bundles: list[Bundle], part: str
) -> None:
    site.repository.publish(bundles[1], 2)
    site.gate.bad = {"2.0.0": part}
    kept = site.update()
    assert (kept.result, kept.reason) == ("refused", f"2.0.0 does not pass {part}")
    assert (site.version, site.slots) == ("1.0.0", 1)
    asked = len(site.gate.calls)
    again = site.update()
    assert again.result == "refused" and "was rejected until 2026-03-01 13:00 UTC" in again.reason
    assert len(site.gate.calls) == asked
    site.clock.sleep(3601)
    site.gate.bad = {}
    assert site.update().result == "updated"


def test_a_comparison_is_told_how_often_its_candidate_was_compared_before(
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


def test_a_refused_release_is_tried_at_once_if_asked_for(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    site.gate.bad = {"2.0.0": "probe"}
    site.update()
    site.gate.bad = {}
    kept = site.update(retry_rejected=True)
    assert kept.result == "updated" and not kept.refused


def test_a_release_for_other_software_is_refused_unless_that_is_allowed(
    site: Site, bundles: list[Bundle]
) -> None:
    site.repository.publish(bundles[1], 2, interface="e" * 64)
    assert "other actions, limits or steps" in site.update().reason
    assert site.update(any_interface=True, retry_rejected=True).result == "updated"


def test_what_was_not_for_this_robot_is_taken_as_soon_as_it_is(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2, hardware_ids=("orin",))
    for _ in range(5):
        kept = site.update()
        assert kept.result == "refused" and "is for hardware orin, this robot is bench" in kept.reason
        site.clock.sleep(3601)
    edit(site.root, hardware_ids=["bench", "orin"])
    assert site.update().result == "updated" and site.version == "2.0.0"


def test_a_model_that_fails_in_service_makes_way(site: Site, bundles: list[Bundle]) -> None:
    site.serving = serving = Serving(bad=("2.0.0",))
    site.repository.publish(bundles[1], 2)
    kept = site.update()
    assert (kept.result, kept.reason) == ("refused", "it computes NaN")
    assert serving.swaps == ["2.0.0", "1.0.0"]
    assert (site.version, site.good, site.slots) == ("1.0.0", "1.0.0", 1)


def test_a_model_in_whose_place_another_serves_is_not_committed_to(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.serving = serving = Serving()
    serving.swap(bundles[0].path)
    monkeypatch.setattr(serving, "swap", lambda folder: None)
    site.repository.publish(bundles[1], 2)
    kept = site.update()
    assert (kept.result, kept.reason) == (
        "refused",
        f"the serving process runs {bundles[0].sha256[:12]} instead of the candidate",
    )
    assert (site.version, site.good) == ("1.0.0", "1.0.0")


def test_a_model_is_watched_for_the_whole_window(site: Site, bundles: list[Bundle]) -> None:
    site.serving = Serving()
    site.repository.publish(bundles[1], 2)
    lived: list[float] = []
    site.update(heartbeat=lambda: lived.append(site.clock.seconds))
    assert 30 <= site.clock.seconds < 32
    assert all(later - sooner <= 1 for sooner, later in pairwise(lived)), "else its watchdog ends it"
    assert site.gate.calls.count("probe") == 1


def test_the_switch_waits_for_a_safe_moment(site: Site, bundles: list[Bundle]) -> None:
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


def test_a_network_that_fails_for_a_moment_costs_a_moment(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    site.repository.error = unreachable()

    class Mended(Clock):
        def sleep(self, seconds: float, /) -> None:
            super().sleep(seconds)
            site.repository.error = None

    site.clock = Mended()
    assert site.update().result == "updated"


def test_a_network_that_fails_for_good_leaves_everything_as_it_is(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    site.repository.error = unreachable()
    kept = site.update()
    assert (kept.result, kept.reason) == ("failed", str(unreachable()))
    assert (site.version, kept.refused) == ("1.0.0", {})


def test_a_repository_that_cannot_be_trusted_is_not_asked_twice(site: Site) -> None:
    site.repository.error = TrustError("timestamp: has expired")
    kept = site.update()
    assert (kept.result, kept.reason, site.clock.seconds) == ("failed", "timestamp: has expired", 0)


def test_an_older_release_is_not_taken_even_if_it_is_signed(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[2], 7)
    site.update()
    site.repository.publish(bundles[1], 6)
    kept = site.update()
    assert kept.result == "failed" and "offers release 6, but release 7 was offered before" in kept.reason
    site.repository.publish(bundles[1], 8)
    assert site.update().result == "updated" and site.version == "2.0.0"


def test_what_a_refresh_saw_is_the_floor_of_the_next(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    site.repository.seen = Floors({"timestamp": 41, "snapshot": 7}, NOW)
    site.update()
    site.update()
    assert site.repository.floors is not None
    assert (site.repository.floors.versions, site.repository.floors.signed_at) == (
        {"timestamp": 41, "snapshot": 7},
        NOW,
    )


def test_going_back_by_hand_is_not_undone_by_the_next_update(site: Site, bundles: list[Bundle]) -> None:
    site.serving = serving = Serving()
    site.repository.publish(bundles[1], 2)
    site.update()
    with site.opened() as client:
        kept = client.rollback("it drifts")
    assert (site.version, site.good, kept.result, kept.alarm) == ("1.0.0", "1.0.0", "reverted", "")
    assert serving.swaps == ["2.0.0", "1.0.0"]
    assert "was rejected: it drifts" in site.update().reason
    site.gate.bad = {"2.0.0": "shadow"}
    assert site.update(retry_rejected=True).reason == "2.0.0 does not pass shadow"
    site.clock.sleep(3601)
    assert "was rejected: it drifts" in site.update().reason, (
        "tried once more by hand, and still refused for good"
    )
    with site.opened() as client, pytest.raises(UpdateError, check=code("update.no_earlier_model")):
        client.rollback("again")


def test_the_first_model_of_a_robot_has_nothing_to_go_back_to(tmp_path: Path, bundles: list[Bundle]) -> None:
    site = Site(tmp_path / "robot", None)
    site.repository.publish(bundles[1], 2)
    site.serving = Serving(bad=("2.0.0",))
    assert site.update().result == "refused" and not (site.root / "current").exists()
    site.serving = Serving()
    assert site.update(retry_rejected=True).result == "updated" and site.version == "2.0.0"


def test_one_update_at_a_time(site: Site) -> None:
    with site.opened(), pytest.raises(StorageError, check=code("storage.locked")), site.opened():
        pass


def test_an_update_that_was_stopped_goes_on_without_a_failed_attempt(
    site: Site, bundles: list[Bundle]
) -> None:
    site.repository.publish(bundles[1], 2)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.update(on_progress=stop)
    kept = state.load(site.root / "state.json")
    assert (kept.phase, kept.stopped) == (Phase.DOWNLOAD, True)
    with site.opened() as client, pytest.raises(UpdateError, check=code("update.in_progress")):
        client.check()
    told: list[State] = []
    assert site.update(on_state=lambda kept, _: told.append(kept)).result == "updated"
    assert all(not kept.attempts for kept in told)


def test_a_probe_that_dies_because_all_is_stopped_is_not_held_against_its_model(
    site: Site, bundles: list[Bundle]
) -> None:
    site.repository.publish(bundles[1], 2)
    site.gate.bad = {"2.0.0": "probe"}

    def heartbeat() -> None:
        if "probe" in site.gate.calls:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.update(heartbeat=heartbeat)
    kept = state.load(site.root / "state.json")
    assert (kept.phase, kept.stopped, kept.refused) == (Phase.PROBE, True, {})
    site.gate.bad = {}
    assert site.update().result == "updated"


def test_links_that_somebody_removed_are_made_again(site: Site) -> None:
    (site.root / "current").unlink()
    with site.opened():
        assert site.version == "1.0.0"


def test_a_lost_state_is_made_again_from_the_slots(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    site.update()
    (site.root / "state.json").write_bytes(b"\0" * 100)
    with pytest.raises(StorageError, check=code("storage.state_damaged")):
        site.update()
    kept = provisioning.rebuild(site.root)
    assert kept.current is not None and kept.current.version == "2.0.0" and kept.current == kept.good
    site.repository.publish(bundles[2], 3)
    assert site.update().result == "updated"


def test_a_state_lost_before_the_commit_begins_with_the_way_back(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    with pytest.raises(Died):
        site.update(on_state=dies_in(Phase.OBSERVE))
    assert site.version == "2.0.0"
    (site.root / "state.json").unlink()
    provisioning.rebuild(site.root)
    site.repository.error = unreachable()
    site.update()
    assert site.version == site.good == "1.0.0"


def test_a_robot_is_set_up_only_once(site: Site, bundles: list[Bundle]) -> None:
    with pytest.raises(UpdateError, check=code("update.already_provisioned")):
        factory(site.root, bundles[1])
    assert site.version == "1.0.0"
