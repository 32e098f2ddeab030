"""Frames decoded once, scaled to what the model takes, and kept on disk: from then on a clip is a few reads
at known places, from any thread, in any order.

A recording is kept in a folder named after a hash of its content and of the size, which appears whole or not
at all. Frames are scaled as on the robot (:func:`jepa_runtime.imaging.conversion.resize_into`).
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
from jepa_runtime.imaging.conversion import Image, resize_into
from jepa_runtime.sources.base import Frame
from jepa_runtime.sources.commands import Commands, Floats, Stamps
from jepa_runtime.util.atomic_files import sync_file, sync_folder

_FORMAT = 2
_FRAMES, _INDEX = "frames.rgb", "index.npy"


class StoreError(JepaExportError):
    """The store cannot be written or read, whatever the recording is like."""


class Store:
    """A folder of prepared recordings; several processes may share it.

    Args:
        folder: made if it is not there; may be removed at any time when nobody trains.
        height, width: of the frames [pixels], which take height x width x 3 bytes each.

    Raises:
        JepaExportError: the folder cannot be made, or frames of no size were asked for.
    """

    def __init__(self, folder: Path, *, height: int, width: int) -> None:
        if height < 1 or width < 1:
            raise JepaExportError(f"frames need a height and a width above 0, got {height} and {width}")
        self.folder, self.height, self.width = folder, height, width
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JepaExportError(
                f"{folder}: cannot be made: {error.strerror}; choose another --cache"
            ) from error

    def prepare(self, origin: Origin, stopped: Callable[[], bool] = lambda: False) -> StoredRecording:
        """A recording, decoded now unless it already was.

        Args:
            stopped: asked at every frame; once it says so, the recording is given up.

        Raises:
            StoreError: the disk is full or damaged.
            JepaExportError, JepaRuntimeError: it is damaged, its frames change their size or go back in time,
                its commands are of another time, or it was given up.
        """
        # The last part of the name: frames are kept at the rate at which they come.
        settings = [_FORMAT, origin.frames_key(), self.height, self.width, None]
        kept = self.folder / hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        # Before the frames: a mistake in what was asked for is told at once.
        commands = origin.commands()
        with self._locked(kept):
            index = self._index(kept)
            if index is None:
                self._write(origin, kept, stopped)
                index = self._index(kept)
        if index is None:
            raise StoreError(f"{kept}: what was just written cannot be read: check the disk")
        stamps, episodes = index
        if commands is not None and not commands.known(stamps).any():
            raise JepaExportError(
                f"{origin.name}: at no frame is it known what was executed: frames from {_span(stamps)}, "
                f"commands from {_span(commands.stamps_ns)}; were they stamped by different clocks?"
            )
        size = self.height, self.width
        return StoredRecording(origin, kept / _FRAMES, stamps, episodes.astype(np.int32), size, commands)

    @contextmanager
    def _locked(self, kept: Path) -> Iterator[None]:
        """Alone with ``kept``: another process that prepares the same is waited for."""
        with _told(self.folder), kept.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _index(self, kept: Path) -> NDArray[np.int64] | None:
        """The stamps and the numbers of the episodes [2, N] of a recording; None where it is not whole."""
        try:
            index: NDArray[np.int64] = np.load(kept / _INDEX, allow_pickle=False)
            size = (kept / _FRAMES).stat().st_size
        except (OSError, ValueError):
            return None
        count, rest = divmod(size, self.height * self.width * 3)
        return index if index.dtype == np.int64 and index.shape == (2, count) and not rest else None

    def _write(self, origin: Origin, kept: Path, stopped: Callable[[], bool]) -> None:
        partial = kept.with_suffix(".partial")
        for old in (kept, partial):
            shutil.rmtree(old, ignore_errors=True)
        try:
            partial.mkdir()
            with (partial / _FRAMES).open("wb") as file:
                index = list(self._write_frames(origin, file, stopped))
            np.save(partial / _INDEX, np.array(index, np.int64).T)
            for name in (_FRAMES, _INDEX):
                sync_file(partial / name)
            partial.rename(kept)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        sync_folder(self.folder)

    def _write_frames(
        self, origin: Origin, file: BinaryIO, stopped: Callable[[], bool]
    ) -> Iterator[tuple[int, int]]:
        """Write the frames; yields the stamp and the number of the episode of each."""
        last: Frame | None = None
        count = episode = 0
        scaled = np.empty((self.height, self.width, 3), np.uint8)
        for frame in origin.frames():
            if stopped():
                raise JepaExportError(f"{origin.name}: given up while it was decoded")
            if last is not None and frame.image.shape != last.image.shape:
                raise JepaExportError(
                    f"{origin.name}: frame {count} is {_size(frame.image.shape)}, those before are "
                    f"{_size(last.image.shape)}; split the recording there"
                )
            if last is not None and frame.stamp_ns <= last.stamp_ns:
                raise JepaExportError(
                    f"{origin.name}: the stamps go back or stand still: frame {count} is at "
                    f"{frame.stamp_ns} ns, the one before at {last.stamp_ns} ns; split the recording where "
                    "the clock was set"
                )
            episode += last is not None and frame.frame_id != last.frame_id
            last, count = frame, count + 1
            resize_into(frame.image, scaled)
            file.write(scaled.data)
            yield frame.stamp_ns, episode
        if count == 0:
            raise JepaExportError(f"{origin.name}: there is no frame in it; leave it out")


class StoredRecording:
    """A :class:`~jepa_export.data.recording.Recording` in a :class:`Store`."""

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
        with _told(self._file), self._file.open("rb", buffering=0) as file:
            for frame, row in zip(frames, rows, strict=True):
                # A read lets other threads run, which a memory map does not while it waits for the disk.
                if os.preadv(file.fileno(), [frame.data], int(row) * frame.nbytes) != frame.nbytes:
                    raise JepaExportError(f"{self._file}: shorter than it was; remove {self._file.parent}")
        return frames

    def actions(self, starts_ns: Stamps, ends_ns: Stamps) -> Floats:
        assert self._commands is not None
        return self._commands.mean(starts_ns, ends_ns)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror}; make room, or choose another --cache or --out"
        ) from error


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _span(stamps: Stamps) -> str:
    return f"{stamps[0] / 1e9:.3f} s to {stamps[-1] / 1e9:.3f} s"
