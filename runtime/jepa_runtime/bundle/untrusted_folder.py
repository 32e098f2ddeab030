"""Access to an untrusted folder: no links, nothing outside, and the hashed bytes are the bytes read."""

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
# Without O_NONBLOCK, opening a pipe in the folder would block forever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class UntrustedFolder:
    """An open folder: renaming it or its parents does not change what is read.

    Args:
        path: The folder. It may be a link itself (to the active release, for instance), but may contain none.

    Raises:
        BundleError: The folder does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BundleError(
                f"{path}: not a bundle ({error.strerror}): give the path of its folder",
                code="bundle.not_found",
            ) from error

    def __enter__(self) -> UntrustedFolder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def listing(self) -> tuple[set[str], set[str]]:
        """Return all files and all folders below this one, as relative paths with ``/``.

        Raises:
            BundleError: There is a link or a special file, or there are more files than a bundle may have.
        """
        files: set[str] = set()
        folders: set[str] = set()
        try:
            self._list(self._fd, "", files, folders, 0)
        except OSError as error:
            raise BundleError(
                f"{self.path}: cannot be listed: {error.strerror}", code="bundle.unreadable"
            ) from error
        return files, folders

    @contextmanager
    def open(self, relative: str) -> Iterator[BinaryIO]:
        """Open a regular file without following any link on its path.

        Raises:
            BundleError: It is missing, a link or not a regular file, or cannot be read.
        """
        *parents, name = PurePosixPath(relative).parts
        folder_fd = os.dup(self._fd)
        with ExitStack() as stack:
            try:
                for parent in parents:
                    folder_fd, previous = os.open(parent, _DIRECTORY, dir_fd=folder_fd), folder_fd
                    os.close(previous)
                # If this name is a folder, fdopen would leave the descriptor open.
                file = stack.enter_context(
                    open(name, "rb", opener=lambda path, _: os.open(path, _FILE, dir_fd=folder_fd))
                )
            except OSError as error:
                raise self._open_error(relative, error) from error
            finally:
                os.close(folder_fd)
            self._check_regular(os.fstat(file.fileno()), relative)
            try:
                yield file
            except OSError as error:
                raise BundleError(
                    f"{self.path / relative}: cannot be read: {error.strerror}", code="bundle.unreadable"
                ) from error

    def read(self, relative: str, limit: int) -> bytes:
        """Read a file of at most ``limit`` bytes.

        Raises:
            BundleError: See :meth:`open`; also if the file is larger.
        """
        with self.open(relative) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise BundleError(
                f"{self.path / relative}: larger than the allowed {limit} bytes", code="bundle.size_mismatch"
            )
        return data

    def digest(self, relative: str, limit: int) -> tuple[int, str]:
        """Return the length in bytes and the SHA-256 of a file; stop reading at ``limit`` + 1 bytes.

        Raises:
            BundleError: See :meth:`open`.
        """
        sha256, length = hashlib.sha256(), 0
        with self.open(relative) as file:
            while length <= limit and (chunk := file.read(min(_CHUNK_BYTES, limit + 1 - length))):
                sha256.update(chunk)
                length += len(chunk)
        return length, sha256.hexdigest()

    def _list(self, folder_fd: int, prefix: str, files: set[str], folders: set[str], depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise BundleError(
                f"{self.path / prefix}: folders are nested too deeply (more than {_MAX_DEPTH} levels)",
                code="bundle.too_large",
            )
        with os.scandir(folder_fd) as entries:
            for entry in entries:
                relative = prefix + entry.name
                if len(files) + len(folders) > 2 * MAX_FILES:
                    raise BundleError(
                        f"{self.path}: more than {MAX_FILES} files: this is not a bundle",
                        code="bundle.too_large",
                    )
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
            raise self._open_error(relative, error) from error
        try:
            self._list(inner_fd, relative + "/", files, folders, depth + 1)
        finally:
            os.close(inner_fd)

    def _check_regular(self, status: os.stat_result, relative: str) -> None:
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(
                f"{self.path / relative}: a symbolic link, which is not allowed: copy the file itself",
                code="bundle.link",
            )
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(
                f"{self.path / relative}: not a regular file: remove it", code="bundle.special_file"
            )
        if status.st_nlink > 1:
            raise BundleError(
                f"{self.path / relative}: a hard link ({status.st_nlink} names for one file), which can be "
                "changed from outside: copy the file itself",
                code="bundle.link",
            )

    def _open_error(self, relative: str, error: OSError) -> BundleError:
        path = self.path / relative
        if error.errno == errno.ENOENT:
            return BundleError(
                f"{path}: missing: the folder is not a bundle, or is incomplete: give another path, or copy "
                "the bundle again",
                code="bundle.file_missing",
            )
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            return BundleError(
                f"{path}: a symbolic link, or not what the manifest lists: a bundle must not contain links",
                code="bundle.link",
            )
        return BundleError(f"{path}: cannot be opened: {error.strerror}", code="bundle.unreadable")
