"""Where the files of a repository come from, and what fetching them may take; a folder, such as that of a USB
stick, is one such place.
"""

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

# Without O_NONBLOCK, opening a pipe that somebody put there would wait for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotFoundError(FetchError):
    """The source has no such file, or says so (object stores may say 403 for what is missing)."""


class BusyError(FetchError):
    """The server wants to be left alone.

    Attributes:
        after_s: for so many seconds.
    """

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
        offset: where it really starts: where it was asked to, or 0.
    """

    @property
    def offset(self) -> int: ...

    def read(self, n: int, /) -> bytes:
        """What has come, between 1 and ``n`` bytes; nothing at the end.

        Raises:
            FetchError: nothing comes any more.
        """
        ...


class Source(Protocol):
    """Where files come from."""

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Body]:
        """Begin to read a file.

        Args:
            path: relative, as in a URL.
            offset: from where to read, in bytes.

        Raises:
            NotFoundError: there is no such file.
            FetchError: it cannot be read now.
        """
        ...


class Watched:
    """Another source, for somebody who watches that what comes slowly comes.

    Args:
        alive: is called before each piece that is read; what it raises ends that.
    """

    def __init__(self, source: Source, alive: Callable[[], None]) -> None:
        self._source, self._alive = source, alive

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        """Begin to read a file; see :meth:`Source.open`."""
        with self._source.open(path, offset) as body:
            yield _WatchedBody(body, self._alive)


@dataclass(frozen=True)
class _WatchedBody:
    body: Body
    alive: Callable[[], None]

    @property
    def offset(self) -> int:
        return self.body.offset

    def read(self, n: int, /) -> bytes:
        self.alive()
        return self.body.read(n)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a fetch may take.

    Attributes:
        connect_s: to get a connection.
        read_s: without a byte, and until all headers are there.
        min_bytes_s: the least mean rate over 30 s.
        total_s: of all files of one update, which counts anew when it has made way for somebody; the next
            goes on from there.
        max_bytes_s: the highest mean rate, in bytes per second; None: any.
        max_bytes: of all files of one update, as total_s; None: any.
        free_bytes: left free on the disk.

    Raises:
        ValueError: nothing can keep one.
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
    """A folder with the same files; no link is followed out of it.

    Args:
        path: what the paths are relative to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        """Begin to read a file; see :meth:`Source.open`."""
        name = unquote(path)
        where = self._path / name
        if not self._path.is_dir():
            raise FetchError(f"{self._path}: no such folder: check that it is mounted")
        if PurePosixPath(name).is_absolute() or "\0" in name or not self._holds(where):
            raise FetchError(f"{self._path}: {path!r} leads out of it: copy the repository without links")
        with _opened(where) as file:
            size = os.fstat(file.fileno()).st_size
            yield _FileBody(file, where, offset if offset <= size else 0)

    def _holds(self, where: Path) -> bool:
        try:
            real = os.path.realpath(where, strict=True)
        except FileNotFoundError:
            real = os.path.realpath(where)
        except OSError:  # links in a circle
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
            raise FetchError(f"{self._where}: cannot be read: {error.strerror}: try another copy") from error


@contextmanager
def _opened(where: Path) -> Iterator[BinaryIO]:
    try:
        fd = os.open(where, _FILE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{where}: no such file") from error
    except OSError as error:
        raise FetchError(f"{where}: cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FetchError(f"{where}: is no regular file: copy the repository again")
    with os.fdopen(fd, "rb") as file:
        yield file
