"""The audit log: complete, ordered and tamper-evident."""

from __future__ import annotations

import errno
import json
import os
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jepa_runtime.errors import StorageError
from jepa_runtime.ota.audit_log import AuditLog, Entry
from tests.errors import code


def now() -> datetime:
    return datetime(2026, 3, 1, tzinfo=timezone.utc)


def events(path: Path) -> list[str]:
    return [entry.event for entry in AuditLog(path, now).entries()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_audit_entries_round_trip(path: Path) -> None:
    AuditLog(path, now).append("set up", channel="stable", text="a\nb \u2028 é")
    AuditLog(path, now).append("updated", count=3)
    assert list(AuditLog(path, now).entries()) == [
        Entry(0, "2026-03-01T00:00:00.000+00:00", "set up", {"channel": "stable", "text": "a\nb \u2028 é"}),
        Entry(1, "2026-03-01T00:00:00.000+00:00", "updated", {"count": 3}),
    ]


def test_audit_log_that_does_not_exist_is_empty(path: Path) -> None:
    assert events(path) == []


@pytest.mark.parametrize("change", ["changed", "removed", "swapped", "put in"])
def test_audit_log_modified_by_an_attacker_fails_verification(path: Path, change: str) -> None:
    log = AuditLog(path, now)
    for number in range(5):
        log.append(f"event {number}")
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "changed":
        lines[2] = lines[2].replace(b"event 2", b"event 9")
    elif change == "removed":
        del lines[2]
    elif change == "swapped":
        lines[1], lines[2] = lines[2], lines[1]
    else:
        lines.insert(2, lines[1])
    path.write_bytes(b"".join(lines))
    with pytest.raises(StorageError, check=code("storage.broken_log")):
        events(path)


def test_malformed_audit_line_is_reported_with_its_position(path: Path) -> None:
    AuditLog(path, now).append("one")
    path.write_bytes(path.read_bytes() + b'{"n": 1}\n')
    with pytest.raises(StorageError, check=code("storage.broken_log")):
        events(path)


@pytest.mark.parametrize("torn", [b'{"n": 2, "at": "20', b"\0" * 100, b"x"])
def test_audit_line_truncated_by_a_power_cut_is_removed_and_recorded(path: Path, torn: bytes) -> None:
    log = AuditLog(path, now)
    log.append("one")
    log.append("two")
    path.write_bytes(path.read_bytes() + torn)
    assert events(path) == ["one", "two"]
    AuditLog(path, now).append("three")
    entries = list(AuditLog(path, now).entries())
    assert [entry.event for entry in entries] == [
        "one",
        "two",
        "removed a line that a power cut had truncated",
        "three",
    ]
    assert entries[2].facts == {"bytes": len(torn)}


@pytest.mark.parametrize("intact", [0, 1])
def test_audit_log_continues_after_malformed_lines_and_still_reports_them(path: Path, intact: int) -> None:
    log = AuditLog(path, now)
    for event in ("one", "two", "three"):
        log.append(event)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:intact], *[b"\0" * 9 + b"\n"] * (3 - intact)]))
    AuditLog(path, now).append("four")
    with pytest.raises(StorageError, check=code("storage.broken_log")):
        events(path)
    added = [json.loads(line) for line in path.read_bytes().splitlines()[3:]]
    assert [(entry["n"], entry["event"]) for entry in added] == [
        (3, "continued after damaged lines"),
        (4, "four"),
    ]
    assert added[0]["facts"] == {"lines": 3 - intact}


def test_audit_chain_spans_rotated_files(path: Path) -> None:
    log = AuditLog(path, now, max_bytes=300, max_old_files=100)
    for number in range(40):
        log.append(str(number))
        if number % 7 == 0:
            log = AuditLog(path, now, max_bytes=300, max_old_files=100)
    assert len(list(path.parent.iterdir())) > 10
    assert events(path) == [str(number) for number in range(40)]
    (path.parent / "audit.log.3").unlink()
    with pytest.raises(StorageError, check=code("storage.broken_log")):
        events(path)


def test_audit_rotation_removes_the_oldest_files_and_the_rest_verifies(path: Path) -> None:
    log = AuditLog(path, now, max_bytes=300, max_old_files=3)
    for number in range(40):
        log.append(str(number))
    assert len(list(path.parent.iterdir())) == 4
    remaining = events(path)
    assert remaining == [str(number) for number in range(40 - len(remaining), 40)]


def test_power_cut_between_rotation_and_the_next_entry_keeps_the_audit_chain(path: Path) -> None:
    AuditLog(path, now).append("one")
    path.rename(path.with_name("audit.log.1"))
    AuditLog(path, now).append("two")
    assert events(path) == ["one", "two"]


def test_audit_entry_that_cannot_be_written_is_an_error_and_the_chain_continues(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(path, now)
    log.append("one")
    with monkeypatch.context() as patched:

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, check=code("storage.full")):
            log.append("two")
    log.append("three")
    assert events(path)[0] == "one" and events(path)[-1] == "three"


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(cut=st.integers(1, 2000), names=st.lists(st.text(max_size=20), min_size=1, max_size=8))
def test_audit_log_truncated_at_any_byte_continues(tmp_path: Path, cut: int, names: list[str]) -> None:
    path = tmp_path / "audit.log"
    path.unlink(missing_ok=True)
    log = AuditLog(path, now)
    for event in names:
        log.append(event)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut % len(content)])
    whole = path.read_bytes().count(b"\n")
    AuditLog(path, now).append("after")
    assert [entry for entry in events(path) if not entry.startswith("removed a line")] == [
        *names[:whole],
        "after",
    ]
