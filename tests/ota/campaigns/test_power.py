"""Power cuts on a real file system: confirmed writes persist, and the next start finishes the update."""

from __future__ import annotations

import os

import pytest

from tests.ota.campaigns import crashes, power
from tests.ota.campaigns.power import MODES, Mode
from tests.ota.campaigns.scene import STORIES, Stage, Story

pytestmark = pytest.mark.usefixtures("can_cut")

UPDATE, _, TAKEN_BACK = STORIES
in_each = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)


@in_each
def test_power_cut_at_sampled_system_calls_keeps_every_confirmed_write(stage: Stage, mode: Mode) -> None:
    report = power.campaign(stage, UPDATE, mode, every=60, first=20 * MODES.index(mode))
    print(crashes.shown([report]))
    assert report.findings == [] and report.hit == report.points >= 4


def test_power_cut_without_fsync_loses_confirmed_writes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    report = power.campaign(stage, TAKEN_BACK, MODES[1], every=12, first=11)
    assert any("had been reported" in finding for finding in report.findings)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@in_each
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_power_cut_at_every_system_call_keeps_every_confirmed_write(
    stage: Stage, story: Story, mode: Mode
) -> None:
    report = power.campaign(stage, story, mode)
    print(crashes.shown([report]))
    assert report.findings == [] and report.hit == report.points >= 50
