"""A disk cache of decoded frames at the size of the model; any thread can read any clip with a few reads.

A recording is stored in a folder named after a hash of its content and the size; the folder appears
atomically. Frames are resized as in the robot's runtime
(:func:`jepa_runtime.imaging.conversion.resize_into`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from jepa_export.data.recording import Origin
from jepa_export.errors import JepaExportError
from jepa_runtime.imaging import Image, resize_into
from jepa_runtime.sources import Commands, Floats, Frame, Stamps
from jepa_runtime.util import sync_file, sync_folder

_FORMAT = 2
_FRAMES, _INDEX = "frames.rgb", "index.npy"


class StoreError(JepaExportError):
    """The frame store cannot be written or read, regardless of the recording."""

    code = "data.store_unavailable"


class FrameStore:
    """A folder of decoded recordings; several processes may share it.

    Args:
        folder: Created if it does not exist; may be deleted whenever no training runs.
        height: Height of the frames in pixels; a frame takes height x width x 3 bytes.
        width: Width of the frames in pixels.

    Raises:
        JepaExportError: The folder cannot be created, or the size is not positive.
    """

    def __init__(self, folder: Path, *, height: int, width: int) -> None:
        if height < 1 or width < 1:
            raise JepaExportError(
                f"frame size: must be positive, got {height} x {width}", code="data.frame_size"
            )
        self.folder, self.height, self.width = folder, height, width
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JepaExportError(
                f"{folder}: cannot be created: {error.strerror}; choose another --cache",
                code="data.store_unavailable",
            ) from error

    def prepare(
        self,
        origin: Origin,
        cancelled: Callable[[], bool] = lambda: False,
        reading: Callable[[int], None] = lambda _count: None,
    ) -> StoredRecording:
        """Return a recording, decoding it first unless it is already stored.

        Args:
            origin: The recording.
            cancelled: Called at each frame; decoding is aborted once it returns True.
            reading: Called at each frame with the number of frames before it.

        Raises:
            StoreError: The disk is full or damaged.
            JepaExportError: The recording is damaged, its frames change size or go back in time, its commands
                are of another time, or decoding was cancelled.
            JepaRuntimeError: The recording cannot be read.
        """
        # The last entry of the format: frames are stored at the rate of the recording.
        settings = [_FORMAT, origin.frames_key(), self.height, self.width, None]
        stored = self.folder / hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        # Before the frames, so that a mistake in the options is reported at once.
        commands = origin.commands()
        with self._locked(stored):
            index = self._index(stored)
            if index is None:
                self._write(origin, stored, cancelled, reading)
                index = self._index(stored)
        if index is None:
            raise StoreError(
                f"{stored}: cannot be read back after writing; check the disk", code="data.store_damaged"
            )
        stamps, episodes = index
        if commands is not None and not commands.known(stamps).any():
            raise JepaExportError(
                f"{origin.name}: no action is known at any frame: frames from {_span(stamps)}, commands from "
                f"{_span(commands.stamps_ns)}; check whether both were stamped by the same clock",
                code="data.no_actions",
            )
        size = self.height, self.width
        return StoredRecording(origin, stored / _FRAMES, stamps, episodes.astype(np.int32), size, commands)

    @contextmanager
    def _locked(self, stored: Path) -> Iterator[None]:
        """Lock ``stored``, waiting for another process that decodes the same recording."""
        with _convert_errors(self.folder), stored.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _index(self, stored: Path) -> NDArray[np.int64] | None:
        """Return the stamps and episode numbers [2, N] of a stored recording, or None if it is incomplete."""
        try:
            index: NDArray[np.int64] = np.load(stored / _INDEX, allow_pickle=False)
            size = (stored / _FRAMES).stat().st_size
        except (OSError, ValueError):
            return None
        count, rest = divmod(size, self.height * self.width * 3)
        return index if index.dtype == np.int64 and index.shape == (2, count) and not rest else None

    def _write(
        self, origin: Origin, stored: Path, cancelled: Callable[[], bool], reading: Callable[[int], None]
    ) -> None:
        partial = stored.with_suffix(".partial")
        for old in (stored, partial):
            shutil.rmtree(old, ignore_errors=True)
        try:
            partial.mkdir()
            with (partial / _FRAMES).open("wb") as file:
                index = list(self._write_frames(origin, file, cancelled, reading))
            np.save(partial / _INDEX, np.array(index, np.int64).T)
            for name in (_FRAMES, _INDEX):
                sync_file(partial / name)
            partial.rename(stored)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        sync_folder(self.folder)

    def _write_frames(
        self,
        origin: Origin,
        file: BinaryIO,
        cancelled: Callable[[], bool],
        reading: Callable[[int], None],
    ) -> Iterator[tuple[int, int]]:
        """Write the frames, yielding the stamp and the episode number of each."""
        last: Frame | None = None
        count = episode = 0
        scaled = np.empty((self.height, self.width, 3), np.uint8)
        for frame in origin.frames():
            if cancelled():
                raise JepaExportError(f"{origin.name}: decoding was cancelled", code="data.cancelled")
            reading(count)
            if last is not None and frame.image.shape != last.image.shape:
                raise JepaExportError(
                    f"{origin.name}: frame {count} is {_size(frame.image.shape)}, the previous ones are "
                    f"{_size(last.image.shape)}; split the recording there",
                    code="data.size_mismatch",
                )
            if last is not None and frame.stamp_ns <= last.stamp_ns:
                raise JepaExportError(
                    f"{origin.name}: stamps do not increase: frame {count} is at {frame.stamp_ns} ns, the "
                    "previous "
                    f"one at {last.stamp_ns} ns; split the recording where the clock was set",
                    code="data.stamps",
                )
            episode += last is not None and frame.frame_id != last.frame_id
            last, count = frame, count + 1
            resize_into(frame.image, scaled)
            file.write(scaled.data)
            yield frame.stamp_ns, episode
        if count == 0:
            raise JepaExportError(f"{origin.name}: contains no frame; leave it out", code="data.no_frames")


class StoredRecording:
    """A :class:`~jepa_export.data.recording.Recording` in a :class:`FrameStore`."""

    def __init__(
        self,
        origin: Origin,
        file: Path,
        stamps_ns: Stamps,
        episodes: NDArray[np.int32],
        size: tuple[int, int],
        commands: Commands | None,
    ) -> None:
        self.name, self.identity, self.key = origin.name, origin.identity(), file.parent.name
        self.stamps_ns, self.episodes, (self.height, self.width) = stamps_ns, episodes, size
        self.rate_hz = 1e9 / float(np.median(np.diff(stamps_ns))) if len(stamps_ns) > 1 else 0.0
        self.action_names = None if commands is None else commands.names
        self.action_units = None if commands is None else commands.units
        self.known = np.zeros(len(stamps_ns), bool) if commands is None else commands.known(stamps_ns)
        self._file, self._commands = file, commands

    def frames(self, rows: NDArray[np.integer]) -> Image:
        frames = np.empty((len(rows), self.height, self.width, 3), np.uint8)
        with _convert_errors(self._file), self._file.open("rb", buffering=0) as file:
            for frame, row in zip(frames, rows, strict=True):
                # A read releases the lock of the interpreter; waiting for the disk in a memory map would not.
                if os.preadv(file.fileno(), [frame.data], int(row) * frame.nbytes) != frame.nbytes:
                    raise JepaExportError(
                        f"{self._file}: truncated; remove {self._file.parent}", code="data.store_damaged"
                    )
        return frames

    def actions(self, starts_ns: Stamps, ends_ns: Stamps) -> Floats:
        assert self._commands is not None
        return self._commands.mean(starts_ns, ends_ns)


@contextmanager
def _convert_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror}; free disk space, or choose another --cache or --output"
        ) from error


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _span(stamps: Stamps) -> str:
    return f"{stamps[0] / 1e9:.3f} s to {stamps[-1] / 1e9:.3f} s"
