"""State files of version 1 (example: ``state-1.json``), which are read and then replaced by version 2."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.ota import state
from jepa_runtime.ota.state import Phase, State
from tests.ota.disk_faults import failing_disk
from tests.ota.robots import Died, Site, dies_in

EXAMPLE = Path(__file__).with_name("state-1.json")
FORMER_NAMES = {
    "candidate": "work", "serving_observed": "watched", "rejections": "refused",
    "failed_checks": "failed_looks",
}  # fmt: skip


def stored_fields(path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(path.read_bytes())["state"]
    return fields


def write_as_version_1(path: Path) -> None:
    """Replace a state file by one of version 1 with the same state."""
    fields = {FORMER_NAMES.get(name, name): value for name, value in stored_fields(path).items()}
    fields["schema_version"] = 1
    path.write_text(json.dumps({"sha256": state._checksum(fields), "state": fields}), "utf-8")


def test_state_of_version_1_is_read_with_all_its_fields() -> None:
    read = state.load(EXAMPLE)
    assert (read.phase, read.result, read.serving_observed, read.failed_checks) == (
        Phase.OBSERVE,
        "rejected",
        True,
        3,
    )
    assert read.candidate is not None and read.candidate.release.version == "2.0.0"
    assert read.current is not None and read.current == read.good
    assert {sha256[0]: (one.times, one.not_before) for sha256, one in read.rejections.items()} == {
        "1": (2, datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc)),
        "2": (1, None),
    }
    assert (read.versions, read.release_seqs) == ({"timestamp": 12, "channel-stable": 3}, {"stable/toy": 2})


def test_all_fields_of_version_1_are_known() -> None:
    former = {FORMER_NAMES.get(name, name) for name in state.as_json(State())}
    assert stored_fields(EXAMPLE).keys() == former


@pytest.mark.parametrize(("former", "result"), [("reverted", "rolled_back"), ("failed", "failed")])
def test_result_of_version_1_is_renamed(tmp_path: Path, former: str, result: str) -> None:
    path = tmp_path / "state.json"
    fields = stored_fields(EXAMPLE) | {"result": former}
    path.write_text(json.dumps({"sha256": state._checksum(fields), "state": fields}), "utf-8")
    assert state.load(path).result == result


def test_next_change_replaces_version_1_at_once_or_not_at_all(tmp_path: Path) -> None:
    path = Path(shutil.copy(EXAMPLE, tmp_path / "state.json"))
    before = state.load(path)
    for call in range(100):
        try:
            with failing_disk("killed", call):
                state.save(path, replace(before, pinned=True))
            break
        except Died:
            stored = state.load(path)
            assert stored == replace(before, pinned=stored.pinned)
    assert call > 2 and state.load(path) == replace(before, pinned=True)
    fields = stored_fields(path)
    assert fields["schema_version"] == 2 and not fields.keys() & set(FORMER_NAMES.values())


@pytest.mark.parametrize("phase", [Phase.DOWNLOAD, Phase.ARMED, Phase.OBSERVE, Phase.COMMIT, Phase.GC])
def test_update_stored_in_version_1_is_finished(site: Site, bundles: list[Bundle], phase: Phase) -> None:
    site.repository.publish(bundles[1], 2)
    with pytest.raises(Died):
        site.update(on_state=dies_in(phase))
    write_as_version_1(site.root / "state.json")
    finished = site.update()
    assert (finished.result, site.version, site.good) == ("updated", "2.0.0", "2.0.0")
    assert stored_fields(site.root / "state.json")["schema_version"] == 2


def test_rejection_stored_in_version_1_holds(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    site.gate.bad = {"2.0.0": "probe"}
    site.update()
    write_as_version_1(site.root / "state.json")
    site.gate.bad = {}
    assert site.update().result == "rejected" and site.version == "1.0.0"
