"""Replacement of revoked releases, and its exceptions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import UpdateError
from jepa_runtime.ota import operator_requests, state, state_machine
from jepa_runtime.ota.storage.slots import SlotStore
from tests.errors import code
from tests.ota.robots import Serving, Site


def test_revoked_release_is_replaced_even_on_a_pinned_robot(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    site.update()
    operator_requests.pin(site.root, pinned=True)
    site.repository.publish(bundles[2], 3, revoked=(2,))
    state = site.update()
    assert site.version == site.good == "1.0.0"
    assert "pinned" in state.reason
    assert site.reports == ["updated", "rolled_back"]
    operator_requests.pin(site.root, pinned=False)
    assert site.update().result == "updated" and site.version == "3.0.0"


def test_rollback_without_a_safe_moment_rejects_no_release(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_machine, "MAX_WAITS", 20)
    site.serving = serving = Serving()
    site.repository.publish(bundles[1], 2)
    site.update()
    serving.may_switch = False
    site.repository.publish(bundles[2], 3, revoked=(2,))
    state = site.update()
    assert (state.result, site.version) == ("failed", "2.0.0")
    assert (
        state.reason
        == "release 2, the active model, was revoked; the robot does not allow a model switch now"
    )
    assert state.rejections == {} and site.reports == ["updated", "failed"]
    serving.may_switch = True
    assert site.update().result == "updated" and site.version == "3.0.0"


def test_offered_release_is_not_revoked_under_its_earlier_version(site: Site, bundles: list[Bundle]) -> None:
    for seq, bundle in enumerate((bundles[1], bundles[2]), 2):
        site.repository.publish(bundle, seq)
        assert site.update().result == "updated"
    site.repository.publish(bundles[2], 5, revoked=(3,))
    state = site.update()
    assert (state.result, state.alarm, state.rejections, site.version) == ("unchanged", "", {}, "3.0.0")
    assert state.current is not None and state.current.release_seq == 5


def test_factory_model_is_revoked_by_its_manifest_hash(site: Site, bundles: list[Bundle]) -> None:
    """The robot does not know the release version of its factory model."""
    revocation = {"revoked": (1,), "revoked_manifests": (bundles[0].sha256,)}
    site.repository.publish(bundles[1], 2, rollout={"percent": 0.0, "salt": "s"}, **revocation)
    assert "the active model, was revoked, and there is no other" in site.update().alarm
    site.repository.publish(bundles[1], 2, **revocation)
    assert site.update().alarm == "" and site.version == "2.0.0"
    revocation = {"revoked": (1, 2), "revoked_manifests": (bundles[0].sha256, bundles[1].sha256)}
    site.repository.publish(bundles[2], 3, rollout={"percent": 0.0, "salt": "s"}, **revocation)
    assert "there is no other model to go back to" in site.update().alarm
    assert site.version == "2.0.0", "the release before it was revoked as well"


def test_release_revoked_by_hash_is_replaced_regardless_of_its_channel(
    site: Site, bundles: list[Bundle]
) -> None:
    site.repository.publish(bundles[1], 2)
    assert site.update().result == "updated"
    stored = state.load(site.root / "state.json")
    assert stored.current is not None
    earlier = replace(stored.current, channel="canary")
    state.save(site.root / "state.json", replace(stored, current=earlier, good=earlier))
    revocation = {"revoked": (2,), "revoked_manifests": (bundles[1].sha256,)}
    site.repository.publish(bundles[2], 3, rollout={"percent": 0.0, "salt": "s"}, **revocation)
    site.update()
    assert site.version == site.good == "1.0.0"


def test_revoked_release_without_an_alternative_stays_active_and_raises_an_alarm(
    site: Site, bundles: list[Bundle]
) -> None:
    site.repository.publish(bundles[0], 4)
    site.update()
    site.repository.publish(bundles[1], 9, revoked=(4,), rollout={"percent": 0.0, "salt": "s"})
    state = site.update()
    assert site.version == "1.0.0"
    assert state.alarm == (
        "release 4, the active model, was revoked, and there is no other model to go back to: it stays active"
    )
    site.repository.publish(bundles[1], 9, revoked=(4,))
    assert site.update().alarm == "" and site.version == "2.0.0"


def _before_it_revoked(site: Site, bundles: list[Bundle]) -> None:
    """Return a robot with the active model 3.0.0 whose earlier model 2.0.0 is revoked."""
    for seq, bundle in enumerate((bundles[1], bundles[2]), 2):
        site.repository.publish(bundle, seq)
        assert site.update().result == "updated"
    site.repository.publish(bundles[2], 3, revoked=(2,))


def test_manual_rollback_to_a_revoked_release_is_refused(site: Site, bundles: list[Bundle]) -> None:
    _before_it_revoked(site, bundles)
    assert site.update().result == "unchanged"
    with pytest.raises(UpdateError, check=code("update.no_earlier_model")):
        operator_requests.rollback(site.root, "by hand", now=site.clock.now)
    assert site.version == site.good == "3.0.0"


def test_damaged_active_model_is_not_replaced_by_a_revoked_one(site: Site, bundles: list[Bundle]) -> None:
    _before_it_revoked(site, bundles)
    report = (site.root / "current" / "report.json").resolve()
    report.chmod(0o644)
    report.write_bytes(b"{}")
    state = site.update()
    assert "the active model, is damaged" in state.alarm and state.alarm.endswith("it stays active")
    assert SlotStore(site.root).manifest(SlotStore(site.root).current() or "").version == "3.0.0"
