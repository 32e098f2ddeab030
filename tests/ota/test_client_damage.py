"""A disk that damages slots: a valid model stays active, and a new release fixes the robot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jepa_runtime.bundle import MANIFEST_NAME, Bundle
from jepa_runtime.errors import TrustError
from jepa_runtime.ota import audit_log, operator_requests
from jepa_runtime.ota.release import Delta
from jepa_runtime.ota.robot import AUDIT
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.storage.slots import MARK, SlotStore
from tests.ota.robots import Died, Serving, Site, dies_in, unreachable


@pytest.fixture
def updated(site: Site, bundles: list[Bundle]) -> Site:
    """Return a robot with the active model 2.0.0 after 1.0.0."""
    site.repository.publish(bundles[1], 2)
    assert site.update().result == "updated"
    return site


def damage(site: Site, bundle: Bundle, name: str) -> None:
    path = SlotStore(site.root).folder(bundle.sha256) / name
    path.chmod(0o644)
    path.write_text("{}", encoding="utf-8")


def leave_pending_rollback(site: Site, bundle: Bundle) -> None:
    """The rollback target was damaged at the rollback, and is intact again."""
    damage(site, bundle, "report.json")
    operator_requests.rollback(site.root, "it drifts", now=site.clock.now)
    path = SlotStore(site.root).folder(bundle.sha256) / "report.json"
    path.write_bytes((bundle.path / "report.json").read_bytes())


def logged(site: Site) -> list[str]:
    return [entry.event for entry in audit_log.AuditLog(site.root / AUDIT, site.clock.now).entries()]


def test_rollback_to_a_damaged_slot_is_refused(updated: Site, bundles: list[Bundle]) -> None:
    damage(updated, bundles[0], "report.json")
    state = operator_requests.rollback(updated.root, "it drifts", now=updated.clock.now)
    assert state.result == "failed"
    assert state.alarm.startswith("the rollback failed: ") and "report.json" in state.alarm
    assert updated.version == "2.0.0"


@pytest.mark.parametrize("revoked", [(), (2,)], ids=["it stays active", "it was revoked"])
def test_damaged_rollback_target_does_not_block_the_fix(
    updated: Site, bundles: list[Bundle], revoked: tuple[int, ...]
) -> None:
    damage(updated, bundles[0], "report.json")
    operator_requests.rollback(updated.root, "it drifts", now=updated.clock.now)
    for _ in range(3):
        state = updated.update()
        assert state.alarm.startswith("the rollback failed: "), "nothing has changed"
        assert updated.version == "2.0.0" and state.good is not None and state.good.version == "1.0.0"
    updated.repository.publish(bundles[2], 3, revoked=revoked)
    state = updated.update()
    assert (state.result, state.alarm, updated.version, updated.good) == ("updated", "", "3.0.0", "3.0.0")


def test_damaged_rollback_target_offered_again_is_downloaded_again(
    updated: Site, bundles: list[Bundle]
) -> None:
    damage(updated, bundles[0], "report.json")
    operator_requests.rollback(updated.root, "it drifts", now=updated.clock.now)
    updated.repository.publish(bundles[0], 3)
    state = updated.update()
    assert (state.result, state.alarm, updated.version, updated.good) == ("updated", "", "1.0.0", "1.0.0")


def test_check_does_not_execute_a_pending_rollback(updated: Site, bundles: list[Bundle]) -> None:
    leave_pending_rollback(updated, bundles[0])
    with updated.opened() as client:
        assert client.check() is None
    assert updated.version == "2.0.0"
    assert updated.update().alarm == "" and updated.version == "1.0.0"


def test_update_that_started_with_a_rollback_installs_the_new_release(
    updated: Site, bundles: list[Bundle]
) -> None:
    leave_pending_rollback(updated, bundles[0])
    updated.repository.publish(bundles[2], 3)
    state = updated.update()
    assert (state.result, state.alarm, updated.version) == ("updated", "", "3.0.0")
    assert state.previous is not None and state.previous.version == "1.0.0"


def test_manual_rollback_ends_an_update_that_started_with_a_rollback(
    updated: Site, bundles: list[Bundle]
) -> None:
    leave_pending_rollback(updated, bundles[0])
    with pytest.raises(Died):
        updated.update(on_state=dies_in(Phase.ROLLBACK))
    state = operator_requests.rollback(updated.root, "it drifts still", now=updated.clock.now)
    assert (state.phase, state.result, state.reason) == (Phase.IDLE, "rolled_back", "it drifts still")
    assert updated.version == "1.0.0"


def test_failing_model_is_rolled_back_past_a_damaged_one(updated: Site, bundles: list[Bundle]) -> None:
    damage(updated, bundles[1], "report.json")
    updated.serving = serving = Serving(bad=("3.0.0",))
    updated.repository.publish(bundles[2], 3)
    state = updated.update()
    assert (state.result, state.alarm, updated.version, updated.good) == ("rejected", "", "1.0.0", "1.0.0")
    assert serving.swaps == ["3.0.0", "1.0.0"]
    assert "the last known good model is damaged" in logged(updated)


def test_rollback_with_only_damaged_targets_activates_none(updated: Site, bundles: list[Bundle]) -> None:
    for bundle in bundles[:2]:
        damage(updated, bundle, "report.json")
    updated.serving = serving = Serving(bad=("3.0.0",))
    updated.repository.publish(bundles[2], 3)
    state = updated.update()
    assert state.alarm.startswith("the rollback failed: ") and "report.json" in state.alarm
    assert serving.swaps == ["3.0.0"] and state.good is not None and state.good.version == "2.0.0"
    store = SlotStore(updated.root)
    assert (store.current(), store.good()) == (bundles[2].sha256, bundles[1].sha256)


def test_candidate_damaged_after_the_gate_is_not_activated(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    versions: set[str] = set()

    def tell(state: State, _: str) -> None:
        if state.phase is Phase.SWITCH:
            damage(site, bundles[1], "report.json")
        versions.add(site.version)

    state = site.update(on_state=tell)
    assert state.result == "rejected" and "report.json" in state.reason
    assert versions == {"1.0.0"}


def test_robot_with_a_lost_slot_is_fixed_by_a_release(updated: Site, bundles: list[Bundle]) -> None:
    (SlotStore(updated.root).slots / bundles[1].sha256 / MARK).unlink()
    updated.repository.publish(bundles[2], 3)
    assert updated.update().result == "updated" and updated.version == updated.good == "3.0.0"


@pytest.mark.parametrize("name", [MANIFEST_NAME, "report.json"])
def test_robot_with_a_damaged_model_is_fixed_by_a_release(
    updated: Site, bundles: list[Bundle], name: str
) -> None:
    damage(updated, bundles[1], name)
    updated.gate.bad = {"3.0.0": "shadow"}
    updated.repository.publish(bundles[2], 3)
    assert updated.update().result == "updated" and updated.version == "3.0.0"
    assert "not compared" in logged(updated)


def test_damaged_active_model_is_replaced_until_it_is_downloaded_again(
    updated: Site, bundles: list[Bundle]
) -> None:
    updated.serving = serving = Serving()
    damage(updated, bundles[1], "report.json")
    state = updated.update()
    assert (state.result, state.alarm, state.rejections) == ("updated", "", {})
    assert serving.swaps == ["1.0.0", "2.0.0"] and updated.version == updated.good == "2.0.0"
    assert state.previous is not None and state.previous.version == "1.0.0"
    assert updated.update().result == "unchanged"


@pytest.mark.parametrize("created", [unreachable, lambda: TrustError("expired")], ids=["away", "expired"])
def test_damaged_active_model_is_replaced_while_the_repository_is_unreachable(
    updated: Site, bundles: list[Bundle], created: Callable[[], Exception]
) -> None:
    """Otherwise a deployed robot has no model after its next start."""
    updated.serving = serving = Serving()
    damage(updated, bundles[1], "report.json")
    updated.repository.error = created()
    serving.may_switch = False
    assert updated.update().result == "failed" and serving.swaps == []
    serving.may_switch = True
    state = updated.update()
    assert (state.result, state.alarm, state.rejections) == ("failed", "", {})
    assert serving.swaps == ["1.0.0"] and updated.version == updated.good == "1.0.0"
    assert "rolled_back" in updated.reports
    updated.repository.error = None
    assert updated.update().result == "updated" and updated.version == "2.0.0"


@pytest.mark.parametrize("pinned", [False, True])
def test_damaged_active_model_without_an_alternative_stays_active(
    updated: Site, bundles: list[Bundle], pinned: bool
) -> None:
    if pinned:
        operator_requests.pin(updated.root, pinned=True)
    else:
        damage(updated, bundles[0], "report.json")
    damage(updated, bundles[1], "report.json")
    updated.repository.error = unreachable()
    state = updated.update()
    assert state.result == "failed" and "cannot be reached" in state.reason
    assert state.current is not None and state.current.version == "2.0.0"


def test_check_reports_a_damaged_active_model(updated: Site, bundles: list[Bundle]) -> None:
    damage(updated, bundles[1], "report.json")
    with updated.opened() as client:
        assert client.check() is None
        assert "2.0.0, the active model, is damaged: " in client.state.reason
        assert client.state.reason.endswith(": `jepa-runtime update apply` rolls back")


@pytest.mark.parametrize("case", ["there is no other", "the other is damaged too", "it is pinned"])
def test_damaged_active_model_without_an_alternative_needs_an_operator(
    site: Site, bundles: list[Bundle], case: str
) -> None:
    site.repository.publish(bundles[0], 1)
    active = bundles[0]
    if case != "there is no other":
        site.repository.publish(bundles[1], 2)
        assert site.update().result == "updated"
        active = bundles[1]
    if case == "the other is damaged too":
        damage(site, bundles[0], "report.json")
    if case == "it is pinned":
        operator_requests.pin(site.root, pinned=True, now=site.clock.now)
    damage(site, active, "report.json")
    site.serving = serving = Serving()
    state = site.update()
    assert state.result == "unchanged" and not serving.swaps
    assert ", the active model, is damaged: " in state.alarm and "report.json" in state.alarm
    assert SlotStore(site.root).current() == active.sha256
    assert site.update().alarm == state.alarm and logged(site).count("alarm") == 1


def lose(path: Path) -> None:
    path.parent.chmod(0o755)
    path.unlink()


def fail(path: Path) -> None:
    """Let reading fail, as on a disk with unreadable sectors."""
    lose(path)
    path.symlink_to("/proc/self/mem")


@pytest.mark.parametrize("harm", [lose, fail])
def test_file_missing_from_a_slot_is_fetched_from_the_repository(
    site: Site, bundles: list[Bundle], harm: Callable[[Path], None]
) -> None:
    name = next(record.path for record in bundles[0].manifest.files if record.path != "report.json")
    harm(SlotStore(site.root).folder(bundles[0].sha256) / name)
    release = site.repository.publish(bundles[1], 2)
    assert site.update().result == "updated" and site.version == "2.0.0"
    assert f"{release.folder}/{name}" in site.repository.fetched
    assert "slot not usable, file is downloaded" in logged(site)


def test_delta_with_an_unreadable_base_falls_back_to_the_whole_file(
    site: Site, bundles: list[Bundle]
) -> None:
    release_deltas = pytest.importorskip(
        "jepa_export.release.delta_maker", reason="extra export is not installed"
    )
    name, (old, new) = "report.json", bundles[:2]
    content = release_deltas.make(old.read(name), new.read(name))
    base = next(record.sha256 for record in old.manifest.files if record.path == name)
    site.repository.files["deltas/one"] = content
    lose(SlotStore(site.root).folder(old.sha256) / name)
    site.repository.publish(
        new, 2, deltas=(Delta(path=name, base_sha256=base, target="deltas/one", bytes=1),)
    )
    assert site.update().result == "updated" and site.version == "2.0.0"
    assert "delta not usable, whole file is downloaded" in logged(site)


def test_log_with_a_damaged_end_does_not_block_updates(updated: Site, bundles: list[Bundle]) -> None:
    path = updated.root / AUDIT
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-1], b"\x00" * 40 + b"\n"]))
    state = operator_requests.rollback(updated.root, "it drifts", now=updated.clock.now)
    assert (state.result, updated.version) == ("rolled_back", "1.0.0")


def test_model_without_requests_is_not_committed_before_its_first_one(
    site: Site, bundles: list[Bundle]
) -> None:
    class Docked(Serving):
        def health(self) -> object:
            result = super().health()
            return type(result)(**vars(result) | {"idle": site.clock.seconds < 3600})

    site.serving = Docked()
    site.repository.publish(bundles[1], 2)
    assert site.update().result == "updated"
    assert site.clock.seconds >= 3600
