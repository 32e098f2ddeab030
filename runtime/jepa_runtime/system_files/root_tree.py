"""Read and replace files below a root without ever following a symbolic link."""

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
# For files. Without O_NONBLOCK, opening a pipe would block forever.
FILE_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_DIRECTORY and O_NOFOLLOW fail with ENOTDIR on a symbolic link.
_NOT_FOUND = (FileNotFoundError, NotADirectoryError)
_MAX_BYTES = 1 << 20
# File systems and accounts without support for extended attributes.
_NO_XATTRS = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENODATA)


class RootTree:
    """The files below ``root``. All paths are relative to it, and all methods may raise OSError.

    Raises:
        SystemFilesError: The root is not an accessible folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SystemFilesError(
                f"cannot open the root {root}: {error.strerror}", code="system_files.root_unusable"
            ) from error

    def __enter__(self) -> RootTree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold an exclusive lock on the root until the end of the block or of the process.

        Raises:
            SystemFilesError: Another process holds the lock.
        """
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SystemFilesError(
                f"{self.root} is locked by another `jepa-runtime configs`: wait until it has finished",
                code="system_files.locked",
            ) from error
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    @contextmanager
    def folder(self, path: str) -> Iterator[int]:
        """Open a folder without following links, and yield its descriptor."""
        fd = os.dup(self._fd)
        try:
            for name in PurePosixPath(path).parts:
                fd, previous = os.open(name, _FOLDER, dir_fd=fd), fd
                os.close(previous)
            yield fd
        finally:
            os.close(fd)

    def deepest_existing(self, path: str) -> str:
        """Return the deepest existing folder above ``path``; an empty string is the root."""
        existing = ""
        for part in PurePosixPath(path).parent.parts:
            try:
                with self.folder(os.path.join(existing, part)):
                    existing = os.path.join(existing, part)
            except FileNotFoundError:
                break
        return existing

    def read(self, path: str) -> Item | Obstacle:
        """Return what exists at a path."""
        parent, name = os.path.split(path)
        try:
            with self.folder(parent) as fd:
                return _read(fd, name)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            return Obstacle("has a parent that is a symbolic link or not a folder")

    def stage(self, path: str, item: Item) -> None:
        """Write ``item`` to a temporary file next to ``path``, and flush it to disk."""
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
                _set_metadata(file.fileno(), item)
                os.fsync(file.fileno())

    def commit(self, path: str, item: Item) -> None:
        """Move the staged file to ``path`` atomically, or remove ``path`` if ``item`` is None."""
        with self._at(path) as (fd, name, temporary):
            if item is not None:
                os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=fd)

    def unstage(self, path: str) -> None:
        """Remove a staged file that was not committed."""
        # On a read-only file system, unlinking fails even if the file does not exist.
        if self.is_staged(path):
            with self._at(path) as (fd, _, temporary):
                os.unlink(temporary, dir_fd=fd)

    def is_staged(self, path: str) -> bool:
        """Return whether the temporary file of :meth:`stage` exists."""
        with suppress(*_NOT_FOUND), self._at(path) as (fd, _, temporary):
            os.stat(temporary, dir_fd=fd, follow_symlinks=False)
            return True
        return False

    def sync(self, folder: str) -> None:
        """Flush the entries of a folder to disk."""
        with suppress(FileNotFoundError), self.folder(folder) as fd:
            os.fsync(fd)

    def make_folder(self, path: str, mode: int = 0o755) -> None:
        """Create a folder unless it exists."""
        parent, name = os.path.split(path)
        with self.folder(parent) as fd, suppress(FileExistsError):
            os.mkdir(name, dir_fd=fd)
            with self.folder(path) as inner:
                # Independent of the umask.
                os.fchmod(inner, mode)
            os.fsync(fd)

    def remove_folder(self, path: str) -> None:
        """Remove a folder if it exists and is empty."""
        parent, name = os.path.split(path)
        with suppress(*_NOT_FOUND), self.folder(path) as inner, self.folder(parent) as fd:
            if not os.listdir(inner):
                os.rmdir(name, dir_fd=fd)
                os.fsync(fd)

    def remove_all(self, path: str) -> None:
        """Remove a folder and its content if it exists."""
        parent, name = os.path.split(path)
        with suppress(*_NOT_FOUND), self.folder(parent) as fd:
            # Python 3.10 has no dir_fd here.
            shutil.rmtree(f"/proc/self/fd/{fd}/{name}")

    def rename(self, path: str, name: str) -> None:
        """Rename a folder within its parent, and flush the parent to disk."""
        parent, before = os.path.split(path)
        with self.folder(parent) as fd:
            os.rename(before, name, src_dir_fd=fd, dst_dir_fd=fd)
            os.fsync(fd)

    def time(self, folder: str) -> int:
        """Return the modification time of a folder in ns."""
        with self.folder(folder) as fd:
            return os.fstat(fd).st_mtime_ns

    def set_time(self, folder: str, mtime_ns: int) -> None:
        """Set the modification time of a folder if it exists."""
        with suppress(FileNotFoundError), self.folder(folder) as fd:
            status = os.fstat(fd)
            if status.st_mtime_ns != mtime_ns:
                os.utime(fd, ns=(status.st_atime_ns, mtime_ns))
                os.fsync(fd)

    @contextmanager
    def _at(self, path: str) -> Iterator[tuple[int, str, str]]:
        """Yield the descriptor of the parent folder, the name, and the name of the temporary file."""
        parent, name = os.path.split(path)
        with self.folder(parent) as fd:
            yield fd, name, f".{name}.jepa-configs"


def _read(folder: int, name: str) -> Item | Obstacle:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        target = os.fsencode(os.readlink(name, dir_fd=folder))
        return Link(target=target, uid=status.st_uid, gid=status.st_gid, mtime_ns=status.st_mtime_ns)
    if not stat.S_ISREG(status.st_mode):
        return Obstacle("is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file")
    if status.st_nlink > 1:
        return Obstacle(f"has {status.st_nlink} hard links, which replacing it would separate")
    if status.st_size > _MAX_BYTES:
        return Obstacle(f"is larger than {_MAX_BYTES} bytes, so it is not a configuration file")
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


def _set_metadata(fd: int, item: File) -> None:
    """Set the owner first, because changing it clears permissions and capabilities."""
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
