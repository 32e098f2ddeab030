"""Branches from a moment in a recording: what would have come of other actions, beside what came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import Manifest
from jepa_runtime.errors import JepaRuntimeError, SourceError
from jepa_runtime.replay import action_sequences as actions
from jepa_runtime.replay.bag_inputs import BagInputs, Goal
from jepa_runtime.replay.player import Player
from jepa_runtime.serving.pipeline import Candidates, Result
from jepa_runtime.sources.base import Frame, Image
from jepa_runtime.sources.commands import Commands
from jepa_runtime.visualization.frame_album import FrameAlbum, thumbnail

Floats = NDArray[np.float32]

# The album shows a future as one of these: more would only take memory.
_MOST_IN_ALBUM = 400
_NS = 1_000_000_000


@dataclass(frozen=True)
class Moment:
    """Where in a recording it branches.

    Attributes:
        index, stamp_ns: of its image, the last one taken by then.
        time_s: since the first image.
        due: of each step, the number of the image taken then; None where there was none.
        first, last: which images are looked at, before and after it.
    """

    index: int
    stamp_ns: int
    time_s: float
    due: tuple[int | None, ...]
    first: int
    last: int


@dataclass(frozen=True)
class Branch:
    """What is predicted for one action sequence.

    Attributes:
        label, actions: [H, A] that are followed.
        energies: [H] to the goal; None without one.
        errors: [H] norms of predicted minus arrived latent, NaN where nothing arrived; None for actions that
            were not executed.
        similar, distances: of each step, the recorded frame whose latent is most similar, and how far it
            is (norm).
    """

    label: str
    actions: Floats
    energies: Floats | None
    errors: NDArray[np.float64] | None
    similar: tuple[Image, ...]
    distances: Floats


@dataclass(frozen=True)
class WhatIf:
    """Everything about one moment.

    Attributes:
        image: at the moment; ``came``: what came at each step, None where nothing did; ``goal``: what was
            sought. All of them small.
        current_energy: of the moment; None without a goal.
        error_bounds: [H] as stated with the futures.
        album: how many frames futures were looked for in.
    """

    moment: Moment
    step_s: float
    image: Image
    came: tuple[Image | None, ...]
    goal: Image | None
    current_energy: float | None
    error_bounds: Floats
    branches: tuple[Branch, ...]
    album: int


def find_moment(
    path: Path,
    stamps_ns: NDArray[np.int64],
    manifest: Manifest,
    *,
    at_s: float,
    horizon: int,
    around_s: float,
) -> Moment:
    """The moment ``at_s`` after the first image.

    Args:
        path: of the bag, for errors.
        stamps_ns: of all images.
        horizon: how many steps follow it, at most as many as the model foresees.
        around_s: of how much time before and after it images are looked at, if the history and the steps do
            not take more.

    Raises:
        SourceError: the bag has no such moment.
        JepaRuntimeError: the model does not foresee so many steps.
    """
    step_ns = round(manifest.io.step_s * _NS)
    if not 1 <= horizon <= manifest.horizon:
        raise JepaRuntimeError(
            f"a horizon of {horizon} steps: {manifest.model_id} {manifest.version} foresees 1 to "
            f"{manifest.horizon} of {manifest.io.step_s:g} s"
        )
    index = index_at(path, stamps_ns, at_s)
    stamp_ns = int(stamps_ns[index])
    # Where the clock was set back, the same times came twice.
    back = index + 1 + np.flatnonzero(np.diff(stamps_ns[index:]) < 0)
    since = slice(index, back[0] if len(back) else None)
    due = [
        _nearest(stamps_ns, since, stamp_ns + step * step_ns, step_ns // 8) for step in range(1, horizon + 1)
    ]
    before_ns = max(round(around_s * _NS), (manifest.history_size + 1) * step_ns)
    after_ns = max(round(around_s * _NS), (horizon + 1) * step_ns)
    near = np.flatnonzero((stamps_ns >= stamp_ns - before_ns) & (stamps_ns <= stamp_ns + after_ns))
    time_s = (stamp_ns - int(stamps_ns[0])) / _NS
    return Moment(index, stamp_ns, time_s, tuple(due), int(near[0]), int(near[-1]))


def index_at(path: Path, stamps_ns: NDArray[np.int64], at_s: float) -> int:
    """The last image taken ``at_s`` after the first one.

    Raises:
        SourceError: the recording does not reach there.
    """
    times_s = (stamps_ns - stamps_ns[0]) / _NS
    # A moment is written with fewer digits than a stamp has.
    if not 0 <= at_s <= times_s.max() + 5e-4:
        raise SourceError(
            f"{path}: has no moment {at_s:g} s: its {len(stamps_ns)} images span 0 to {times_s.max():.3f} s"
        )
    return int(np.flatnonzero(times_s <= at_s + 5e-4)[-1])


def executed(path: Path, commands: Commands | None, moment: Moment, manifest: Manifest) -> Floats:
    """The actions [H, A] that were executed after the moment: the mean of each step.

    Raises:
        SourceError: no commands are known there.
    """
    if commands is None:
        raise SourceError(f"{path}: what was executed is not known without commands (--action)")
    step_ns = round(manifest.io.step_s * _NS)
    starts = moment.stamp_ns + step_ns * np.arange(len(moment.due), dtype=np.int64)
    unknown = np.flatnonzero(~commands.known(starts))
    if len(unknown):
        raise SourceError(
            f"{path}: what was executed is not known from {unknown[0] * manifest.io.step_s:g} s after the "
            f"moment on: no command is younger than {commands.max_age_ns / _NS:g} s there; ask for fewer "
            "steps with --horizon"
        )
    return commands.mean(starts, starts + step_ns)


def branch(
    inputs: BagInputs,
    player: Player,
    moment: Moment,
    sequences: Sequence[actions.ActionSequence],
    *,
    goal: Frame | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> WhatIf:
    """Play a recording up to a moment, branch there, and go on to see what came.

    Args:
        sequences: all of as many steps as the moment is followed for.
        goal: to be sought instead of the recording's goals.
        on_frame: called after each frame; what it raises ends it.

    Raises:
        JepaRuntimeError: something cannot be read or computed; the history at the moment is too short to
            predict from.
    """
    chosen = np.stack([sequence.actions for sequence in sequences])
    if len(chosen) > player.model.num_samples:
        raise JepaRuntimeError(
            f"{len(chosen)} action sequences are more than the {player.model.num_samples} that the model was "
            "opened for (--num-samples)"
        )
    seen = _Seen(moment)
    if goal is not None:
        player.seek(goal.image, goal.stamp_ns)
        seen.goal = goal.image
    for entry in inputs.read(lambda index: moment.first <= index <= moment.last):
        content = entry.content
        if isinstance(content, Goal):
            if goal is not None:
                continue
            seen.sought(content)
        here = isinstance(content, Frame) and content.sequence == moment.index
        result = player.feed(entry, Candidates(chosen, "whatif") if here else None)
        if result is not None and isinstance(content, Frame):
            seen.add(content, result)
            on_frame()
            if content.sequence == moment.last:
                break
    return _conclude(seen, sequences, player.model.manifest)


class _Seen:
    """What is kept of the frames around a moment."""

    def __init__(self, moment: Moment) -> None:
        self.moment = moment
        self.goal: Image | None = None
        self.image: Image | None = None
        self.result: Result | None = None
        self.album = FrameAlbum()
        self.came: dict[int, tuple[Image, Floats]] = {}
        self._every = -(-(moment.last - moment.first + 1) // _MOST_IN_ALBUM)

    def sought(self, goal: Goal) -> None:
        if self.result is None:
            self.goal = goal.image

    def add(self, frame: Frame, result: Result) -> None:
        index = frame.sequence
        if index == self.moment.index:
            self.image, self.result = thumbnail(frame.image), result
        if index in self.moment.due:
            self.came[index] = thumbnail(frame.image), result.latent
        if (index - self.moment.first) % self._every == 0:
            self.album.add(frame.image, result.latent)


def _conclude(seen: _Seen, sequences: Sequence[actions.ActionSequence], manifest: Manifest) -> WhatIf:
    result, moment = seen.result, seen.moment
    if result is None or seen.image is None or result.futures is None:
        raise JepaRuntimeError(
            f"at {moment.time_s:.3f} s nothing can be predicted: the model looks back "
            f"{(manifest.history_size - 1) * manifest.io.step_s:g} s, and there the recording begins, has a "
            "gap, or knows no command"
        )
    futures = result.futures
    arrived = [None if index is None else seen.came[index] for index in moment.due]
    similar, distances = seen.album.nearest(futures.latents.reshape(-1, *futures.latents.shape[2:]))
    horizon = len(moment.due)
    branches = []
    for index, sequence in enumerate(sequences):
        steps = slice(index * horizon, (index + 1) * horizon)
        branches.append(
            Branch(
                label=sequence.label,
                actions=sequence.actions,
                energies=None if futures.energies is None else futures.energies[index],
                errors=_errors(futures.latents[index], arrived)
                if sequence.label == actions.EXECUTED
                else None,
                similar=tuple(similar[steps]),
                distances=distances[steps],
            )
        )
    return WhatIf(
        moment=moment,
        step_s=manifest.io.step_s,
        image=seen.image,
        came=tuple(None if entry is None else entry[0] for entry in arrived),
        goal=None if seen.goal is None else thumbnail(seen.goal),
        current_energy=result.current_energy,
        error_bounds=futures.error_bounds,
        branches=tuple(branches),
        album=len(seen.album),
    )


def _errors(predicted: Floats, arrived: Sequence[tuple[Image, Floats] | None]) -> NDArray[np.float64]:
    return np.array(
        [
            np.nan if came is None else np.linalg.norm((latent - came[1]).astype(np.float64))
            for latent, came in zip(predicted, arrived, strict=True)
        ]
    )


def _nearest(stamps_ns: NDArray[np.int64], since: slice, due_ns: int, tolerance_ns: int) -> int | None:
    away = np.abs(stamps_ns[since] - due_ns)
    nearest = int(away.argmin())
    return since.start + nearest if away[nearest] <= tolerance_ns else None
