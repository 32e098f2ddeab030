"""Checks of the offer, and updates that may not start anything new."""

from __future__ import annotations

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.ota.state import Phase
from tests.ota.robots import Died, Site, dies_in


def test_second_check_finds_nothing_new(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    site.update()
    before = site.root.joinpath("audit.log").read_bytes()
    state = site.update()
    assert (state.result, state.reason) == ("unchanged", "release 2 (2.0.0) is active")
    assert site.root.joinpath("audit.log").read_bytes() == before


def test_check_rolls_nothing_back(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    site.update()
    site.repository.publish(bundles[2], 3, revoked=(2,), rollout={"percent": 0.0, "salt": "s"})
    with site.opened() as client:
        assert client.check() is None
        assert (
            client.state.reason
            == "release 2, the active model, was revoked: `jepa-runtime update apply` rolls back"
        )
    assert site.version == "2.0.0"
    assert site.update().result == "unchanged" and site.version == "1.0.0"


def test_finish_only_update_starts_nothing_new(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    with site.opened() as client:
        assert client.update(begin=False).result == "none"
    assert site.repository.num_requests == 0
    with pytest.raises(Died):
        site.update(on_state=dies_in(Phase.PROBE))
    with site.opened() as client:
        assert client.update(begin=False).result == "updated"


def test_fleet_order_for_an_unlisted_version_installs_nothing(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    state = site.update(only_version="3.0.0")
    assert (state.result, site.version) == ("unchanged", "1.0.0")
    assert state.reason.startswith("the fleet requests version 3.0.0, which channel stable does not list")
    assert site.update(only_version="2.0.0").result == "updated"
