"""Clips to measure on: frames one step apart, and the action sequences that are followed from there."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_export.data.two_rooms import TwoRoomsCourse
from jepa_export.data.windows import Windows
from jepa_export.errors import JepaExportError
from jepa_runtime.bundle import Golden, Manifest
from jepa_runtime.imaging import Image, fit
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.limits import ActionLimits
from jepa_runtime.sources.bag import BagSource
from jepa_runtime.sources.base import Source
from jepa_runtime.sources.command_fields import UNKNOWN_UNIT
from jepa_runtime.sources.commands import Commands, Floats, Stamps
from jepa_runtime.sources.open import open_source

# Action sequences that are followed from each clip.
CANDIDATES = 4
# Units that say nothing of what is measured.
_UNTOLD = {UNKNOWN_UNIT, "1"}


@dataclass(frozen=True, kw_only=True)
class Clips:
    """n clips. W is the model's history, H its horizon, C the number of candidates.

    Attributes:
        name: for people: where they come from.
        frames: uint8 [n, L, h, w, 3], one step apart; the first W are the history.
        between: float32 [n, W-1, A], executed between these.
        actions: float32 [n, C, H, A], to follow from there.
        executed: whether ``actions[:, 0]`` were executed, and L = W + H: frame W + h (from 0) shows what step
            h led to.
    """

    name: str
    frames: Image
    between: Floats
    actions: Floats
    executed: bool

    def __len__(self) -> int:
        return len(self.frames)


def candidates(manifest: Manifest, count: int, seed: int) -> Floats:
    """Action sequences as a planner asks for them: float32 [count, H, A]; the first one stands still."""
    config = CEMConfig(num_samples=count, horizon=manifest.horizon, topk=1)
    return CEM(config, ActionLimits.of(manifest), seed=seed).ask()


def clips_of(name: str, frames: Image, executed: Floats | None, manifest: Manifest, seed: int) -> Clips:
    """Clips of frames [n, L, h, w, 3] and, where they are known, the actions [n, >= L-1, A] between them."""
    past, count = manifest.history_size - 1, len(frames)
    actions = np.stack([candidates(manifest, CANDIDATES, seed + index) for index in range(count)])
    between = np.zeros((count, past, manifest.action_size), np.float32)
    if executed is not None:
        between = executed[:, :past]
        actions[:, 0] = executed[:, past : past + manifest.horizon]
    return Clips(name=name, frames=frames, between=between, actions=actions, executed=executed is not None)


def golden_clips(golden: Golden, manifest: Manifest) -> Clips:
    """The bundle's golden inputs as clips."""
    count, size = len(golden.frames), manifest.history_size
    between = np.zeros((size - 1, manifest.action_size), np.float32)
    if golden.history_actions is not None:
        between = golden.history_actions
    return Clips(
        name=f"the bundle's {count} golden frames",
        frames=golden.frames[golden.histories(size)],
        between=np.broadcast_to(between, (count, *between.shape)),
        actions=np.broadcast_to(golden.actions, (count, *golden.actions.shape)),
        executed=False,
    )


def source_clips(spec: str, manifest: Manifest, *, count: int, seed: int) -> Clips:
    """Clips of a video, a folder of images (taken as a step apart), a bag or a camera; up to ``count`` of
    them, evenly spread over as many steps as they have, from its beginning.

    Raises:
        SourceError: there is no such source, or it cannot be read.
        JepaExportError: it holds no clip, or its actions are not those of the model.
    """
    size, step_s = manifest.history_size, manifest.io.step_s
    with closing(open_source(spec, rate_hz=1 / step_s)) as source:
        recording = _Thinned(source, manifest, limit=count * (size + manifest.horizon))
    known = recording.action_names is not None
    length = size + manifest.horizon if known else size
    if len(recording.stamps_ns) < length:
        raise JepaExportError(
            f"{recording.name}: has {len(recording.stamps_ns)} frames {step_s:g} s apart, a clip takes "
            f"{length}: choose a longer --data"
        )
    windows = Windows([recording], frames=length, rate_hz=1 / step_s)
    chosen = np.unique(np.linspace(0, len(windows) - 1, count).round().astype(int))
    found = [windows[int(index)] for index in chosen]
    executed = [clip.actions for clip in found if clip.actions is not None]
    return clips_of(
        recording.name,
        np.stack([clip.frames for clip in found]),
        np.stack(executed) if executed else None,
        manifest,
        seed,
    )


class _Thinned:
    """A source as a recording of at most ``limit`` frames a step apart, at the size of the model; its name
    says where that is not all."""

    action_names: tuple[str, ...] | None = None
    action_units: tuple[str, ...] | None = None

    def __init__(self, source: Source, manifest: Manifest, *, limit: int) -> None:
        frame_spec, step_ns = manifest.io.frame, round(manifest.io.step_s * 1e9)
        self.name = self.identity = self.key = source.name
        self.height, self.width, self.rate_hz = frame_spec.height, frame_spec.width, 1e9 / step_ns
        half_ns = round(0.5e9 / source.rate_hz) if source.rate_hz else 0
        stamps: list[int] = []
        commands: dict[int, Floats] = {}
        self._frames: list[Image] = []
        due_ns = -math.inf
        for frame in source.frames():
            if len(stamps) == limit:
                self.name = f"the first {(stamps[-1] - stamps[0]) / 1e9:.3g} s of {source.name}"
                break
            if source.command is not None:
                commands[frame.stamp_ns] = source.command
            if frame.stamp_ns < due_ns - half_ns:
                continue
            # After a gap the steps are counted anew.
            on_time = frame.stamp_ns <= due_ns + half_ns
            due_ns = (due_ns if on_time else frame.stamp_ns) + step_ns
            stamps.append(frame.stamp_ns)
            self._frames.append(np.empty((self.height, self.width, 3), np.uint8))
            fit(frame.image, self._frames[-1])
        self.stamps_ns: Stamps = np.array(stamps, np.int64)
        self.known = np.ones(len(stamps), bool)
        executed = source.commands if isinstance(source, BagSource) else _driven(commands)
        if executed is not None:
            self._commands = _checked(source.name, executed, manifest)
            self.action_names, self.action_units = self._commands.names, self._commands.units
            self.known = self._commands.known(self.stamps_ns)

    def frames(self, rows: NDArray[np.integer]) -> Image:
        return np.stack([self._frames[row] for row in rows])

    def actions(self, starts_ns: Stamps, ends_ns: Stamps) -> Floats:
        return self._commands.mean(starts_ns, ends_ns)


def _driven(found: dict[int, Floats]) -> Commands | None:
    """What a simulated robot obeyed, told at each frame."""
    if not found:
        return None
    stamps, values = np.array(sorted(found)), np.stack([found[each] for each in sorted(found)])
    return Commands(TwoRoomsCourse.action_names, TwoRoomsCourse.action_units, stamps, values)


def _checked(name: str, commands: Commands, manifest: Manifest) -> Commands:
    """Commands whose numbers are the model's, as far as their names and units tell."""
    action = manifest.io.action
    pairs = zip(commands.names, action.names, commands.units, action.units, strict=False)
    if len(commands.names) != len(action.names) or any(
        (ours != theirs and ours in action.names) or (unit != wanted and not _UNTOLD & {unit, wanted})
        for ours, theirs, unit, wanted in pairs
    ):
        raise JepaExportError(
            f"{name}: its actions are {', '.join(commands.names)}; the model's actions are "
            f"{', '.join(action.names)}: name these (?action=TOPIC:FIELD,FIELD)"
        )
    return commands
