"""A partially downloaded file: its space is allocated at the start, and synced content survives a power cut.

Because the space is allocated at once, the size of the file does not show the progress. Its last 8 bytes do,
after the content, until the file is complete. They are part of the file because a second file could be left
behind, lost, or mistaken for that of another download. They are written after the content that they count was
synced, so after a power cut they may be too small, but never too large.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from jepa_runtime.errors import StorageError
from jepa_runtime.util.atomic_files import check_free_space, remove_quietly, storage_errors, sync_folder

SYNC_BYTES = 4 << 20
_TAIL_BYTES = 8
_REFETCHED = 1 << 63
# Without O_NONBLOCK, opening a named pipe would block.
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PartialFile:
    """A file of known length that is filled from its start; a context manager that closes it.

    After any disk error the file is removed, because its content is unknown.

    Args:
        path: The file, created if it is missing; its folder must exist.
        length: Length of the complete content, in bytes.
        free_bytes: Space to leave free on the disk.

    Attributes:
        offset: Length of the content so far, in bytes.
        refetched: Whether the content was fetched from its start after it had a wrong hash.

    Raises:
        StorageError: The disk is full, or the file cannot be created.
    """

    def __init__(self, path: Path, length: int, *, free_bytes: int) -> None:
        self._path = path
        self._length = length
        try:
            self._fd, self.refetched = os.open(path, _FLAGS, 0o644), False
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be created: {error.strerror}", code="storage.cannot_create"
            ) from error
        try:
            with self._disk_errors("cannot allocate it"):
                self.offset = self._synced = self._stored_bytes()
                self._allocate(free_bytes)
            sync_folder(path.parent)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, data: bytes) -> None:
        """Append to the content, and sync it every :data:`SYNC_BYTES`.

        Raises:
            StorageError: The data cannot be written.
        """
        with self._disk_errors("cannot be written"):
            view = memoryview(data)
            while view:
                written = os.pwrite(self._fd, view, self.offset)
                self.offset += written
                view = view[written:]
        if self.offset - self._synced >= SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """Sync the content so far.

        Raises:
            StorageError: The content cannot be synced.
        """
        if self.offset == self._synced:
            return
        with self._disk_errors("cannot be synced"):
            os.fsync(self._fd)
            self._write_tail()

    def rewind(self, *, refetched: bool = False) -> None:
        """Start again at offset 0.

        Args:
            refetched: Whether the content had a wrong hash; this is stored.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._disk_errors("cannot be written"):
            self.offset, self.refetched = 0, self.refetched or refetched
            os.posix_fallocate(self._fd, 0, self._length + _TAIL_BYTES)
            self._write_tail()

    def finish(self) -> None:
        """Remove everything but the content, and sync the file.

        Raises:
            StorageError: The file cannot be synced.
        """
        with self._disk_errors("cannot be synced"):
            os.fsync(self._fd)
            if os.fstat(self._fd).st_size != self._length:
                os.ftruncate(self._fd, self._length)
                os.fsync(self._fd)

    @contextmanager
    def content(self) -> Iterator[BufferedReader]:
        """Open the content as stored on the disk, bypassing the page cache.

        Raises:
            StorageError: The content cannot be read.
        """
        with self._disk_errors("cannot be read"), os.fdopen(os.dup(self._fd), "rb") as file:
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            yield file

    def remove(self) -> None:
        """Remove the file.

        Raises:
            StorageError: It cannot be removed.
        """
        with storage_errors(self._path, "cannot be removed"):
            self._path.unlink(missing_ok=True)
        sync_folder(self._path.parent)

    def _stored_bytes(self) -> int:
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"{self._path}: not a regular file: remove it", code="storage.not_a_file")
        if status.st_size == self._length:
            return self._length
        if status.st_size == self._length + _TAIL_BYTES:
            tail = int.from_bytes(os.pread(self._fd, _TAIL_BYTES, self._length), "big")
            safe, self.refetched = tail & ~_REFETCHED, bool(tail & _REFETCHED)
            return safe if safe <= self._length else 0
        os.ftruncate(self._fd, 0)
        return 0

    def _allocate(self, free_bytes: int) -> None:
        status = os.fstat(self._fd)
        if status.st_size == self._length and self.offset:
            return
        needed = max(0, self._length + _TAIL_BYTES - status.st_blocks * 512)
        try:
            check_free_space(f"{self._path}:", self._path.parent, needed, free_bytes)
        except StorageError:
            if not self.offset:
                remove_quietly(self._path)
            raise
        os.posix_fallocate(self._fd, 0, self._length + _TAIL_BYTES)

    def _write_tail(self) -> None:
        tail = self.offset | (_REFETCHED if self.refetched else 0)
        os.pwrite(self._fd, tail.to_bytes(_TAIL_BYTES, "big"), self._length)
        self._synced = self.offset

    @contextmanager
    def _disk_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remove_quietly(self._path)
            raise StorageError(
                f"{self._path}: {what}: {error.strerror or error}; the file was removed",
                code="storage.disk_error",
            ) from error
