"""A kill or a disk fault at any system call: a complete model is active, and the next start finishes.

The fast part takes a sample of the points; ``-m slow`` takes all.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jepa_runtime.ota.transport import deltas
from jepa_runtime.util import atomic_files
from tests.ota.campaigns import crashes
from tests.ota.campaigns.crashes import FAULTS, KILL, Fault, Report
from tests.ota.campaigns.scene import STORIES, Stage, Story

pytestmark = pytest.mark.usefixtures("can_trace")

UPDATE, WAY_BACK, TAKEN_BACK = STORIES
by_name = pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)


def holds(report: Report, at_least: int) -> None:
    print(crashes.shown([report]))
    assert report.findings == []
    assert report.hit == report.points >= at_least


@by_name
def test_update_killed_at_sampled_system_calls_loses_nothing(stage: Stage, story: Story) -> None:
    every = {UPDATE: 16, WAY_BACK: 10, TAKEN_BACK: 10}[story]
    holds(crashes.campaign(stage, story, KILL, every=every, first=every // 2), 5)


@pytest.mark.parametrize("fault", FAULTS[1:], ids=lambda fault: fault.name)
def test_update_with_disk_errors_at_sampled_calls_leaves_a_whole_model_and_a_coded_error(
    stage: Stage, fault: Fault
) -> None:
    holds(crashes.campaign(stage, UPDATE, fault, every=60, first=FAULTS.index(fault)), 5)
    holds(crashes.campaign(stage, WAY_BACK, fault, every=60, first=FAULTS.index(fault)), 2)


@pytest.mark.slow
def test_crash_campaign_with_an_in_place_write_reports_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_files, "write", lambda path, content: path.write_bytes(content))
    report = crashes.campaign(stage, TAKEN_BACK, KILL, every=2)
    assert any("state.json: is damaged" in finding for finding in report.findings)


@pytest.mark.parametrize("rest", [".delta.part", ".made.tmp"])
def test_delta_leftover_that_cannot_be_removed_raises_a_coded_error(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    unlink = os.unlink

    def failing(path: Path, **where: int) -> None:
        if str(path).endswith(rest):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        unlink(path, **where)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "the disk")

    stage.put(UPDATE, tmp_path / "robot")
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", failing)
        if rest == ".made.tmp":
            patched.setattr(deltas, "_add", broken)
        state = stage.play(UPDATE, tmp_path / "robot")
    # After some attempts the whole file is fetched instead.
    assert state.result == "updated"
    assert "Input/output error" in (tmp_path / "robot" / "audit.log").read_text()
    stage.check(UPDATE, tmp_path / "robot")
    stage.end(UPDATE, tmp_path / "robot")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@by_name
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_update_with_a_fault_at_every_system_call_loses_nothing(
    stage: Stage, story: Story, fault: Fault
) -> None:
    holds(crashes.campaign(stage, story, fault), 50)
