"""A root whose files are read and replaced without ever following a symbolic link out of it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from jepa_runtime.errors import SystemFilesError
from jepa_runtime.system_files.entries import File, Item, Link, Obstacle

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# For files. Without O_NONBLOCK, opening a pipe that somebody put there would wait for ever.
FILE_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Where a folder is looked for, a symbolic link is none: ENOTDIR.
_NOT_THERE = (FileNotFoundError, NotADirectoryError)
_MAX_BYTES = 1 << 20
# Extended attributes cannot be kept everywhere.
_NO_XATTRS = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENODATA)


class RootTree:
    """The files below ``root``; paths are relative to it. Methods raise OSError if nothing else is said.

    Raises:
        SystemFilesError: no such folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SystemFilesError(f"{root}: cannot be used as a root: {error.strerror}") from error

    def __enter__(self) -> RootTree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else change this root until the end of the block, or of the process.

        Raises:
            SystemFilesError: somebody else does.
        """
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            why = "is being changed by another `jepa-runtime configs`: wait for that one"
            raise SystemFilesError(f"{self.root}: {why}") from error
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    @contextmanager
    def folder(self, path: str) -> Iterator[int]:
        """A descriptor of a folder, reached without following a link."""
        fd = os.dup(self._fd)
        try:
            for name in PurePosixPath(path).parts:
                fd, previous = os.open(name, _FOLDER, dir_fd=fd), fd
                os.close(previous)
            yield fd
        finally:
            os.close(fd)

    def standing(self, path: str) -> str:
        """The deepest folder above ``path`` that is there; empty: the root."""
        standing = ""
        for part in PurePosixPath(path).parent.parts:
            try:
                with self.folder(os.path.join(standing, part)):
                    standing = os.path.join(standing, part)
            except FileNotFoundError:
                break
        return standing

    def read(self, path: str) -> Item | Obstacle:
        """What lies at a path."""
        parent, name = os.path.split(path)
        try:
            with self.folder(parent) as fd:
                return _read(fd, name)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            return Obstacle("lies behind a symbolic link, or behind something that is no folder")

    def stage(self, path: str, item: Item) -> None:
        """Write what is to lie at a path to a file beside it, and to the disk."""
        if item is None:
            return
        with self._at(path) as (fd, _, temporary):
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=fd)
            if isinstance(item, Link):
                os.symlink(item.target, os.fsencode(temporary), dir_fd=fd)
                os.chown(temporary, item.uid, item.gid, dir_fd=fd, follow_symlinks=False)
                times = (item.mtime_ns, item.mtime_ns)
                os.utime(temporary, ns=times, dir_fd=fd, follow_symlinks=False)
                return
            with os.fdopen(os.open(temporary, _NEW, 0o600, dir_fd=fd), "wb") as file:
                file.write(item.content)
                file.flush()
                _dress(file.fileno(), item)
                os.fsync(file.fileno())

    def commit(self, path: str, item: Item) -> None:
        """Let what was staged lie at a path, at once; None: nothing."""
        with self._at(path) as (fd, name, temporary):
            if item is not None:
                os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=fd)

    def unstage(self, path: str) -> None:
        """Remove what was staged and never committed."""
        # A file system that is read only lets nobody unlink what is not there either.
        if self.is_staged(path):
            with self._at(path) as (fd, _, temporary):
                os.unlink(temporary, dir_fd=fd)

    def is_staged(self, path: str) -> bool:
        """Whether something lies where :meth:`stage` would write."""
        with suppress(*_NOT_THERE), self._at(path) as (fd, _, temporary):
            os.stat(temporary, dir_fd=fd, follow_symlinks=False)
            return True
        return False

    def sync(self, folder: str) -> None:
        """Wait until the names in a folder are on the disk."""
        with suppress(FileNotFoundError), self.folder(folder) as fd:
            os.fsync(fd)

    def make_folder(self, path: str, mode: int = 0o755) -> None:
        """Make a folder unless it is there."""
        parent, name = os.path.split(path)
        with self.folder(parent) as fd, suppress(FileExistsError):
            os.mkdir(name, dir_fd=fd)
            with self.folder(path) as inner:
                # Whatever the umask of the caller is.
                os.fchmod(inner, mode)
            os.fsync(fd)

    def remove_folder(self, path: str) -> None:
        """Remove a folder, unless it is gone or somebody else has something in there."""
        parent, name = os.path.split(path)
        with suppress(*_NOT_THERE), self.folder(path) as inner, self.folder(parent) as fd:
            if not os.listdir(inner):
                os.rmdir(name, dir_fd=fd)
                os.fsync(fd)

    def remove_all(self, path: str) -> None:
        """Remove a folder and all in it, if it is there."""
        parent, name = os.path.split(path)
        with suppress(*_NOT_THERE), self.folder(parent) as fd:
            # Python 3.10 has no dir_fd here.
            shutil.rmtree(f"/proc/self/fd/{fd}/{name}")

    def rename(self, path: str, name: str) -> None:
        """Give a folder another name in the same one, on the disk."""
        parent, before = os.path.split(path)
        with self.folder(parent) as fd:
            os.rename(before, name, src_dir_fd=fd, dst_dir_fd=fd)
            os.fsync(fd)

    def time(self, folder: str) -> int:
        """When the names in a folder were changed last [ns]."""
        with self.folder(folder) as fd:
            return os.fstat(fd).st_mtime_ns

    def set_time(self, folder: str, mtime_ns: int) -> None:
        """Let that be when a folder was changed last, if it is there."""
        with suppress(FileNotFoundError), self.folder(folder) as fd:
            status = os.fstat(fd)
            if status.st_mtime_ns != mtime_ns:
                os.utime(fd, ns=(status.st_atime_ns, mtime_ns))
                os.fsync(fd)

    @contextmanager
    def _at(self, path: str) -> Iterator[tuple[int, str, str]]:
        """Folder, name and name of the file beside it."""
        parent, name = os.path.split(path)
        with self.folder(parent) as fd:
            yield fd, name, f".{name}.jepa-configs"


def _read(folder: int, name: str) -> Item | Obstacle:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        target = os.fsencode(os.readlink(name, dir_fd=folder))
        return Link(target=target, uid=status.st_uid, gid=status.st_gid, mtime_ns=status.st_mtime_ns)
    if not stat.S_ISREG(status.st_mode):
        return Obstacle("is a folder" if stat.S_ISDIR(status.st_mode) else "is no regular file")
    if status.st_nlink > 1:
        return Obstacle(f"is one of {status.st_nlink} names of a file, which would be parted")
    if status.st_size > _MAX_BYTES:
        return Obstacle(f"is larger than {_MAX_BYTES} bytes, so it is no configuration")
    with os.fdopen(os.open(name, FILE_READ, dir_fd=folder), "rb") as file:
        return File(
            content=file.read(),
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            mtime_ns=status.st_mtime_ns,
            xattrs=_xattrs(file.fileno()),
        )


def _xattrs(fd: int) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(fd, name) for name in os.listxattr(fd)}
    except OSError as error:
        if error.errno not in _NO_XATTRS:
            raise
        return {}


def _dress(fd: int, item: File) -> None:
    """Owner first: changing it takes permissions and capabilities away."""
    os.fchown(fd, item.uid, item.gid)
    os.fchmod(fd, item.mode)
    for name, value in item.xattrs.items():
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise
    if item.mtime_ns is not None:
        os.utime(fd, ns=(item.mtime_ns, item.mtime_ns))
