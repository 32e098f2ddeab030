"""Clips out of recordings: frames one step apart, and what was executed between them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from jepa_export.data.recording import Recording
from jepa_export.errors import JepaExportError
from jepa_runtime.imaging.conversion import Image
from jepa_runtime.sources.commands import Floats, Stamps

# Clocks of cameras drift: a recording this much slower than the clips is still taken for as fast.
_RATE_SLACK = 1.05


@dataclass(frozen=True)
class Clip:
    """T frames of one recording: frames uint8 [T, h, w, 3] RGB, stamps_ns int64 [T], and actions float32
    [T, A] (in the units of the recording): the mean of what was executed from each frame until the next one,
    after the last for one step; None where the recordings have no actions.
    """

    frames: Image
    stamps_ns: Stamps
    actions: Floats | None


class Windows:
    """All clips of some recordings, by number: ``windows[i]`` is a :class:`Clip`, the same each time.

    A frame of a clip is the one nearest to its moment, and as in the runtime's history found by time: where
    one is missing or of another episode, or an action is not known, there is no clip.

    Args:
        recordings: one at least, all of one size and with the same actions.
        frames: T, of a clip.
        rate_hz: of a clip: its frames are 1 / ``rate_hz`` apart.
        stride: from the start of a clip to the next, in frames of the recording.
        off: how far from its moment a frame may be, in periods of the camera.
        actions: clips have those of the recordings; else they need not be known.

    Attributes:
        used, unused: the recordings that have clips, and those that are too short for one, or of which it is
            not known long enough what was executed.
        camera_hz: of the frames of those that have clips (the median).
        digest: changes with the recordings, their actions and the arguments: a training that goes on from a
            checkpoint must find the one it began with.

    Raises:
        JepaExportError: the recordings do not fit together, are slower than the clips, or hold no clip.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        *,
        frames: int,
        rate_hz: float,
        stride: int = 1,
        off: float = 1.0,
        actions: bool = True,
    ) -> None:
        if frames < 1 or stride < 1 or not rate_hz > 0:
            raise JepaExportError(
                "clips need at least one frame, a stride of at least 1 and a positive rate, got "
                f"{frames}, {stride} and {rate_hz:g} Hz"
            )
        check_alike(recordings)
        self.recordings = tuple(recordings)
        names, units = recordings[0].action_names, recordings[0].action_units
        self.action_names, self.action_units = (names, units) if actions else (None, None)
        self._offsets_ns = np.round(np.arange(frames) * (1e9 / rate_hz)).astype(np.int64)
        self._step_ns, self._rate_hz = round(1e9 / rate_hz), rate_hz
        self._starts = [self._find_starts(recording, rate_hz, stride, off) for recording in self.recordings]
        self._ends = np.cumsum([len(starts) for starts in self._starts])
        if len(self) == 0:
            longest = max(self.recordings, key=lambda recording: len(recording.stamps_ns))
            raise JepaExportError(
                f"not one clip of {frames} frames at {rate_hz:g} Hz in {len(recordings)} recordings (the "
                f"longest, {longest.name}, has {len(longest.stamps_ns)} frames, with known actions at "
                f"{int(longest.known.sum())} of them); ask for shorter clips, or say of a bag how long a "
                "command holds (?max_age_s=)"
            )
        pairs = list(zip(self.recordings, self._starts, strict=True))
        self.used = tuple(recording for recording, starts in pairs if len(starts))
        self.unused = tuple(recording for recording, starts in pairs if not len(starts))
        self.camera_hz = float(np.median([recording.rate_hz for recording in self.used]))
        described = [(recording.key, self._told(recording, starts)) for recording, starts in pairs]
        arguments = (frames, rate_hz, stride, self.action_names)
        self.digest = hashlib.sha256(repr((arguments, described)).encode()).hexdigest()

    def _told(self, recording: Recording, starts: NDArray[np.int32]) -> str:
        """A hash of where clips start, and of what was executed there: it may be said in several topics."""
        found = hashlib.sha256(starts.tobytes())
        if self.action_names is not None and len(starts):
            stamps = recording.stamps_ns[starts]
            found.update(recording.actions(stamps, stamps + self._step_ns).tobytes())
        return found.hexdigest()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __str__(self) -> str:
        clips = f"{len(self)} clips of {len(self._offsets_ns)} frames at {self._rate_hz:g} Hz"
        return f"{clips} in {len(self.used)} of {len(self.recordings)} recordings"

    def __getitem__(self, index: int) -> Clip:
        """The clip of this number.

        Raises:
            IndexError: there is none.
            JepaExportError: its frames cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} clips, there is no clip {index}")
        which = int(np.searchsorted(self._ends, index, side="right"))
        recording, starts = self.recordings[which], self._starts[which]
        start = starts[index - (self._ends[which] - len(starts))]
        targets = recording.stamps_ns[start] + self._offsets_ns
        rows = _nearest(recording.stamps_ns, targets)
        stamps = recording.stamps_ns[rows]
        actions = None
        if self.action_names is not None:
            actions = recording.actions(stamps, np.append(stamps[1:], stamps[-1] + self._step_ns))
        return Clip(recording.frames(rows), stamps, actions)

    def actions(self) -> Iterator[Floats]:
        """The actions [n, A] of all clips, those of one recording and one place in the clip at a time; only
        where recordings have actions. No frame is read.
        """
        for recording, starts in zip(self.recordings, self._starts, strict=True):
            if len(starts) == 0:
                continue
            stamps = recording.stamps_ns
            moments = [stamps[_nearest(stamps, stamps[starts] + offset)] for offset in self._offsets_ns]
            for begun, ended in pairwise([*moments, moments[-1] + self._step_ns]):
                yield recording.actions(begun, ended)

    def _find_starts(
        self, recording: Recording, rate_hz: float, stride: int, off: float
    ) -> NDArray[np.int32]:
        stamps = recording.stamps_ns
        if len(stamps) > 1 and len(self._offsets_ns) > 1 and rate_hz > recording.rate_hz * _RATE_SLACK:
            raise JepaExportError(
                f"{recording.name}: has {recording.rate_hz:.3g} frames a second, clips of {rate_hz:g} Hz "
                "cannot be made of it: ask for a lower --rate, or leave it out"
            )
        # Never so far that two moments share a frame.
        tolerance_ns = min(
            (self._step_ns - 1) // 2, round(off * 1e9 / recording.rate_hz) if recording.rate_hz else 0
        )
        whole = np.ones(len(stamps), bool)
        for offset_ns in self._offsets_ns:
            rows = _nearest(stamps, stamps + offset_ns)
            whole &= np.abs(stamps[rows] - stamps - offset_ns) <= tolerance_ns
            whole &= recording.episodes[rows] == recording.episodes
            if self.action_names is not None:
                whole &= recording.known[rows]
        starts = np.flatnonzero(whole).astype(np.int32)
        return starts[starts % stride == 0]


def _nearest(stamps: Stamps, targets: Stamps) -> NDArray[np.intp]:
    """Where in ``stamps`` (ascending) the nearest to each target is; of two equally near, the earlier."""
    after = np.clip(np.searchsorted(stamps, targets), 1, max(1, len(stamps) - 1))
    if len(stamps) == 1:
        return np.zeros(len(targets), np.intp)
    nearer = targets - stamps[after - 1] <= stamps[after] - targets
    rows: NDArray[np.intp] = after - nearer
    return rows


def check_alike(recordings: Sequence[Recording]) -> None:
    """Refuse recordings that are not all of one size and with the same actions.

    Raises:
        JepaExportError: two of them differ.
    """
    first = recordings[0]
    for other in recordings[1:]:
        if (other.height, other.width) != (first.height, first.width):
            raise JepaExportError(
                f"{other.name}: frames of {other.width} x {other.height}, those of {first.name} are "
                f"{first.width} x {first.height}; prepare all in one size"
            )
        if (found := _actions(other)) != (wanted := _actions(first)):
            raise JepaExportError(
                f"{other.name}: its actions are {found}, those of {first.name} {wanted}; choose the same "
                "for all (?action=TOPIC:FIELD,FIELD), or train on one kind at a time"
            )


def _actions(recording: Recording) -> str:
    """Their names and units, in words."""
    names, units = recording.action_names, recording.action_units
    if names is None or units is None:
        return "none"
    return ", ".join(f"{name} [{unit}]" for name, unit in zip(names, units, strict=True))
