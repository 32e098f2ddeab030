"""Planning of an installation."""

from __future__ import annotations

import pytest

from jepa_runtime.system_files.change_plan import Action, next_steps, plan
from jepa_runtime.system_files.entries import Entry, File, Item, Journal, Link, Obstacle
from jepa_runtime.system_files.shipped import DEVICES, find_shipped
from tests.runtime.system_files.roots import file

OURS = file("etc/ours.conf", "new\n")
LINK = Link(target=b"/dev/null", uid=0, gid=0, mtime_ns=0)


def there(text: str, mode: int = 0o644) -> File:
    return File(content=text.encode(), mode=mode, uid=0, gid=0)


def installed(before: Item) -> Journal:
    entry = Entry(before=before, ours=(there("old\n").fingerprint,))
    return Journal(entries={OURS.path: entry})


@pytest.mark.parametrize(
    ("result", "journal", "action"),
    [
        (None, None, Action.NEW),
        (there("theirs\n"), None, Action.CHANGED),
        (LINK, None, Action.CHANGED),
        (there("new\n"), None, Action.SAME),
        (there("new\n", 0o600), None, Action.CHANGED),
        (Obstacle("is a folder"), None, Action.BLOCKED),
        (there("old\n"), installed(None), Action.CHANGED),
        (there("edited\n"), installed(None), Action.CONFLICT),
        (there("old\n", 0o600), installed(None), Action.CONFLICT),
        (LINK, installed(None), Action.CONFLICT),
        # Removed by the user, who may also have removed an earlier link.
        (None, installed(None), Action.NEW),
        (None, installed(there("theirs\n")), Action.CONFLICT),
        # An installation interrupted before this file.
        (there("theirs\n"), installed(there("theirs\n")), Action.CHANGED),
    ],
)
def test_plan_action_follows_from_found_and_installed_file(
    result: Item | Obstacle, journal: Journal | None, action: Action
) -> None:
    (change,) = plan([OURS], {OURS.path: result}, journal)
    assert change.action is action


def test_diff_has_both_sides() -> None:
    (change,) = plan([OURS], {OURS.path: there("old, without an end")}, None)
    assert change.diff().splitlines()[-2:] == ["-old, without an end", "+new"]
    (change,) = plan([OURS], {OURS.path: LINK}, None)
    assert "-(a symbolic link to /dev/null)" in change.diff()


def test_journal_roundtrip() -> None:
    journal = installed(
        File(content=bytes(range(256)), mode=0o4755, uid=1, gid=2, xattrs={"user.a": b"\xff"})
    )
    assert Journal.model_validate_json(journal.model_dump_json()) == journal
    linked = installed(LINK)
    assert Journal.model_validate_json(linked.model_dump_json()) == linked


def test_next_steps_create_accounts_before_their_folders() -> None:
    steps = next_steps(file.path for file in find_shipped(DEVICES))
    assert steps[:3] == ["systemd-sysusers", "systemd-tmpfiles --create", "systemctl daemon-reload"]
    assert next_steps(["usr/share/doc/jepa-edge/intel-npu.md"]) == []
