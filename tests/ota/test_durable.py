"""Files that are there whole or not at all."""

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

ASKS = (
    "import sys; from pathlib import Path; from jepa_runtime.util import atomic_files as durable\n"
    "with durable.locked(Path(sys.argv[1]), purpose='an operator', wait_s=30): pass\n"
)


def start(program: str, lock: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, str(lock)])


def failing(error: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    return fail


def test_a_write_replaces_the_whole_content(tmp_path: Path) -> None:
    atomic_files.write(tmp_path / "file", b"a longer first content")
    atomic_files.write(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    atomic_files.write(tmp_path / "file", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing(error))
        with pytest.raises(StorageError, match=r"file: cannot be written: "):
            atomic_files.write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def told_fsync(fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        calls.append(f"folder {path.relative_to(tmp_path)}" if path.is_dir() else path.read_text("ascii"))
        fsync(fd)

    def told_rename(source: Path, target: Path) -> None:
        calls.append("rename")
        rename(source, target)

    def made(*_: None) -> list[str]:
        made, calls[:] = calls[:], []
        return made

    monkeypatch.setattr(os, "fsync", told_fsync)
    monkeypatch.setattr(os, "replace", told_rename)
    monkeypatch.setattr(os, "rename", told_rename)
    assert made(atomic_files.write(tmp_path / "file", b"content")) == ["content", "rename", "folder ."]
    assert made(atomic_files.replace_symlink(tmp_path / "link", "file")) == ["rename", "folder ."]
    assert made(atomic_files.make_folder(tmp_path / "a" / "b")) == ["folder .", "folder a"]
    moved = made(atomic_files.move(tmp_path / "file", tmp_path / "a" / "b" / "file"))
    assert moved == ["rename", "folder a/b", "folder ."]


def test_a_link_leads_somewhere_else_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_files.replace_symlink(tmp_path / "link", "one")
    atomic_files.replace_symlink(tmp_path / "link", "two")
    assert os.readlink(tmp_path / "link") == "two"
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing(errno.EIO))
        with pytest.raises(StorageError, match="cannot be linked to three"):
            atomic_files.replace_symlink(tmp_path / "link", "three")
    assert os.readlink(tmp_path / "link") == "two"
    assert os.listdir(tmp_path) == ["link"]


def test_a_move_takes_the_place_of_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "part").write_bytes(b"new")
    (tmp_path / "file").write_bytes(b"old")
    atomic_files.move(tmp_path / "from" / "part", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"new" and not list((tmp_path / "from").iterdir())
    with pytest.raises(StorageError, match="cannot be moved"):
        atomic_files.move(tmp_path / "missing", tmp_path / "file")


def test_folders_are_made_with_those_above_them(tmp_path: Path) -> None:
    for _ in range(2):
        atomic_files.make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be created"):
        atomic_files.make_folder(tmp_path / "file" / "below")


def test_what_is_discarded_is_gone_and_what_a_power_cut_left_of_it_can_be_emptied(tmp_path: Path) -> None:
    trash = tmp_path / "trash"
    (tmp_path / "kept" / "below").mkdir(parents=True)
    for name in ("folder", "file", "kept by others", "link", "nothing"):
        path = tmp_path / name
        if name == "folder":
            (path / "below").mkdir(parents=True)
        elif name == "file":
            path.touch()
        elif name == "link":
            path.symlink_to("nowhere")
        elif name == "kept by others":
            path.symlink_to("kept")
        atomic_files.discard(path, trash)
        assert not path.is_symlink() and not path.exists()
    (trash / "left" / "over").mkdir(parents=True)
    atomic_files.empty_folder(trash)
    assert os.listdir(trash) == []
    atomic_files.empty_folder(tmp_path / "never made")
    assert os.listdir(tmp_path / "kept") == ["below"]


def test_what_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(shutil, "rmtree", failing(errno.EIO))
    with pytest.raises(StorageError, match="trash: cannot be emptied: Input/output error"):
        atomic_files.discard(tmp_path / "folder", tmp_path / "trash")
    assert not (tmp_path / "folder").exists()


def test_a_lock_keeps_other_processes_out_and_says_who_has_it(tmp_path: Path) -> None:
    other = (
        "import sys; from pathlib import Path; from jepa_runtime.util import atomic_files as durable\n"
        "with durable.locked(Path(sys.argv[1]), purpose='another'): pass\n"
    )
    command = [sys.executable, "-c", other, str(tmp_path / "lock")]
    (tmp_path / "lock").write_text("12345678901\n", encoding="ascii")
    with atomic_files.locked(tmp_path / "lock", purpose="the first"):
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"another needs it, but another process has it (pid {os.getpid()})" in refused.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_a_lock_that_is_asked_for_is_wanted_until_whoever_asked_is_done(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not atomic_files.is_lock_requested(lock)
    with atomic_files.locked(lock, purpose="the first"):
        assert not atomic_files.is_lock_requested(lock)
        asking = start(ASKS, lock)
        while not atomic_files.is_lock_requested(lock):
            assert asking.poll() is None
    assert asking.wait(30) == 0
    assert not atomic_files.is_lock_requested(lock)


def test_who_is_not_asked_for_waits_until_those_who_asked_are_done(tmp_path: Path) -> None:
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


def test_a_lock_that_is_not_let_go_is_waited_for_no_longer_than_told(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        atomic_files.locked(lock, purpose="the first"),
        pytest.raises(StorageError, match=rf"\(pid {os.getpid()}\) and did not release it within 0\.1 s"),
        atomic_files.locked(lock, purpose="an operator", wait_s=0.1),
    ):
        pass
    assert not atomic_files.is_lock_requested(lock)


def test_who_dies_while_asking_wants_nothing_any_more(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with atomic_files.locked(lock, purpose="the first"):
        asking = start(ASKS, lock)
        while not atomic_files.is_lock_requested(lock):
            assert asking.poll() is None
        asking.kill()
        asking.wait()
        assert not atomic_files.is_lock_requested(lock)


def test_all_who_ask_get_the_lock_from_one_who_takes_it_again_and_again(tmp_path: Path) -> None:
    """Ten who ask, three times each, and two who yield: nobody starves, and no two have it at once."""
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


def test_a_lock_on_a_full_disk_is_told_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", failing(errno.ENOSPC))
        with (
            pytest.raises(StorageError, match="cannot be locked: No space left on device"),
            atomic_files.locked(lock, purpose="an update"),
        ):
            pass
    with atomic_files.locked(lock, purpose="an update"):
        pass


def test_a_file_that_cannot_be_synchronised_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    atomic_files.sync_file(tmp_path / "file")
    atomic_files.sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    for sync, path in ((atomic_files.sync_file, tmp_path / "file"), (atomic_files.sync_folder, tmp_path)):
        with pytest.raises(StorageError, match="cannot be written to the disk: Input/output error"):
            sync(path)
