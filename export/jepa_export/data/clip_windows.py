"""Clips from recordings: frames one step apart, and the actions executed between them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from jepa_export.data.recording import Recording
from jepa_export.errors import JepaExportError
from jepa_runtime.imaging import Image
from jepa_runtime.sources import Floats, Stamps

# Camera clocks drift: a recording that is slower than the clips by this factor is still accepted.
_RATE_SLACK = 1.05


@dataclass(frozen=True)
class Clip:
    """T frames of one recording, and the actions from each to the next.

    Attributes:
        frames: uint8 [T, h, w, 3], RGB.
        stamps_ns: int64 [T].
        actions: float32 [T, A] in the units of the recording: the mean of what was executed from each frame
            until the next, for the last frame over one step; None if the recordings have no actions.
    """

    frames: Image
    stamps_ns: Stamps
    actions: Floats | None


class Windows:
    """All clips of some recordings by index: ``windows[i]`` is a :class:`Clip`, always the same.

    A frame of a clip is the one nearest to its time, as in the runtime's history. There is no clip where a
    frame is missing or belongs to another episode, or where an action is unknown.

    Args:
        recordings: At least one, all of one frame size and with the same actions.
        frames: Length T of a clip.
        rate_hz: Frame rate of a clip.
        stride: Distance between the starts of two clips, in frames of the recording.
        max_offset: Largest distance of a frame from its time, in periods of the camera.
        actions: Clips have the actions of the recordings; otherwise actions may be unknown.

    Attributes:
        used: Recordings with clips.
        unused: Recordings that are too short for a clip, or whose actions are not known for that long.
        camera_hz: Frame rate of the used recordings (median).
        digest: Hash of the recordings, their actions and the arguments. A training run that resumes from a
            checkpoint must have the same.

    Raises:
        JepaExportError: The recordings are incompatible, slower than the clips, or contain no clip.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        *,
        frames: int,
        rate_hz: float,
        stride: int = 1,
        max_offset: float = 1.0,
        actions: bool = True,
    ) -> None:
        if frames < 1 or stride < 1 or not rate_hz > 0:
            raise JepaExportError(
                f"clips: need at least one frame, a stride of at least 1 and a positive rate, got {frames}, "
                f"{stride} and {rate_hz:g} Hz",
                code="data.clip_shape",
            )
        check_compatible(recordings)
        self.recordings = tuple(recordings)
        names, units = recordings[0].action_names, recordings[0].action_units
        self.action_names, self.action_units = (names, units) if actions else (None, None)
        self._offsets_ns = np.round(np.arange(frames) * (1e9 / rate_hz)).astype(np.int64)
        self._step_ns, self._rate_hz = round(1e9 / rate_hz), rate_hz
        self._starts = [
            self._find_starts(recording, rate_hz, stride, max_offset) for recording in self.recordings
        ]
        self._ends = np.cumsum([len(starts) for starts in self._starts])
        if len(self) == 0:
            longest = max(self.recordings, key=lambda recording: len(recording.stamps_ns))
            raise JepaExportError(
                f"no clip of {frames} frames at {rate_hz:g} Hz in {len(recordings)} recordings (the longest, "
                f"{longest.name}, has {len(longest.stamps_ns)} frames, with known actions at "
                f"{int(longest.known.sum())} of them); use shorter clips, or, for a bag, state how long a "
                "command is valid (?max_age_s=)",
                code="data.no_clip",
            )
        pairs = list(zip(self.recordings, self._starts, strict=True))
        self.used = tuple(recording for recording, starts in pairs if len(starts))
        self.unused = tuple(recording for recording, starts in pairs if not len(starts))
        self.camera_hz = float(np.median([recording.rate_hz for recording in self.used]))
        described = [(recording.key, self._hash(recording, starts)) for recording, starts in pairs]
        arguments = (frames, rate_hz, stride, self.action_names)
        self.digest = hashlib.sha256(repr((arguments, described)).encode()).hexdigest()

    def _hash(self, recording: Recording, starts: NDArray[np.int32]) -> str:
        """Return a hash of the clip starts and of the actions there, whichever topics they come from."""
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
        """Return the clip at ``index``.

        Raises:
            IndexError: There is none.
            JepaExportError: Its frames cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index}: there are {len(self)} clips")
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
        """Yield the actions [n, A] of all clips, one recording and one position in the clip at a time.

        Only for recordings with actions. No frame is read.
        """
        for recording, starts in zip(self.recordings, self._starts, strict=True):
            if len(starts) == 0:
                continue
            stamps = recording.stamps_ns
            moments = [stamps[_nearest(stamps, stamps[starts] + offset)] for offset in self._offsets_ns]
            for begun, ended in pairwise([*moments, moments[-1] + self._step_ns]):
                yield recording.actions(begun, ended)

    def _find_starts(
        self, recording: Recording, rate_hz: float, stride: int, max_offset: float
    ) -> NDArray[np.int32]:
        stamps = recording.stamps_ns
        if len(stamps) > 1 and len(self._offsets_ns) > 1 and rate_hz > recording.rate_hz * _RATE_SLACK:
            raise JepaExportError(
                f"{recording.name}: has {recording.rate_hz:.3g} frames per second, too few for clips of "
                f"{rate_hz:g} Hz; use a lower --rate, or leave it out",
                code="data.rate_too_high",
            )
        # Small enough that two times never share a frame.
        tolerance_ns = min(
            (self._step_ns - 1) // 2,
            round(max_offset * 1e9 / recording.rate_hz) if recording.rate_hz else 0,
        )
        whole = np.ones(len(stamps), bool)
        for offset_ns in self._offsets_ns:
            rows = _nearest(stamps, stamps + offset_ns)
            whole &= np.abs(stamps[rows] - stamps - offset_ns) <= tolerance_ns
            whole &= recording.episodes[rows] == recording.episodes
            if self.action_names is not None:
                whole &= recording.known[rows]
        starts = np.flatnonzero(whole).astype(np.int32)
        chosen: NDArray[np.int32] = starts[starts % stride == 0]
        return chosen


def _nearest(stamps: Stamps, targets: Stamps) -> NDArray[np.intp]:
    """Return the index into ``stamps`` (ascending) of the nearest to each target; on ties, the earlier."""
    after = np.clip(np.searchsorted(stamps, targets), 1, max(1, len(stamps) - 1))
    if len(stamps) == 1:
        return np.zeros(len(targets), np.intp)
    nearer = targets - stamps[after - 1] <= stamps[after] - targets
    rows: NDArray[np.intp] = after - nearer
    return rows


def check_compatible(recordings: Sequence[Recording]) -> None:
    """Check that all recordings have one frame size and the same actions.

    Raises:
        JepaExportError: Two of them differ.
    """
    first = recordings[0]
    for other in recordings[1:]:
        if (other.height, other.width) != (first.height, first.width):
            raise JepaExportError(
                f"{other.name}: frames are {other.width} x {other.height}, those of {first.name} "
                f"{first.width} x {first.height}; prepare all in one size",
                code="data.size_mismatch",
            )
        if (found := _actions(other)) != (expected := _actions(first)):
            raise JepaExportError(
                f"{other.name}: actions are {found}, those of {first.name} {expected}; select the same for "
                "all "
                "(?action=TOPIC:FIELD,FIELD), or train on one of them at a time",
                code="data.action_mismatch",
            )


def _actions(recording: Recording) -> str:
    """Return the names and units of the actions as text."""
    names, units = recording.action_names, recording.action_units
    if names is None or units is None:
        return "none"
    return ", ".join(f"{name} [{unit}]" for name, unit in zip(names, units, strict=True))
