"""Sources of a repository's files, and their limits; a source may be a folder, such as a USB stick."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol
from urllib.parse import unquote

from jepa_runtime.errors import FetchError

# Without O_NONBLOCK, opening a named pipe would block.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotFoundError(FetchError):
    """The source does not have the file (object stores may respond 403 for missing files)."""

    code = "transfer.not_found"


class BusyError(FetchError):
    """The server requests a pause.

    Attributes:
        after_s: The pause in seconds.
    """

    code = "http.busy"

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


class Clock(Protocol):
    """Monotonic time in seconds; the module ``time`` is one."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


class Body(Protocol):
    """A file that is being read.

    Attributes:
        offset: The actual start: the requested offset, or 0.
    """

    @property
    def offset(self) -> int: ...

    def read(self, n: int, /) -> bytes:
        """Return the bytes that are available, from 1 to ``n``; empty at the end.

        Raises:
            FetchError: No more bytes arrive.
        """
        ...


class Source(Protocol):
    """A source of files."""

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Body]:
        """Open a file.

        Args:
            path: Relative path, as in a URL.
            offset: Where to start, in bytes.

        Raises:
            NotFoundError: There is no such file.
            FetchError: It cannot be read now.
        """
        ...


class WatchedSource:
    """A source that calls a heartbeat while it is read.

    Args:
        source: The source.
        heartbeat: Called before each read; an exception from it ends the read.
    """

    def __init__(self, source: Source, heartbeat: Callable[[], None]) -> None:
        self._source, self._alive = source, heartbeat

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        """Open a file; see :meth:`Source.open`."""
        with self._source.open(path, offset) as body:
            yield _WatchedBody(body, self._alive)


@dataclass(frozen=True)
class _WatchedBody:
    body: Body
    heartbeat: Callable[[], None]

    @property
    def offset(self) -> int:
        return self.body.offset

    def read(self, n: int, /) -> bytes:
        self.heartbeat()
        return self.body.read(n)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of downloads.

    Attributes:
        connect_s: Timeout of a connection.
        read_s: Timeout for the next byte, and for all headers.
        min_bytes_s: Minimum mean rate over 30 s, in bytes per second.
        total_s: Time for all files of one update, which restarts after the update has yielded the lock; the
            next update resumes.
        max_bytes_s: Maximum mean rate, in bytes per second; None: unlimited.
        max_bytes: Bytes for all files of one update, counted like total_s; None: unlimited.
        free_bytes: Space to leave free on the disk.

    Raises:
        ValueError: A limit is out of range, or contradicts another one.
    """

    connect_s: float = 10
    read_s: float = 30
    min_bytes_s: float = 1024
    total_s: float = 3600
    max_bytes_s: float | None = None
    max_bytes: int | None = None
    free_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name in ("connect_s", "read_s", "total_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name):g}")
        if self.max_bytes_s is not None and self.max_bytes_s < 2 * self.min_bytes_s:
            raise ValueError(
                f"max_bytes_s must be at least twice min_bytes_s ({self.min_bytes_s:g}), got "
                f"{self.max_bytes_s:g}: lower min_bytes_s as well"
            )
        if self.max_bytes is not None and self.max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {self.max_bytes}")


class FolderSource:
    """A folder with the files of a repository; links out of it are not followed.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        """Open a file; see :meth:`Source.open`."""
        name = unquote(path)
        where = self._path / name
        if not self._path.is_dir():
            raise FetchError(
                f"{self._path}: no such folder: check that the medium is mounted", code="transfer.no_folder"
            )
        if PurePosixPath(name).is_absolute() or "\0" in name or not self._contains(where):
            raise FetchError(
                f"{self._path}: {path!r} is outside the folder: copy the repository without links",
                code="transfer.outside_folder",
            )
        with _opened(where) as file:
            size = os.fstat(file.fileno()).st_size
            yield _FileBody(file, where, offset if offset <= size else 0)

    def _contains(self, where: Path) -> bool:
        try:
            real = os.path.realpath(where, strict=True)
        except FileNotFoundError:
            real = os.path.realpath(where)
        except OSError:  # a cycle of links
            return False
        return Path(real).is_relative_to(os.path.realpath(self._path))


class _FileBody:
    def __init__(self, file: BinaryIO, where: Path, offset: int) -> None:
        self._file = file
        self._where = where
        self.offset = offset
        file.seek(offset)

    def read(self, n: int, /) -> bytes:
        try:
            return self._file.read(n)
        except OSError as error:
            raise FetchError(
                f"{self._where}: cannot be read: {error.strerror}: use another copy",
                code="transfer.unreadable_file",
            ) from error


@contextmanager
def _opened(where: Path) -> Iterator[BinaryIO]:
    try:
        fd = os.open(where, _FILE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{where}: no such file") from error
    except OSError as error:
        raise FetchError(
            f"{where}: cannot be opened: {error.strerror}", code="transfer.unreadable_file"
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FetchError(
            f"{where}: not a regular file: copy the repository again", code="transfer.not_a_file"
        )
    with os.fdopen(fd, "rb") as file:
        yield file
