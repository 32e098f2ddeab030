"""Replacement of a bundle is atomic: the old or the new one exists at every moment."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jepa_export.bundling import staging
from jepa_export.bundling.staging import check_output, exchange, staged
from jepa_export.errors import JepaExportError
from tests.errors import code

MANIFEST = "manifest.json"
KILLED = """
import os, sys
from pathlib import Path
from jepa_export.bundling.staging import staged
count = 0
def count_down(event, arguments):
    global count
    if event in ("os.rename", "os.remove", "os.rmdir", "ctypes.dlsym") and started:
        count += 1
        if count == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
started = False
sys.addaudithook(count_down)
with staged(Path(sys.argv[1])) as folder:
    (folder / "manifest.json").write_text("new")
    started = True
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / MANIFEST).write_text("old")
    return folder


def cannot(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(staging, "exchange", refuse)


def test_unreadable_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(JepaExportError, check=code("export.write_failed")):
        check_output(tmp_path / ("x" * 300))


def replace(folder: Path) -> None:
    with staged(folder) as staging:
        (staging / MANIFEST).write_text("new")


def test_replacement_killed_at_any_moment_leaves_the_old_or_the_new_bundle(old: Path) -> None:
    seen = set()
    for kill_at in range(1, 20):
        (old / MANIFEST).write_text("old")
        done = subprocess.run([sys.executable, "-c", KILLED, str(old), str(kill_at)])
        seen.add((old / MANIFEST).read_text())
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert seen == {"old", "new"} and kill_at > 2


def test_failed_replacement_leaves_only_the_old_bundle(old: Path) -> None:
    with pytest.raises(ValueError, match="stop"), staged(old) as staging:
        (staging / MANIFEST).write_text("new")
        raise ValueError("stop")
    assert (old / MANIFEST).read_text() == "old" and list(old.parent.iterdir()) == [old]


def test_new_bundle_appears_where_there_was_none(tmp_path: Path) -> None:
    replace(tmp_path / "deep" / "bundle")
    assert (tmp_path / "deep" / "bundle" / MANIFEST).read_text() == "new"
    assert len(list((tmp_path / "deep").iterdir())) == 1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_replacement_works_without_atomic_exchange(
    old: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cannot(number, monkeypatch)
    replace(old)
    assert (old / MANIFEST).read_text() == "new" and list(old.parent.iterdir()) == [old]


def test_failed_rename_restores_the_old_bundle(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cannot(errno.EINVAL, monkeypatch)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "bundle" and path != old:
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(JepaExportError, check=code("export.write_failed")):
        replace(old)
    assert (old / MANIFEST).read_text() == "old" and list(old.parent.iterdir()) == [old]


def test_other_errors_of_the_exchange_are_reported(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cannot(errno.EACCES, monkeypatch)
    with pytest.raises(JepaExportError, check=code("export.write_failed")):
        replace(old)
    assert (old / MANIFEST).read_text() == "old"


def test_exchange_swaps_both_names_or_neither(old: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    exchange(old, other)
    assert (other / MANIFEST).read_text() == "old" and not list(old.iterdir())
    with pytest.raises(FileNotFoundError):
        exchange(old, tmp_path / "nothing")
    assert old.exists()


def test_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(JepaExportError, check=code("export.output_not_a_bundle")):
        replace(tmp_path)


def test_full_disk_is_reported_with_our_error(old: Path) -> None:
    with pytest.raises(JepaExportError, check=code("export.write_failed")), staged(old):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (old / MANIFEST).read_text() == "old"
    assert list(old.parent.iterdir()) == [old]
