"""A folder of recordings that never grows beyond what it may."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from jepa_runtime.errors import RecordingError
from jepa_runtime.recording.mcap_writer import McapRecorder, NameTakenError, explained, remove_left

# 20260131T101500.250Z_surprise.mcap: whatever else lies in the folder is somebody else's.
_OURS = "[0-9]*T[0-9]*.[0-9]*Z_*.mcap"


def check_folder(path: Path) -> None:
    """Make a folder and see that files can be written there.

    Raises:
        RecordingError: they cannot.
    """
    trial = path / ".writable"
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink(missing_ok=True)


class BagFolder:
    """Bags named by time in one folder, of one process or several; the oldest give way to new ones. Other
    files are left alone.

    Args:
        path: made when it is needed.
        max_bytes: of all files together; one file should take at most half of that.
        max_bags: how many there are at most.

    Raises:
        ValueError: a limit is out of range.
    """

    def __init__(self, path: Path, *, max_bytes: int, max_bags: int) -> None:
        if max_bytes < 1 or max_bags < 1:
            raise ValueError(f"max_bytes and max_bags must be at least 1, got {max_bytes} and {max_bags}")
        self.path = path
        self.max_bytes = max_bytes
        self._max_bags = max_bags

    def check(self) -> None:
        """Make the folder and see that files can be written there; what a power cut left half done goes.

        Raises:
            RecordingError: they cannot.
        """
        check_folder(self.path)
        with explained(self.path):
            for left in self.path.glob(f"{_OURS}.partial"):
                remove_left(left)

    def begin(self, stamp_ns: int, kind: str) -> McapRecorder:
        """A new recording of something of this ``kind`` that began then, with room made for it. Where that
        moment has one already, because the clock was set back or others record too, it is counted.

        Raises:
            RecordingError: it cannot be written.
        """
        self._make_room(self.max_bytes // 2)
        moment = datetime.fromtimestamp(stamp_ns / 1e9, timezone.utc)
        name = f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03d}Z_{kind}"
        path, number = self.path / f"{name}.mcap", 1
        while True:
            try:
                return McapRecorder(path)
            except NameTakenError:
                number += 1
                path = self.path / f"{name}_{number}.mcap"

    def complete(self, recorder: McapRecorder) -> None:
        """Close ``recorder``; its file is on the disk then, however large it became, or gone after an error.

        Raises:
            RecordingError: it could not be completed.
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
        """For one bag more: of ``more_bytes``, or ``new``, which is there already and stays."""
        bags = []
        total = more_bytes
        now_ns = time.time_ns()
        with explained(self.path, "no room can be made"):
            for path in self.path.glob(_OURS):
                with suppress(FileNotFoundError):
                    found = path.stat()
                    total += found.st_size
                    if path != new:
                        # Of times to come are those from before the clock was set back.
                        came = found.st_mtime_ns <= now_ns
                        bags.append((came, found.st_mtime_ns, found.st_size, path))
            bags.sort()
            while bags and (total > self.max_bytes or len(bags) >= self._max_bags):
                *_, size, oldest = bags.pop(0)
                oldest.unlink(missing_ok=True)
                total -= size

    def _sync(self) -> None:
        with explained(self.path):
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
