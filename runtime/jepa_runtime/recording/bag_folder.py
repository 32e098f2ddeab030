"""A folder of recordings with a size limit, in which new recordings replace the oldest."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from jepa_runtime.errors import RecordingError
from jepa_runtime.recording.mcap_writer import (
    McapRecorder,
    RecordingExistsError,
    recording_errors,
    remove_stale_partial,
)

# 20260131T101500.250Z_surprise.mcap; other files in the folder are never touched.
_PATTERN = "[0-9]*T[0-9]*.[0-9]*Z_*.mcap"


def check_folder(path: Path) -> None:
    """Create a folder and check that files can be written there.

    Raises:
        RecordingError: The folder is not writable.
    """
    probe = path / ".writable"
    with recording_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)


class BagFolder:
    """Bags in one folder, named by time. The oldest are deleted to make room; other files are left alone.

    Several processes may share a folder.

    Args:
        path: The folder; created when needed.
        max_bytes: Limit of the total size. A single bag should take at most half of it.
        max_bags: Limit of the number of bags.

    Raises:
        ValueError: A limit is out of range.
    """

    def __init__(self, path: Path, *, max_bytes: int, max_bags: int) -> None:
        if max_bytes < 1 or max_bags < 1:
            raise ValueError(f"max_bytes and max_bags must be at least 1, got {max_bytes} and {max_bags}")
        self.path = path
        self.max_bytes = max_bytes
        self._max_bags = max_bags

    def check(self) -> None:
        """Create the folder, check that it is writable, and remove partial files left by a power cut.

        Raises:
            RecordingError: The folder is not writable.
        """
        check_folder(self.path)
        with recording_errors(self.path):
            for partial in self.path.glob(f"{_PATTERN}.partial"):
                remove_stale_partial(partial)

    def begin(self, stamp_ns: int, kind: str) -> McapRecorder:
        """Make room and return a new recording.

        Args:
            stamp_ns: The time of the event. If a recording of that time exists, because the clock was set
                back or another process records, the name gets a number.
            kind: The kind of event, part of the name.

        Raises:
            RecordingError: The file cannot be written.
        """
        self._make_room(self.max_bytes // 2)
        time_utc = datetime.fromtimestamp(stamp_ns / 1e9, timezone.utc)
        name = f"{time_utc:%Y%m%dT%H%M%S}.{time_utc.microsecond // 1000:03d}Z_{kind}"
        path, number = self.path / f"{name}.mcap", 1
        while True:
            try:
                return McapRecorder(path)
            except RecordingExistsError:
                number += 1
                path = self.path / f"{name}_{number}.mcap"

    def complete(self, recorder: McapRecorder) -> None:
        """Close ``recorder`` and flush its file to disk. After an error, the file is removed.

        Raises:
            RecordingError: The file could not be completed.
        """
        try:
            recorder.close()
            self._sync()
        except RecordingError:
            with suppress(OSError):
                recorder.path.with_name(recorder.path.name + ".partial").unlink()
            raise
        self._make_room(0, new=recorder.path)

    def _make_room(self, more_bytes: int, *, new: Path | None = None) -> None:
        """Delete the oldest bags to make room for one of ``more_bytes``, or for ``new``, which exists."""
        bags = []
        total = more_bytes
        now_ns = time.time_ns()
        with recording_errors(self.path, "old recordings cannot be deleted"):
            for path in self.path.glob(_PATTERN):
                with suppress(FileNotFoundError):
                    found = path.stat()
                    total += found.st_size
                    if path != new:
                        # Bags from the future are older: they were written before the clock was set back.
                        is_past = found.st_mtime_ns <= now_ns
                        bags.append((is_past, found.st_mtime_ns, found.st_size, path))
            bags.sort()
            while bags and (total > self.max_bytes or len(bags) >= self._max_bags):
                *_, size, oldest = bags.pop(0)
                oldest.unlink(missing_ok=True)
                total -= size

    def _sync(self) -> None:
        with recording_errors(self.path):
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
