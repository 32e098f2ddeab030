"""Files that are there whole or not at all, also after a power cut.

A name is changed by a rename within one file system and is on the disk only once its folder is synchronised;
content is on the disk only once the file is. After an error of fsync nobody knows what the disk holds: the
file counts as lost, and is not synchronised a second time, which would report success (Rebello et al., "Can
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

# How often a lock is tried, and how long one that is not asked for waits for those who asked.
_LOOK_S, _TURN_S = 0.02, 300.0
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk.

    Raises:
        StorageError: it cannot be; the file is lost.
    """
    with told(path, "cannot be written to the disk"):
        _sync(path, os.O_RDONLY | os.O_CLOEXEC)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Raises:
        StorageError: they cannot be.
    """
    with told(path, "cannot be written to the disk"):
        _sync(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        StorageError: it cannot be made.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    with told(path, "cannot be made"), suppress(FileExistsError):
        path.mkdir()
    sync_folder(path.parent)


def read_small(path: Path, max_bytes: int) -> bytes:
    """The beginning of a file that another account may have written; no link is followed, no pipe read.

    Raises:
        OSError: it is missing, a link, or cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, max_bytes)
    finally:
        os.close(fd)


def write(path: Path, content: bytes) -> None:
    """Write a file, or replace it, so that at every moment the old or the new content is there.

    Raises:
        StorageError: it cannot be written; the old content stays.
    """
    with (
        _replacing(path, "cannot be written") as temporary,
        os.fdopen(os.open(temporary, _NEW_FILE, 0o644), "wb") as file,
    ):
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def point(link: Path, target: str) -> None:
    """Make ``link`` a symbolic link to ``target``, or let it point there instead, at once.

    Raises:
        StorageError: it cannot be made; what it pointed to stays.
    """
    with _replacing(link, f"cannot be made to point to {target}") as temporary:
        os.symlink(target, temporary)


def move(source: Path, target: Path) -> None:
    """Give a file or folder another name on the same file system; a file there is replaced.

    Raises:
        StorageError: it cannot be.
    """
    with told(source, f"cannot be moved to {target}"):
        os.rename(source, target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def discard(path: Path, trash: Path) -> None:
    """Remove a file or folder: at once from its place, then from the disk.

    Args:
        trash: a folder on the same file system; what a power cut leaves in there is for :func:`empty`.

    Raises:
        StorageError: it cannot be.
    """
    if not path.is_symlink() and not path.exists():
        return
    make_folder(trash)
    move(path, trash / uuid.uuid4().hex)
    empty(trash)


def empty(trash: Path) -> None:
    """Remove what lies in a folder.

    Raises:
        StorageError: it cannot be.
    """
    with told(trash, "cannot be emptied"):
        for entry in list(trash.iterdir()) if trash.is_dir() else []:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def give_up(path: Path) -> None:
    """Remove what is left of a file that could not be written, if that can be: what could not says more."""
    with suppress(OSError):
        path.unlink()


def check_room(what: str, folder: Path, needed: int, free_bytes: int) -> None:
    """Check that there is room for ``needed`` more bytes, and ``free_bytes`` beside.

    Args:
        what: needs it, for the message.

    Raises:
        StorageError: there is not.
    """
    with told(folder, "cannot be used"):
        free = shutil.disk_usage(folder).free
    if free - needed < free_bytes:
        raise StorageError(
            f"{what} takes {needed / 1e6:.1f} MB, but {free / 1e6:.1f} MB are free, of which "
            f"{free_bytes / 1e6:.1f} MB are to stay free: make room on this disk"
        )


@contextmanager
def locked(path: Path, *, who: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of ``path`` (a file, made if it is missing) until the end of the block.

    Who waits for it asks for it, by a lock on ``PATH.wanted``, and keeps that one until it is done with both:
    nobody else can take the lock between the moment at which its holder, who looks at :func:`is_wanted`, lets
    it go, and the turn of the one who asked. Locks end with the process that has them.

    Args:
        who: what needs it, for the message.
        wait_s: above 0: it is asked for, and waited for as long; 0: nobody is asked.

    Raises:
        StorageError: another has it (and did not let it go in time), or it cannot be made.
    """
    asks = wait_s > 0
    now = time.monotonic()
    with _opened(path, os.O_RDWR) as lock, _opened(_wanted(path), os.O_RDONLY) as turn:
        if not (
            _taken(turn, fcntl.LOCK_EX if asks else fcntl.LOCK_SH, now + (wait_s or _TURN_S))
            and _taken(lock, fcntl.LOCK_EX, now + wait_s)
        ):
            holder = os.pread(lock, 100, 0).decode("ascii", "replace").strip() or "unknown"
            late = f" and did not let it go within {wait_s:g} s" if asks else ""
            raise StorageError(
                f"{path}: {who} needs it, but another process has it (pid {holder}){late}: wait for that "
                "one, or stop it"
            )
        if not asks:
            fcntl.flock(turn, fcntl.LOCK_UN)
        with told(path, "cannot be locked"):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        yield


def is_wanted(path: Path) -> bool:
    """Whether somebody asks for the lock of ``path``: for whoever has it, to let it go soon.

    Raises:
        StorageError: that cannot be told.
    """
    with told(_wanted(path), "cannot be read"):
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


def _wanted(path: Path) -> Path:
    return path.with_name(f"{path.name}.wanted")


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    with ExitStack() as stack:
        with told(path, "cannot be locked"):
            fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            stack.callback(os.close, fd)
            # Whoever may read a file can lock it: earlier versions let everybody.
            with suppress(PermissionError):
                os.fchmod(fd, 0o600)
        yield fd


def _taken(fd: int, kind: int, ends: float) -> bool:
    """Whether a lock could be had until ``ends`` (of the monotonic clock), and is."""
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= ends:
                return False
        time.sleep(_LOOK_S)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _replacing(path: Path, what: str) -> Iterator[Path]:
    """A name beside ``path``; what is made there takes its place on the disk at the end of the block."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with told(path, what):
            yield temporary
            os.replace(temporary, path)
    except BaseException:
        give_up(temporary)
        raise
    sync_folder(path.parent)


def is_read_only(error: StorageError) -> bool:
    """Whether something failed because the file system takes no changes."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EROFS


@contextmanager
def told(path: Path, what: str) -> Iterator[None]:
    """Tell an OSError as what could not be done with a file.

    Raises:
        StorageError: there was one.
    """
    try:
        yield
    except OSError as error:
        owner = error.errno in (errno.EACCES, errno.EPERM)
        hint = ": use the account that this folder belongs to" if owner else ""
        raise StorageError(f"{path}: {what}: {error.strerror or error}{hint}") from error
