"""Files that are complete or absent, locks, and removal."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from jepa_runtime.errors import StorageError
from jepa_runtime.util import atomic_files
from tests.errors import code

REQUEST = (
    "import sys; from pathlib import Path; from jepa_runtime.util import atomic_files\n"
    "with atomic_files.locked(Path(sys.argv[1]), purpose='an operator', wait_s=30): pass\n"
)


def start(program: str, lock: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, str(lock)])


def failing(error: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    return fail


def test_write_replaces_the_content(tmp_path: Path) -> None:
    atomic_files.write(tmp_path / "file", b"a longer first content")
    atomic_files.write(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_failed_write_leaves_the_old_content_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    atomic_files.write(tmp_path / "file", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing(error))
        expected = "storage.full" if error == errno.ENOSPC else "storage.io_error"
        with pytest.raises(StorageError, check=code(expected)):
            atomic_files.write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_content_is_synchronized_before_the_rename_and_the_folder_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def recorded_fsync(fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        calls.append(f"folder {path.relative_to(tmp_path)}" if path.is_dir() else path.read_text("ascii"))
        fsync(fd)

    def recorded_rename(source: Path, target: Path) -> None:
        calls.append("rename")
        rename(source, target)

    def recorded(*_: None) -> list[str]:
        taken, calls[:] = calls[:], []
        return taken

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_rename)
    monkeypatch.setattr(os, "rename", recorded_rename)
    assert recorded(atomic_files.write(tmp_path / "file", b"content")) == ["content", "rename", "folder ."]
    assert recorded(atomic_files.replace_symlink(tmp_path / "link", "file")) == ["rename", "folder ."]
    assert recorded(atomic_files.make_folder(tmp_path / "a" / "b")) == ["folder .", "folder a"]
    moved = recorded(atomic_files.move(tmp_path / "file", tmp_path / "a" / "b" / "file"))
    assert moved == ["rename", "folder a/b", "folder ."]


def test_replace_symlink_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_files.replace_symlink(tmp_path / "link", "one")
    atomic_files.replace_symlink(tmp_path / "link", "two")
    assert os.readlink(tmp_path / "link") == "two"
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing(errno.EIO))
        with pytest.raises(StorageError, check=code("storage.io_error")):
            atomic_files.replace_symlink(tmp_path / "link", "three")
    assert os.readlink(tmp_path / "link") == "two"
    assert os.listdir(tmp_path) == ["link"]


def test_move_replaces_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "part").write_bytes(b"new")
    (tmp_path / "file").write_bytes(b"old")
    atomic_files.move(tmp_path / "from" / "part", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"new" and not list((tmp_path / "from").iterdir())
    with pytest.raises(StorageError, check=code("storage.io_error")):
        atomic_files.move(tmp_path / "missing", tmp_path / "file")


def test_make_folder_creates_missing_parents(tmp_path: Path) -> None:
    for _ in range(2):
        atomic_files.make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, check=code("storage.io_error")):
        atomic_files.make_folder(tmp_path / "file" / "below")


def test_discard_removes_and_empty_folder_removes_leftovers(tmp_path: Path) -> None:
    trash = tmp_path / "trash"
    (tmp_path / "target" / "below").mkdir(parents=True)
    for name in ("folder", "file", "link to a folder", "link", "nothing"):
        path = tmp_path / name
        if name == "folder":
            (path / "below").mkdir(parents=True)
        elif name == "file":
            path.touch()
        elif name == "link":
            path.symlink_to("nowhere")
        elif name == "link to a folder":
            path.symlink_to("target")
        atomic_files.discard(path, trash)
        assert not path.is_symlink() and not path.exists()
    (trash / "left" / "over").mkdir(parents=True)
    atomic_files.empty_folder(trash)
    assert os.listdir(trash) == []
    atomic_files.empty_folder(tmp_path / "missing")
    assert os.listdir(tmp_path / "target") == ["below"]


def test_discard_reports_what_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(shutil, "rmtree", failing(errno.EIO))
    with pytest.raises(StorageError, check=code("storage.io_error")):
        atomic_files.discard(tmp_path / "folder", tmp_path / "trash")
    assert not (tmp_path / "folder").exists()


def test_locked_excludes_other_processes_and_names_the_holder(tmp_path: Path) -> None:
    other = (
        "import sys; from pathlib import Path; from jepa_runtime.util import atomic_files\n"
        "with atomic_files.locked(Path(sys.argv[1]), purpose='another'): pass\n"
    )
    command = [sys.executable, "-c", other, str(tmp_path / "lock")]
    (tmp_path / "lock").write_text("12345678901\n", encoding="ascii")
    with atomic_files.locked(tmp_path / "lock", purpose="the first"):
        rejected = subprocess.run(command, capture_output=True, text=True, check=False)
    assert rejected.returncode == 1
    assert f"another needs it, but another process has it (pid {os.getpid()})" in rejected.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_lock_is_requested_until_the_waiting_process_is_done(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not atomic_files.is_lock_requested(lock)
    with atomic_files.locked(lock, purpose="the first"):
        assert not atomic_files.is_lock_requested(lock)
        waiting = start(REQUEST, lock)
        while not atomic_files.is_lock_requested(lock):
            assert waiting.poll() is None
    assert waiting.wait(30) == 0
    assert not atomic_files.is_lock_requested(lock)


def test_process_without_a_request_waits_for_those_with_one(tmp_path: Path) -> None:
    lock, order = tmp_path / "lock", []

    def take() -> None:
        with atomic_files.locked(lock, purpose="another"):
            order.append("another")

    other = threading.Thread(target=take)
    with atomic_files.locked(lock, purpose="an operator", wait_s=10):
        other.start()
        other.join(0.2)
        order.append("the operator")
    other.join()
    assert order == ["the operator", "another"]


def test_locked_waits_no_longer_than_its_limit(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        atomic_files.locked(lock, purpose="the first"),
        pytest.raises(StorageError, check=code("storage.locked")),
        atomic_files.locked(lock, purpose="an operator", wait_s=0.1),
    ):
        pass
    assert not atomic_files.is_lock_requested(lock)


def test_request_of_a_killed_process_ends(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with atomic_files.locked(lock, purpose="the first"):
        waiting = start(REQUEST, lock)
        while not atomic_files.is_lock_requested(lock):
            assert waiting.poll() is None
        waiting.kill()
        waiting.wait()
        assert not atomic_files.is_lock_requested(lock)


def test_all_requests_are_served_while_others_lock_repeatedly(tmp_path: Path) -> None:
    """Thirty requests and two yielding holders: no request starves, and no two hold the lock at once."""
    lock, had, has = tmp_path / "lock", [], threading.Lock()
    done = threading.Event()

    def take(name: str, wait_s: float = 0.0) -> None:
        with atomic_files.locked(lock, purpose=name, wait_s=wait_s):
            assert has.acquire(blocking=False)
            while not wait_s and not atomic_files.is_lock_requested(lock) and not done.is_set():
                time.sleep(0.001)
            had.append(name)
            has.release()

    def yielding(name: str) -> None:
        while not done.is_set():
            with suppress(StorageError):
                take(name)

    with ThreadPoolExecutor(12) as pool:
        holding = [pool.submit(yielding, name) for name in ("first", "second")]
        asking = [pool.submit(take, "asks", 60.0) for _ in range(30)]
        try:
            for one in asking:
                one.result(60)
        finally:
            done.set()
        for one in holding:
            one.result(60)
    assert had.count("asks") == 30


def test_locked_on_a_full_disk_raises_and_releases_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", failing(errno.ENOSPC))
        with (
            pytest.raises(StorageError, check=code("storage.full")),
            atomic_files.locked(lock, purpose="an update"),
        ):
            pass
    with atomic_files.locked(lock, purpose="an update"):
        pass


def test_sync_of_a_file_or_folder_reports_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    atomic_files.sync_file(tmp_path / "file")
    atomic_files.sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    for sync, path in ((atomic_files.sync_file, tmp_path / "file"), (atomic_files.sync_folder, tmp_path)):
        with pytest.raises(StorageError, check=code("storage.io_error")):
            sync(path)


def test_remove_unfinished_removes_leftovers_of_writes_of_this_file_only(tmp_path: Path) -> None:
    for name in (".file.0123.tmp", ".other.0123.tmp", "file"):
        (tmp_path / name).touch()
    atomic_files.remove_unfinished(tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == [".other.0123.tmp", "file"]
