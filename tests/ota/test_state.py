"""State stored over a restart, and the errors if it is missing or damaged."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jepa_runtime.errors import StorageError
from jepa_runtime.ota import state
from jepa_runtime.ota.state import Installed, Phase, Rejection, State
from jepa_runtime.ota.state_machine import Failed, Rejected, next_state, start, with_offer
from tests.errors import code
from tests.ota.robots import release

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc)
FULL = State(
    phase=Phase.DOWNLOAD,
    candidate=with_offer(State(), "stable", release()).candidate,
    attempts={Phase.CHECK: 1, Phase.DOWNLOAD: 2},
    transitions=3,
    approved="1" * 64,
    result="none",
    reason='é \u2028 "quoted"',
    current=Installed(
        channel="stable", model_id="toy", version="1.0.0", release_seq=1, manifest_sha256="0" * 64
    ),
    versions={"timestamp": 12, "channel-stable": 3},
    signed_at=NOW,
    release_seqs={"stable/toy": 2},
    rejections={
        "1" * 64: Rejection(reason="slow", times=2, not_before=NOW),
        "2" * 64: Rejection(reason="revoked", times=1, not_before=None),
    },
    comparisons={"1" * 64: 3},
    checked_at=NOW,
)


@pytest.mark.parametrize("stored", [State(), FULL], ids=["empty", "full"])
def test_stored_state_round_trips(tmp_path: Path, stored: State) -> None:
    state.save(tmp_path / "state.json", stored)
    assert state.load(tmp_path / "state.json") == stored


def test_state_of_every_phase_can_be_stored(tmp_path: Path) -> None:
    stored = with_offer(start(FULL), "stable", release(3, "3" * 64))
    for outcome in (Failed("cut"), Rejected("expired")):
        stored = next_state(stored, outcome, NOW)
        state.save(tmp_path / "state.json", stored)
        assert state.load(tmp_path / "state.json") == stored


def test_missing_state_error_says_how_to_create_one(tmp_path: Path) -> None:
    with pytest.raises(StorageError, check=code("storage.state_missing")):
        state.load(tmp_path / "state.json")


def test_state_of_a_version_without_approvals_is_read(tmp_path: Path) -> None:
    fields = state.as_json(FULL)
    del fields["approved"]
    content = {"sha256": state._checksum(fields), "state": fields}
    (tmp_path / "state.json").write_text(json.dumps(content))
    assert state.load(tmp_path / "state.json") == replace(FULL, approved="")


def test_state_with_fields_of_a_later_version_is_read(tmp_path: Path) -> None:
    fields = state.as_json(FULL)
    for known in (fields, fields["current"], *fields["rejections"].values()):
        known["later"] = {"more": 1}
    content = {"sha256": state._checksum(fields), "state": fields}
    (tmp_path / "state.json").write_text(json.dumps(content))
    assert state.load(tmp_path / "state.json") == FULL


def test_state_of_another_version_differs_from_a_damaged_one(tmp_path: Path) -> None:
    fields = state.as_json(FULL) | {"schema_version": 3}
    content = {"sha256": state._checksum(fields), "state": fields}
    (tmp_path / "state.json").write_text(json.dumps(content))
    with pytest.raises(StorageError, check=code("storage.state_version")):
        state.load(tmp_path / "state.json")


@pytest.mark.parametrize("field", ["phase", "rejections", "current", "transitions"])
def test_invalid_state_field_is_named(tmp_path: Path, field: str) -> None:
    fields = state.as_json(FULL) | {field: [1]}
    content = {"sha256": state._checksum(fields), "state": fields}
    (tmp_path / "state.json").write_text(json.dumps(content))
    with pytest.raises(StorageError, check=code("storage.state_damaged")):
        state.load(tmp_path / "state.json")


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_state_corrupted_by_the_disk_is_detected(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "state.json"
    state.save(path, FULL)
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["cut", "zeros", "flip", "other"]))
    at = data.draw(st.integers(0, len(content) - 2))
    if kind == "cut":
        content = content[:at]
    elif kind == "zeros":
        content[at:] = bytes(len(content) - at)
    elif kind == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        content = bytearray(data.draw(st.binary(max_size=200)))
    path.write_bytes(content)
    try:
        read = state.load(path)
    except StorageError as error:
        assert error.code == "storage.state_damaged"
    else:
        # A changed blank between two tokens changes nothing.
        assert read == FULL


def test_state_that_cannot_be_written_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.save(tmp_path / "state.json", FULL)
    with monkeypatch.context() as patched:

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, check=code("storage.full")):
            state.save(tmp_path / "state.json", replace(FULL, pinned=True))
    assert state.load(tmp_path / "state.json") == FULL
