"""Files of an untrusted folder: no links, nothing outside, and what is hashed is what is read."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from jepa_runtime.bundle.manifest import MAX_FILES
from jepa_runtime.errors import BundleError

_CHUNK_BYTES = 1 << 20
_MAX_DEPTH = 16
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe that somebody put there would wait for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class UntrustedFolder:
    """A folder held open: renaming it or its parents does not change what is read.

    Args:
        path: may itself be a link (to the release in use, for instance); nothing below it may.

    Raises:
        BundleError: no such folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BundleError(f"{path}: no bundle there ({error.strerror}): name its folder") from error

    def __enter__(self) -> UntrustedFolder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def listing(self) -> tuple[set[str], set[str]]:
        """Every file and every folder below this one, as relative paths with ``/``.

        Raises:
            BundleError: there is a link or a special file, or more than a bundle may have.
        """
        files: set[str] = set()
        folders: set[str] = set()
        try:
            self._list(self._fd, "", files, folders, 0)
        except OSError as error:
            raise BundleError(f"{self.path}: cannot be listed: {error.strerror}") from error
        return files, folders

    @contextmanager
    def open(self, relative: str) -> Iterator[BinaryIO]:
        """A regular file, opened without following a link anywhere on the way.

        Raises:
            BundleError: it is missing, a link or no regular file, or cannot be read.
        """
        *parents, name = PurePosixPath(relative).parts
        folder_fd = os.dup(self._fd)
        with ExitStack() as stack:
            try:
                for parent in parents:
                    folder_fd, previous = os.open(parent, _DIRECTORY, dir_fd=folder_fd), folder_fd
                    os.close(previous)
                # Of a folder under this name, fdopen would leave the descriptor open.
                file = stack.enter_context(
                    open(name, "rb", opener=lambda path, _: os.open(path, _FILE, dir_fd=folder_fd))
                )
            except OSError as error:
                raise BundleError(f"{self.path / relative}: {_why(error)}") from error
            finally:
                os.close(folder_fd)
            self._check_regular(os.fstat(file.fileno()), relative)
            try:
                yield file
            except OSError as error:
                raise BundleError(f"{self.path / relative}: cannot be read: {error.strerror}") from error

    def read(self, relative: str, limit: int) -> bytes:
        """The content of a file of at most ``limit`` bytes.

        Raises:
            BundleError: as :meth:`open`, or the file is longer.
        """
        with self.open(relative) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise BundleError(f"{self.path / relative}: longer than the {limit} bytes it may have")
        return data

    def digest(self, relative: str, limit: int) -> tuple[int, str]:
        """Length in bytes and SHA-256 of a file; reading stops after ``limit`` bytes and one.

        Raises:
            BundleError: as :meth:`open`.
        """
        sha256, length = hashlib.sha256(), 0
        with self.open(relative) as file:
            while length <= limit and (chunk := file.read(min(_CHUNK_BYTES, limit + 1 - length))):
                sha256.update(chunk)
                length += len(chunk)
        return length, sha256.hexdigest()

    def _list(self, folder_fd: int, prefix: str, files: set[str], folders: set[str], depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise BundleError(f"{self.path / prefix}: folders are nested too deeply")
        with os.scandir(folder_fd) as entries:
            for entry in entries:
                relative = prefix + entry.name
                if len(files) + len(folders) > 2 * MAX_FILES:
                    raise BundleError(f"{self.path}: more than {MAX_FILES} files: this is no bundle")
                status = os.stat(entry.name, dir_fd=folder_fd, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    self._check_regular(status, relative)
                    files.add(relative)
                    continue
                folders.add(relative)
                self._list_inside(folder_fd, entry.name, relative, files, folders, depth)

    def _list_inside(
        self, folder_fd: int, name: str, relative: str, files: set[str], folders: set[str], depth: int
    ) -> None:
        try:
            inner_fd = os.open(name, _DIRECTORY, dir_fd=folder_fd)
        except OSError as error:
            raise BundleError(f"{self.path / relative}: {_why(error)}") from error
        try:
            self._list(inner_fd, relative + "/", files, folders, depth + 1)
        finally:
            os.close(inner_fd)

    def _check_regular(self, status: os.stat_result, relative: str) -> None:
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(
                f"{self.path / relative}: is a symbolic link: a bundle may hold none, copy the file itself"
            )
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{self.path / relative}: is no regular file: remove it")
        if status.st_nlink > 1:
            raise BundleError(
                f"{self.path / relative}: is a hard link ({status.st_nlink} names for one file): somebody "
                "may change it from outside, copy the file itself"
            )


def _why(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "is missing: the folder is no bundle, or not all of one: name another, or copy this one again"
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "is a symbolic link or not what the manifest says: a bundle may hold no links"
    return f"cannot be opened: {error.strerror}"
