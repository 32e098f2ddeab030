"""Clips of what was recorded, to measure on: of all that distillation takes, of images and of cameras."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from jepa_export.data.clip_windows import Windows
from jepa_export.data.file_hash import file_hash
from jepa_export.data.frame_store import Store
from jepa_export.data.open_data import find, holds_recordings, prepare
from jepa_export.data.provenance_marks import mark
from jepa_export.data.recording import Origin, Recording
from jepa_export.errors import JepaExportError
from jepa_export.evaluation.clips import Clips, clips_of
from jepa_runtime.bundle import Manifest
from jepa_runtime.imaging.conversion import resize_into
from jepa_runtime.sources.base import Frame
from jepa_runtime.sources.command_fields import action_mismatch
from jepa_runtime.sources.commands import Commands
from jepa_runtime.sources.factory import is_camera, open_source, split_spec
from jepa_runtime.sources.image_folder import SUFFIXES

# In periods of the camera: a frame whose stamp jitters is less far off, the neighbour of a missing one more.
_OFF = 0.75


def recorded_clips(
    specs: Sequence[str],
    manifest: Manifest,
    *,
    count: int,
    seed: int,
    trained_on: frozenset[str] | None = None,
    cache: Path | None = None,
    skip_bad: bool = False,
    begin: Callable[[str, int], Callable[[], None]] = lambda _what, _total: lambda: None,
) -> Clips:
    """Clips of recordings, up to ``count`` of them, evenly spread over all recordings and all of their time.

    Args:
        specs: as of :func:`~jepa_export.data.open_data.open_data`, or a folder of images (taken as a step
            apart), or a camera.
        trained_on: marks of recordings that are left out unless all are among them; None: it is not known.
        cache: where decoded frames are kept (None: nowhere).
        skip_bad: leave recordings that cannot be used out, with a warning each, instead of failing.
        begin: told what begins and of how many parts; gives what is to be called after each.

    Raises:
        JepaExportError, JepaRuntimeError: there is no such thing, a recording cannot be used, together they
            hold no clip, or their actions are not those of the model.
    """
    size, step_s, frame = manifest.history_size, manifest.io.step_s, manifest.io.frame
    with ExitStack() as stack:
        folder = cache or Path(stack.enter_context(TemporaryDirectory(prefix="jepa-edge-")))
        store = Store(folder, height=frame.height, width=frame.width)
        found = [
            each for spec in specs for each in _found(spec, store, step_s, count * (size + manifest.horizon))
        ]
        kept, told = _not_learnt(found, trained_on)
        chosen = [kept[row] for row in _spread(len(kept), count)]
        tick = begin("recordings", len(chosen))
        recordings, _ = prepare(chosen, store, skip_bad=skip_bad, progress=lambda _: tick())
        for recording in recordings:
            _check_actions(recording, manifest)
        known = recordings[0].action_names is not None
        length = size + manifest.horizon if known else size
        _check_length(recordings, length, step_s)
        windows = Windows(recordings, frames=length, rate_hz=1 / step_s, off=_OFF)
        clips = [windows[row] for row in _spread(len(windows), count)]
    name = ", ".join(specs)
    if not all(isinstance(each, _Played) for each in found):
        name += f" ({len(windows.used)} of {len(found)} recordings; {told})"
    executed = [clip.actions for clip in clips if clip.actions is not None]
    return clips_of(
        name,
        np.stack([clip.frames for clip in clips]),
        np.stack(executed) if executed else None,
        manifest,
        seed,
    )


def _spread(length: int, count: int) -> list[int]:
    """Up to ``count`` of so many places, evenly spread."""
    return np.unique(np.linspace(0, length - 1, count).round().astype(int)).tolist()


def _found(spec: str, store: Store, step_s: float, steps: int) -> Sequence[Origin | Recording]:
    name, _ = split_spec(spec)
    if is_camera(name) or (_holds_images(Path(name)) and not holds_recordings(Path(name))):
        return [_Played(spec, store, step_s, steps)]
    return find(spec, store)


def _holds_images(path: Path) -> bool:
    return path.is_dir() and any(entry.suffix.lower() in SUFFIXES for entry in path.iterdir())


def _not_learnt(
    found: Sequence[Origin | Recording], trained_on: frozenset[str] | None
) -> tuple[Sequence[Origin | Recording], str]:
    """Those that the model was not trained on, or all where there are none, and which it is in words."""
    if trained_on is None:
        return found, "the model may have been trained on these"
    others = [each for each in found if mark(each) not in trained_on]
    if not others:
        return found, "the model was trained on these"
    return others, "the model was not trained on these"


class _Played:
    """A folder of images, or so many steps of a camera, as an :class:`~jepa_export.data.recording.Origin`."""

    def __init__(self, spec: str, store: Store, step_s: float, steps: int) -> None:
        self.name, self._step_s, self._limit_ns = spec, step_s, round(steps * step_s * 1e9)
        self._shape = store.height, store.width, 3

    def identity(self) -> str:
        return self.frames_key()

    def frames_key(self) -> str:
        path = Path(self.name)
        return f"{file_hash(path) if path.is_dir() else time.time_ns()} {self._step_s}"

    def commands(self) -> Commands | None:
        return None

    def frames(self) -> Iterator[Frame]:
        with closing(open_source(self.name, rate_hz=1 / self._step_s)) as source:
            end_ns = math.inf
            for frame in source.frames():
                if source.live:
                    end_ns = min(end_ns, frame.stamp_ns + self._limit_ns)
                if frame.stamp_ns >= end_ns:
                    return
                # Images need not be of one size.
                scaled = np.empty(self._shape, np.uint8)
                resize_into(frame.image, scaled)
                yield replace(frame, image=scaled)


def _check_length(recordings: Sequence[Recording], length: int, step_s: float) -> None:
    longest = max(recordings, key=lambda recording: np.ptp(recording.stamps_ns))
    steps = 1 + round(float(np.ptp(longest.stamps_ns)) / 1e9 / step_s)
    if steps < length:
        raise JepaExportError(
            f"{longest.name}: has {steps} frames {step_s:g} s apart, a clip takes {length}: choose a longer "
            "--data"
        )


def _check_actions(recording: Recording, manifest: Manifest) -> None:
    """Refuse commands whose numbers are not the model's, as far as their names and units tell."""
    names, units = recording.action_names, recording.action_units
    reason = None if names is None or units is None else action_mismatch(names, units, manifest.io.action)
    if reason is not None:
        raise JepaExportError(
            f"{recording.name}: {reason} (?action=TOPIC:FIELD,FIELD; of a LeRobot data set "
            "?action=FEATURE:NAME,NAME)"
        )
