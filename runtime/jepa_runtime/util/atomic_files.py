"""Files that are complete or absent, also after a power cut.

A rename within one file system changes a name, and is on the disk only once its folder is synchronized;
content is on the disk only once the file is. After an error of fsync the content of the disk is unknown: the
file counts as lost, and is not synchronized a second time, which would report success (Rebello et al., "Can
Applications Recover from fsync Failures?", USENIX ATC 2020).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from jepa_runtime.errors import StorageError

# How often a lock is tried, and how long a process that did not request it waits for those that did.
_POLL_S, _TURN_S = 0.02, 300.0
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk.

    Raises:
        StorageError: It cannot be written; the file is lost.
    """
    with storage_errors(path, "cannot be written to the disk"):
        _sync(path, os.O_RDONLY | os.O_CLOEXEC)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Raises:
        StorageError: They cannot be written.
    """
    with storage_errors(path, "cannot be written to the disk"):
        _sync(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, unless it exists.

    Raises:
        StorageError: It cannot be created.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    with storage_errors(path, "cannot be created"), suppress(FileExistsError):
        path.mkdir()
    sync_folder(path.parent)


def read_small(path: Path, max_bytes: int) -> bytes:
    """Read the beginning of a file that another account may have written.

    Links are not followed, and pipes are not waited for.

    Raises:
        OSError: The file is missing, a link, or cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, max_bytes)
    finally:
        os.close(fd)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the same folder; what is created there replaces ``path`` at the end.

    After an error in the block the temporary file is removed and ``path`` is unchanged. Nothing is
    synchronized.

    Raises:
        OSError: The file cannot be renamed.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        remove_quietly(temporary)
        raise


def remove_unfinished(path: Path) -> None:
    """Remove what interrupted writes of ``path`` left in its folder."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        remove_quietly(temporary)


def write(path: Path, content: bytes) -> None:
    """Write or replace a file; at every moment the disk holds the old or the new content.

    Raises:
        StorageError: It cannot be written; the old content remains.
    """
    with (
        storage_errors(path, "cannot be written"),
        replacing(path) as temporary,
        os.fdopen(os.open(temporary, _NEW_FILE, 0o644), "wb") as file,
    ):
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def replace_symlink(link: Path, target: str) -> None:
    """Create a symbolic link to ``target``, or change the target of an existing link, atomically.

    Raises:
        StorageError: The link cannot be created; the old target remains.
    """
    with storage_errors(link, f"cannot be linked to {target}"), replacing(link) as temporary:
        os.symlink(target, temporary)
    sync_folder(link.parent)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder within one file system; an existing file is replaced.

    Raises:
        StorageError: It cannot be renamed.
    """
    with storage_errors(source, f"cannot be moved to {target}"):
        os.rename(source, target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def discard(path: Path, trash: Path) -> None:
    """Remove a file or folder: first from its place, atomically, then from the disk.

    Args:
        path: The file or folder. It may be missing.
        trash: A folder on the same file system. What a power cut leaves there is removed by
            :func:`empty_folder`.

    Raises:
        StorageError: It cannot be removed.
    """
    if not path.is_symlink() and not path.exists():
        return
    make_folder(trash)
    move(path, trash / uuid.uuid4().hex)
    empty_folder(trash)


def empty_folder(folder: Path) -> None:
    """Remove everything in a folder.

    Raises:
        StorageError: An entry cannot be removed.
    """
    with storage_errors(folder, "cannot be emptied"):
        for entry in list(folder.iterdir()) if folder.is_dir() else []:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def remove_quietly(path: Path) -> None:
    """Remove a file after an error, and ignore failures: the first error says more."""
    with suppress(OSError):
        path.unlink()


def check_free_space(what: str, folder: Path, needed: int, free_bytes: int) -> None:
    """Check that ``needed`` more bytes fit, and ``free_bytes`` stay free.

    Args:
        what: What needs the space, for the message.
        folder: A folder of the file system.
        needed: The bytes to be written.
        free_bytes: The bytes that must stay free.

    Raises:
        StorageError: The space does not suffice.
    """
    with storage_errors(folder, "cannot be used"):
        free = shutil.disk_usage(folder).free
    if free - needed < free_bytes:
        raise StorageError(
            f"{what} takes {needed / 1e6:.1f} MB, but {free / 1e6:.1f} MB are free, of which "
            f"{free_bytes / 1e6:.1f} MB are to stay free: make room on this disk",
            code="storage.full",
        )


@contextmanager
def locked(path: Path, *, purpose: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of ``path`` (a file, created if it is missing) until the end of the block.

    A process that waits requests the lock by a second lock on ``PATH.wanted``, which it holds until it is
    done with both. No other process can take the lock between the moment at which its holder, which checks
    :func:`is_lock_requested`, releases it, and the turn of the process that requested it. Locks end with
    their process.

    Args:
        path: The file.
        purpose: What needs the lock, for the message.
        wait_s: How long to wait. 0: do not request the lock from its holder.

    Raises:
        StorageError: Another process holds the lock, or did not release it in time, or the file cannot be
            created.
    """
    waits = wait_s > 0
    now = time.monotonic()
    with _opened(path, os.O_RDWR) as lock, _opened(_wanted(path), os.O_RDONLY) as turn:
        if not (
            _acquire(turn, fcntl.LOCK_EX if waits else fcntl.LOCK_SH, now + (wait_s or _TURN_S))
            and _acquire(lock, fcntl.LOCK_EX, now + wait_s)
        ):
            holder = os.pread(lock, 100, 0).decode("ascii", "replace").strip() or "unknown"
            late = f" and did not release it within {wait_s:g} s" if waits else ""
            raise StorageError(
                f"{path}: {purpose} needs it, but another process has it (pid {holder}){late}: wait for that "
                "process, or stop it",
                code="storage.locked",
            )
        if not waits:
            fcntl.flock(turn, fcntl.LOCK_UN)
        with storage_errors(path, "cannot be locked"):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        yield


def is_lock_requested(path: Path) -> bool:
    """Return whether another process waits for the lock of ``path``, so that its holder should release it.

    Raises:
        StorageError: The state of the lock cannot be read.
    """
    with storage_errors(_wanted(path), "cannot be read"):
        try:
            turn = os.open(_wanted(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
    try:
        fcntl.flock(turn, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(turn)


def is_read_only(error: StorageError) -> bool:
    """Return whether an operation failed because the file system is read-only."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EROFS


@contextmanager
def storage_errors(path: Path, what: str) -> Iterator[None]:
    """Convert an OSError in the block to a StorageError.

    Args:
        path: The file or folder, for the message.
        what: What failed, for the message: "cannot be read".

    Raises:
        StorageError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"{path}: {what}: {reason}", code="storage.full") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise StorageError(
                f"{path}: {what}: {reason}: use the account that owns this folder",
                code="storage.permission_denied",
            ) from error
        if error.errno == errno.EROFS:
            raise StorageError(f"{path}: {what}: {reason}", code="storage.read_only") from error
        raise StorageError(f"{path}: {what}: {reason}", code="storage.io_error") from error


def _wanted(path: Path) -> Path:
    return path.with_name(f"{path.name}.wanted")


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    with ExitStack() as stack:
        with storage_errors(path, "cannot be locked"):
            fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            stack.callback(os.close, fd)
            # An account that can read a file can lock it, and earlier versions let every account read it.
            with suppress(PermissionError):
                os.fchmod(fd, 0o600)
        yield fd


def _acquire(fd: int, kind: int, deadline: float) -> bool:
    """Try to lock a file until ``deadline`` (of the monotonic clock); return whether it is locked."""
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(_POLL_S)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
