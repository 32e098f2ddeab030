"""The audit log: one JSON object per line, each with the SHA-256 of the line before it.

A line that is changed, removed or inserted breaks the chain. A process that can write the folder can rewrite
the whole log, so a chain that serves as evidence has to be copied to a place that the robot cannot write.

``audit.log`` grows to about 1 MiB, and then continues in a new file. Old files are ``audit.log.1``, ``.2``
and so on, the highest number being the latest; the oldest are removed. The chain continues across files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from jepa_runtime.errors import StorageError, StrictJsonError
from jepa_runtime.util import atomic_files
from jepa_runtime.util.strict_json import parse_json

MAX_BYTES = 1 << 20
MAX_OLD_FILES = 8
_START = "0" * 64
_UNUSABLE = "cannot be read or written"


class Entry(NamedTuple):
    """One line of the log.

    Attributes:
        n: Number of the entry, from 0.
        at: Time by the robot's clock.
        event: What happened.
        facts: Details.
    """

    n: int
    at: str
    event: str
    facts: dict[str, Any]


class AuditLog:
    """The log at ``path``, for one writer.

    Args:
        path: The current file.
        now: The clock for entries.
        max_bytes: Size of a file at which a new one is started.
        max_old_files: Number of old files to keep.
    """

    def __init__(
        self,
        path: Path,
        now: Callable[[], datetime],
        *,
        max_bytes: int = MAX_BYTES,
        max_old_files: int = MAX_OLD_FILES,
    ) -> None:
        self._path, self._now = path, now
        self._max_bytes, self._max_old_files = max_bytes, max_old_files
        self._next: tuple[int, str] | None = None

    def append(self, event: str, **facts: Any) -> None:
        """Append an entry durably.

        Raises:
            StorageError: The entry cannot be written.
        """
        with atomic_files.storage_errors(self._path, _UNUSABLE):
            if self._next is None:
                self._next = self._continue_chain()
            self._rotate()
            self._write(event, facts)

    def entries(self) -> Iterator[Entry]:
        """Yield the entries, the oldest first; a last line that a power cut truncated is skipped.

        Raises:
            StorageError: The chain is broken, or a file cannot be read.
        """
        expected: tuple[int, str] | None = None
        with atomic_files.storage_errors(self._path, _UNUSABLE):
            for path in self._files():
                for count, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
                    if not line.endswith(b"\n") and path == self._path:
                        return
                    n, before, entry = _parse(line, f"{path}, line {count}")
                    if expected is None:
                        expected = n, before if n else _START
                    if (n, before) != expected:
                        raise StorageError(
                            f"{path}, line {count}: does not match the hash of the entry before it: entries "
                            "were changed or removed",
                            code="storage.broken_log",
                        )
                    yield entry
                    expected = n + 1, _digest(line)

    def _continue_chain(self) -> tuple[int, str]:
        """Return the number and hash of the next entry, after repairing the end of the log."""
        files = self._files()
        cut = self._cut_torn_line() if files and files[-1] == self._path else 0
        lines = next((lines for path in reversed(files) if (lines := path.read_bytes().splitlines(True))), [])
        follows = 0, _START
        damaged = 0
        if lines:
            n, damaged = self._number_of(lines)
            follows = n + 1, _digest(lines[-1])
        self._next = follows
        if cut:
            self._write("removed a line that a power cut had truncated", {"bytes": cut})
        if damaged:
            # A damaged log must not prevent a rollback.
            self._write("continued after damaged lines", {"lines": damaged})
        return self._next

    def _number_of(self, lines: list[bytes]) -> tuple[int, int]:
        """Return the number of the last line, and how many damaged lines (which count) are at the end."""
        for damaged, line in enumerate(reversed(lines)):
            with suppress(StorageError):
                return _parse(line, str(self._path))[0] + damaged, damaged
        return len(lines) - 1, len(lines)

    def _cut_torn_line(self) -> int:
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self._path.open("r+b") as file:
                file.truncate(whole)
                os.fsync(file.fileno())
        return len(content) - whole

    def _write(self, event: str, facts: dict[str, Any]) -> None:
        assert self._next is not None
        n, before = self._next
        # If the write fails, the file has to be read again.
        self._next = None
        at = self._now().isoformat(timespec="milliseconds")
        fields = {"n": n, "at": at, "before": before, "event": event, "facts": facts}
        # A name that is not valid UTF-8 must not prevent a rollback.
        line = json.dumps(fields, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"
        is_new = not self._path.exists()
        with self._path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            atomic_files.sync_folder(self._path.parent)
        self._next = n + 1, _digest(line)

    def _rotate(self) -> None:
        if not self._path.exists() or self._path.stat().st_size < self._max_bytes:
            return
        old = self._files()[:-1]
        latest = _number(old[-1]) if old else 0
        atomic_files.move(self._path, self._path.with_name(f"{self._path.name}.{latest + 1}"))
        for path in old[: max(0, len(old) + 1 - self._max_old_files)]:
            path.unlink()

    def _files(self) -> list[Path]:
        name = re.compile(rf"{re.escape(self._path.name)}\.[1-9][0-9]*")
        old = [path for path in self._path.parent.iterdir() if name.fullmatch(path.name)]
        return sorted(old, key=_number) + ([self._path] if self._path.exists() else [])


def _number(path: Path) -> int:
    return int(path.suffix[1:])


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _parse(line: bytes, where: str) -> tuple[int, str, Entry]:
    try:
        fields = parse_json(line, where)
        entry = Entry(int(fields["n"]), str(fields["at"]), str(fields["event"]), dict(fields["facts"]))
        return entry.n, str(fields["before"]), entry
    except (StrictJsonError, KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{where}: not a valid log entry ({error}): it was changed or damaged", code="storage.broken_log"
        ) from error
