"""Robots without a battery-backed clock, which start with a wrong date: rejections persist."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.ota.state_machine import FIRST_REJECTION
from jepa_runtime.ota.trust.metadata import Floors
from tests.ota.robots import NOW, Clock, Serving, Site

SIGNED = NOW - timedelta(days=4)


class Unset(Clock):
    """A clock that starts at any time at a boot."""

    def __init__(self) -> None:
        super().__init__()
        self.boot = NOW

    def now(self) -> datetime:
        return self.boot + timedelta(seconds=self.seconds)


@pytest.fixture
def unset(site: Site, bundles: list[Bundle]) -> Site:
    """Return a robot that is offered a failing model; the repository was signed four days ago."""
    site.clock, site.serving = Unset(), Serving(bad=("2.0.0",))
    site.repository.seen = Floors({"timestamp": 1}, SIGNED)
    site.repository.publish(bundles[1], 2)
    return site


def boots(site: Site, at: datetime) -> str:
    assert isinstance(site.clock, Unset) and site.serving is not None
    site.clock.boot, site.clock.seconds = at, 20.0
    swaps = len(site.serving.swaps)
    site.update()
    return "tried" if len(site.serving.swaps) > swaps else "left alone"


@pytest.mark.parametrize("epoch", [1970, 2024])
def test_rejected_release_is_not_retried_at_each_boot(unset: Site, epoch: int) -> None:
    start = datetime(epoch, 1, 1, tzinfo=timezone.utc)
    messages = []
    for boot in range(6):
        messages += [boots(unset, start), boots(unset, NOW + boot * timedelta(minutes=30))]
    assert messages.count("tried") == 3, "before the network time arrived, after it, and two hours later"
    (refusal,) = unset.update().rejections.values()
    assert refusal.times == 3


def test_rejection_beyond_a_week_from_the_last_signature_is_retained(unset: Site) -> None:
    assert boots(unset, NOW) == "tried"
    for times in range(2, 10):
        assert boots(unset, NOW + times * timedelta(days=8)) == "tried"
    assert boots(unset, datetime(1970, 1, 1, tzinfo=timezone.utc)) == "left alone"


def test_rejection_with_the_clock_behind_counts_from_the_last_signature(unset: Site) -> None:
    boots(unset, datetime(1970, 1, 1, tzinfo=timezone.utc))
    (refusal,) = unset.update().rejections.values()
    assert refusal.not_before == SIGNED + FIRST_REJECTION
