"""Evaluation clips from recordings: all sources of distillation, folders of images, and cameras."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from jepa_export.bundling.task_progress import Begin, ignore_progress
from jepa_export.data.clip_windows import Windows
from jepa_export.data.drawn_rooms import SimulatedRecording
from jepa_export.data.file_hash import file_hash
from jepa_export.data.frame_store import FrameStore
from jepa_export.data.open_data import find_recordings, holds_recordings, prepare
from jepa_export.data.provenance_marks import mark
from jepa_export.data.recording import Origin, Recording
from jepa_export.errors import JepaExportError
from jepa_export.evaluation.clips import Clips, clips_of, frames_read, takes_actions
from jepa_runtime.bundle import Manifest
from jepa_runtime.imaging import resize_into
from jepa_runtime.sources import (
    IMAGE_SUFFIXES,
    Commands,
    Frame,
    action_mismatch,
    is_camera,
    open_source,
    split_spec,
)

# In periods of the camera: a jittering stamp is less far off, the neighbor of a missing frame more.
_MAX_OFFSET = 0.75


def recorded_clips(
    specs: Sequence[str],
    manifest: Manifest,
    *,
    count: int,
    seed: int,
    trained_on: frozenset[str] | None = None,
    cache: Path | None = None,
    skip_bad: bool = False,
    begin: Begin = ignore_progress,
    reading: Callable[[str], None] = lambda _text: None,
) -> Clips:
    """Return up to ``count`` clips, evenly distributed over all recordings and their duration.

    Args:
        specs: Sources for :func:`~jepa_export.data.open_data.open_data`, or a folder of images (assumed to be
            one step apart), or a camera.
        manifest: Manifest of the model.
        count: Number of clips.
        seed: Seed of the candidates.
        trained_on: Marks of recordings that are excluded unless all are among them; None: unknown.
        cache: Folder of decoded frames (None: temporary).
        skip_bad: Skip unusable recordings with a warning instead of failing.
        begin: See :data:`~jepa_export.bundling.task_progress.Begin`.
        reading: Called with a message every few seconds while a recording is decoded.

    Raises:
        JepaExportError: A source does not exist, a recording is not usable, together they contain no clip, or
            their actions are not those of the model.
        JepaRuntimeError: A recording cannot be read.
    """
    size, step_s, frame = manifest.history_size, manifest.io.frame_interval_s, manifest.io.frame
    with ExitStack() as stack:
        folder = cache or Path(stack.enter_context(TemporaryDirectory(prefix="jepa-edge-")))
        store = FrameStore(folder, height=frame.height, width=frame.width)
        found = [
            each
            for spec in specs
            for each in _find(spec, store, step_s, count * frames_read(manifest, size + manifest.horizon))
        ]
        candidates, training_note = _not_trained_on(found, trained_on)
        chosen = [candidates[row] for row in _spread(len(candidates), count)]
        tick = begin("recordings", len(chosen))
        recordings, _ = prepare(chosen, store, skip_bad=skip_bad, progress=lambda _: tick(), reading=reading)
        given = takes_actions(manifest)
        for recording in recordings if given else ():
            _check_actions(recording, manifest)
        known = not given or recordings[0].action_names is not None
        length = frames_read(manifest, size + manifest.horizon if known else size)
        _check_length(recordings, length, step_s)
        windows = Windows(
            recordings, frames=length, rate_hz=1 / step_s, max_offset=_MAX_OFFSET, actions=given
        )
        clips = [windows[row] for row in _spread(len(windows), count)]
    name = ", ".join(specs)
    if not all(isinstance(each, _PlayedSource) for each in found):
        name += f" ({len(windows.used)} of {len(found)} recordings; {training_note})"
    executed = [clip.actions for clip in clips if clip.actions is not None]
    return clips_of(
        name,
        np.stack([clip.frames for clip in clips]),
        np.stack(executed) if executed else None,
        manifest,
        seed,
    )


def _spread(length: int, count: int) -> list[int]:
    """Return up to ``count`` evenly distributed indices below ``length``."""
    return [int(index) for index in np.unique(np.linspace(0, length - 1, count).round())]


def _find(spec: str, store: FrameStore, step_s: float, steps: int) -> Sequence[Origin | SimulatedRecording]:
    name, _ = split_spec(spec)
    if is_camera(name) or (_holds_images(Path(name)) and not holds_recordings(Path(name))):
        return [_PlayedSource(spec, store, step_s, steps)]
    return find_recordings(spec, store)


def _holds_images(path: Path) -> bool:
    return path.is_dir() and any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in path.iterdir())


def _not_trained_on(
    found: Sequence[Origin | SimulatedRecording], trained_on: frozenset[str] | None
) -> tuple[Sequence[Origin | SimulatedRecording], str]:
    """Return the recordings that the model was not trained on, or all if there are none, and a note on it."""
    if trained_on is None:
        return found, "the model may have been trained on these"
    others = [each for each in found if mark(each) not in trained_on]
    if not others:
        return found, "the model was trained on these"
    return others, "the model was not trained on these"


class _PlayedSource:
    """A folder of images, or some steps of a camera, as an :class:`~jepa_export.data.recording.Origin`."""

    def __init__(self, spec: str, store: FrameStore, step_s: float, steps: int) -> None:
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
                # Images in a folder may have different sizes.
                scaled = np.empty(self._shape, np.uint8)
                resize_into(frame.image, scaled)
                yield replace(frame, image=scaled)


def _check_length(recordings: Sequence[Recording], length: int, step_s: float) -> None:
    longest = max(recordings, key=lambda recording: np.ptp(recording.stamps_ns))
    steps = 1 + round(float(np.ptp(longest.stamps_ns)) / 1e9 / step_s)
    if steps < length:
        raise JepaExportError(
            f"{longest.name}: has {steps} frames {step_s:g} s apart, fewer than the {length} of a clip; use "
            "longer "
            "recordings",
            code="data.no_clip",
        )


def _check_actions(recording: Recording, manifest: Manifest) -> None:
    """Check that names and units of the actions are those of the model, as far as they are known."""
    names, units = recording.action_names, recording.action_units
    reason = None if names is None or units is None else action_mismatch(names, units, manifest.io.action)
    if reason is not None:
        raise JepaExportError(
            f"{recording.name}: {reason}; select others with ?action=TOPIC:FIELD,FIELD (LeRobot data sets: "
            "?action=FEATURE:NAME,NAME)",
            code="data.action_mismatch",
        )
