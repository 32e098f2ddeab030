"""Ownership checks of files and folders of compiled models."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from jepa_runtime.backends.file_ownership import is_own

ME = pwd.getpwuid(os.geteuid())


@pytest.mark.parametrize(
    ("name", "members", "is_private"),
    [
        (ME.pw_name, [], True),
        (ME.pw_name, [ME.pw_name], True),
        (ME.pw_name, [ME.pw_name, "guest"], False),
        ("video", [], False),
    ],
    ids=["nobody is listed", "only this account", "a guest too", "of another name"],
)
def test_private_group_of_this_account_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, members: list[str], is_private: bool
) -> None:
    monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_name=name, gr_mem=members))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name=ME.pw_name, pw_gid=os.getegid()))
    engine = tmp_path / "engine"
    engine.touch()
    os.chown(engine, -1, os.getegid())
    for path, mode in ((engine, 0o664), (tmp_path, 0o775)):
        path.chmod(mode)
        assert is_own(path.stat()) is is_private


def test_unknown_group_may_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(gid: int) -> None:
        raise KeyError(gid)

    tmp_path.chmod(0o775)
    monkeypatch.setattr(grp, "getgrgid", unknown)
    assert not is_own(tmp_path.stat())
    tmp_path.chmod(0o755)
    assert is_own(tmp_path.stat())
