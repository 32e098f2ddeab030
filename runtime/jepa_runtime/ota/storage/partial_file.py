"""A file that is still coming: its room is there from the start, and what is safe of it survives a power cut.

Since the room is taken at once, the size of the file does not tell how far it has come. Its last 8 bytes do,
beyond the content, until it is whole. They are within the file because a second file beside it could be
left behind, lost or mistaken for that of another download; they are written after the content that they
count was synchronised, so a power cut makes them too small and never too large.
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
_ANEW = 1 << 63
# Without O_NONBLOCK, opening a pipe that somebody put there would wait for ever.
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PartialFile:
    """A file of known length that is filled from its start; as a context manager, it is closed.

    After any error of the disk the file is removed: nobody knows then what it holds.

    Args:
        path: it is made unless it is there; its folder must be.
        length: of the content when it is whole, in bytes.
        free_bytes: to be left free on the disk.

    Attributes:
        offset: bytes of the content that are there.
        anew: whether what is there was fetched from its start after a content that was wrong.

    Raises:
        StorageError: there is no room, or it cannot be made.
    """

    def __init__(self, path: Path, length: int, *, free_bytes: int) -> None:
        self._path = path
        self._length = length
        try:
            self._fd, self.anew = os.open(path, _FLAGS, 0o644), False
        except OSError as error:
            raise StorageError(f"{path}: cannot be made: {error.strerror}") from error
        try:
            with self._told("cannot be prepared"):
                self.offset = self._safe = self._found()
                self._take_room(free_bytes)
            sync_folder(path.parent)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, data: bytes) -> None:
        """Add to the content; every :data:`SYNC_BYTES` it is made safe.

        Raises:
            StorageError: it cannot be.
        """
        with self._told("cannot be written"):
            view = memoryview(data)
            while view:
                written = os.pwrite(self._fd, view, self.offset)
                self.offset += written
                view = view[written:]
        if self.offset - self._safe >= SYNC_BYTES:
            self.keep()

    def keep(self) -> None:
        """Make safe what is there.

        Raises:
            StorageError: it cannot be.
        """
        if self.offset == self._safe:
            return
        with self._told("cannot be written to the disk"):
            os.fsync(self._fd)
            self._write_tail()

    def rewind(self, *, anew: bool = False) -> None:
        """Begin from the start again.

        Args:
            anew: because the content was wrong; this is remembered.

        Raises:
            StorageError: it cannot be written.
        """
        with self._told("cannot be written"):
            self.offset, self.anew = 0, self.anew or anew
            os.posix_fallocate(self._fd, 0, self._length + _TAIL_BYTES)
            self._write_tail()

    def finish(self) -> None:
        """Let the file be its content and nothing else, safe on the disk.

        Raises:
            StorageError: it cannot be.
        """
        with self._told("cannot be written to the disk"):
            os.fsync(self._fd)
            if os.fstat(self._fd).st_size != self._length:
                os.ftruncate(self._fd, self._length)
                os.fsync(self._fd)

    @contextmanager
    def content(self) -> Iterator[BufferedReader]:
        """The content as the disk has it, not as the memory still knows it.

        Raises:
            StorageError: it cannot be read.
        """
        with self._told("cannot be read"), os.fdopen(os.dup(self._fd), "rb") as file:
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            yield file

    def remove(self) -> None:
        """Remove the file.

        Raises:
            StorageError: it cannot be.
        """
        with storage_errors(self._path, "cannot be removed"):
            self._path.unlink(missing_ok=True)
        sync_folder(self._path.parent)

    def _found(self) -> int:
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"{self._path}: is no regular file: remove it")
        if status.st_size == self._length:
            return self._length
        if status.st_size == self._length + _TAIL_BYTES:
            tail = int.from_bytes(os.pread(self._fd, _TAIL_BYTES, self._length), "big")
            safe, self.anew = tail & ~_ANEW, bool(tail & _ANEW)
            return safe if safe <= self._length else 0
        os.ftruncate(self._fd, 0)
        return 0

    def _take_room(self, free_bytes: int) -> None:
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
        tail = self.offset | (_ANEW if self.anew else 0)
        os.pwrite(self._fd, tail.to_bytes(_TAIL_BYTES, "big"), self._length)
        self._safe = self.offset

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remove_quietly(self._path)
            raise StorageError(f"{self._path}: {what}: {error.strerror or error}: it was removed") from error
