"""What-if: predictions for other actions from a moment in a recording, next to what really happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import Manifest
from jepa_runtime.errors import JepaRuntimeError, SourceError
from jepa_runtime.replay import action_sequences as actions
from jepa_runtime.replay.bag_inputs import BagInputs, Goal
from jepa_runtime.replay.names import EXECUTED
from jepa_runtime.replay.player import Player
from jepa_runtime.serving.pipeline import Candidates, Result
from jepa_runtime.sources.base import Frame, Image
from jepa_runtime.sources.commands import Commands
from jepa_runtime.visualization.frame_album import FrameAlbum, thumbnail

Floats = NDArray[np.float32]

# Maximum number of frames among which the most similar one is shown for a future.
_MAX_ALBUM_SIZE = 400
_NS = 1_000_000_000


@dataclass(frozen=True)
class Moment:
    """A moment in a recording.

    Attributes:
        index: Number of its image, the last one taken by then.
        stamp_ns: Stamp of the image.
        time_s: Time since the first image.
        step_images: Number of the image at each following step; None if there was none.
        first: Number of the first image that is used.
        last: Number of the last image that is used.
    """

    index: int
    stamp_ns: int
    time_s: float
    step_images: tuple[int | None, ...]
    first: int
    last: int


@dataclass(frozen=True)
class Branch:
    """The prediction for one action sequence.

    Attributes:
        label: Label of the sequence.
        actions: The actions [H, A].
        energies: Energies [H] to the goal; None without one.
        errors: Norms [H] of predicted minus arrived latent, NaN where none arrived; None for actions that
            were not executed.
        similar: Recorded frame with the most similar latent, for each step.
        distances: Distance [H] of its latent (norm).
    """

    label: str
    actions: Floats
    energies: Floats | None
    errors: NDArray[np.float64] | None
    similar: tuple[Image, ...]
    distances: Floats


@dataclass(frozen=True)
class WhatIf:
    """The predictions from one moment.

    Attributes:
        moment: The moment.
        step_s: Duration of a model step.
        image: Thumbnail of the image at the moment.
        arrived: Thumbnail of the image at each step; None if there was none.
        goal: Thumbnail of the goal; None: there was none.
        current_energy: Energy of the image to the goal; None without a goal.
        error_bounds: Bounds [H] stated with the futures.
        branches: The prediction for each action sequence.
        album_size: Number of frames searched for similar ones.
    """

    moment: Moment
    step_s: float
    image: Image
    arrived: tuple[Image | None, ...]
    goal: Image | None
    current_energy: float | None
    error_bounds: Floats
    branches: tuple[Branch, ...]
    album_size: int

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        return {
            "at_s": self.moment.time_s,
            "stamp_ns": self.moment.stamp_ns,
            "image": self.moment.index,
            "step_s": self.step_s,
            "horizon": len(self.moment.step_images),
            "goal": self.goal is not None,
            "current_energy": self.current_energy,
            "error_bounds": _finite(self.error_bounds),
            "arrived": [image is not None for image in self.arrived],
            "frames_searched": self.album_size,
            "branches": [
                {
                    "label": entry.label,
                    "actions": entry.actions.tolist(),
                    "energies": None if entry.energies is None else _finite(entry.energies),
                    "errors": None if entry.errors is None else _finite(entry.errors),
                    "distance_of_similar_frame": _finite(entry.distances),
                }
                for entry in self.branches
            ],
        }


def find_moment(
    path: Path,
    stamps_ns: NDArray[np.int64],
    manifest: Manifest,
    *,
    at_s: float,
    horizon: int,
    around_s: float,
) -> Moment:
    """Return the moment ``at_s`` after the first image.

    Args:
        path: Path of the bag, for error messages.
        stamps_ns: Stamps of all images.
        manifest: Manifest of the model.
        at_s: Time since the first image.
        horizon: Number of steps that follow, at most the model's horizon.
        around_s: Minimum time before and after it from which images are used.

    Raises:
        SourceError: The bag has no such moment.
        JepaRuntimeError: The horizon is out of range.
    """
    step_ns = round(manifest.io.step_s * _NS)
    if not 1 <= horizon <= manifest.horizon:
        raise JepaRuntimeError(
            f"a horizon of {horizon} steps is out of range: {manifest.model_id} {manifest.version} "
            f"predicts 1 to "
            f"{manifest.horizon} steps of {manifest.io.step_s:g} s",
            code="replay.horizon_out_of_range",
        )
    index = index_at(path, stamps_ns, at_s)
    stamp_ns = int(stamps_ns[index])
    # If the clock was set back, the same times occur twice.
    back = index + 1 + np.flatnonzero(np.diff(stamps_ns[index:]) < 0)
    since = slice(index, back[0] if len(back) else None)
    step_images = [
        _nearest(stamps_ns, since, stamp_ns + step * step_ns, step_ns // 8) for step in range(1, horizon + 1)
    ]
    before_ns = max(round(around_s * _NS), (manifest.history_size + 1) * step_ns)
    after_ns = max(round(around_s * _NS), (horizon + 1) * step_ns)
    near = np.flatnonzero((stamps_ns >= stamp_ns - before_ns) & (stamps_ns <= stamp_ns + after_ns))
    time_s = (stamp_ns - int(stamps_ns[0])) / _NS
    return Moment(index, stamp_ns, time_s, tuple(step_images), int(near[0]), int(near[-1]))


def index_at(path: Path, stamps_ns: NDArray[np.int64], at_s: float) -> int:
    """Return the number of the last image taken by ``at_s`` after the first one.

    Raises:
        SourceError: The recording does not contain this time.
    """
    times_s = (stamps_ns - stamps_ns[0]) / _NS
    # Times are entered with fewer digits than a stamp has.
    if not 0 <= at_s <= times_s.max() + 5e-4:
        raise SourceError(
            f"{path}: no moment {at_s:g} s: its {len(stamps_ns)} images span 0 to {times_s.max():.3f} s",
            code="replay.no_such_moment",
        )
    return int(np.flatnonzero(times_s <= at_s + 5e-4)[-1])


def executed(path: Path, commands: Commands | None, moment: Moment, manifest: Manifest) -> Floats:
    """Return the mean actions [H, A] executed in each step after the moment.

    Raises:
        SourceError: The commands there are unknown.
    """
    if commands is None:
        raise SourceError(
            f"{path}: the executed actions are unknown: name the topic of the commands with --action",
            code="replay.no_commands",
        )
    step_ns = round(manifest.io.step_s * _NS)
    starts = moment.stamp_ns + step_ns * np.arange(len(moment.step_images), dtype=np.int64)
    unknown = np.flatnonzero(~commands.known(starts))
    if len(unknown):
        raise SourceError(
            f"{path}: the executed actions are unknown from {unknown[0] * manifest.io.step_s:g} s after the "
            f"moment on: no command is younger than {commands.max_age_ns / _NS:g} s there: use fewer steps "
            f"with "
            "--horizon",
            code="replay.unknown_actions",
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
    """Play a recording up to a moment, predict from there, and continue to see what really happened.

    Args:
        inputs: The recording.
        player: The model.
        moment: The moment.
        sequences: Action sequences, with the number of steps of the moment.
        goal: Goal to use instead of the recorded goals.
        on_frame: Called after each frame; an exception ends the playback.

    Raises:
        JepaRuntimeError: Reading or computing failed, or the history at the moment is too short.
    """
    candidates = np.stack([sequence.actions for sequence in sequences])
    if len(candidates) > player.model.num_samples:
        raise JepaRuntimeError(
            f"{len(candidates)} action sequences exceed the {player.model.num_samples} that the model was "
            f"opened "
            "for: use --num-samples",
            code="replay.too_many_sequences",
        )
    window = _Window(moment)
    if goal is not None:
        player.set_goal(goal.image, goal.stamp_ns)
        window.goal = goal.image
    for entry in inputs.read(lambda index: moment.first <= index <= moment.last):
        content = entry.content
        if isinstance(content, Goal):
            if goal is not None:
                continue
            window.set_goal(content)
        is_moment = isinstance(content, Frame) and content.sequence == moment.index
        result = player.feed(entry, Candidates(candidates, "whatif") if is_moment else None)
        if result is not None and isinstance(content, Frame):
            window.add(content, result)
            on_frame()
            if content.sequence == moment.last:
                break
    return _conclude(window, sequences, player.model.manifest)


class _Window:
    """The frames around a moment."""

    def __init__(self, moment: Moment) -> None:
        self.moment = moment
        self.goal: Image | None = None
        self.image: Image | None = None
        self.result: Result | None = None
        self.album = FrameAlbum()
        self.arrived: dict[int, tuple[Image, Floats]] = {}
        self._every = -(-(moment.last - moment.first + 1) // _MAX_ALBUM_SIZE)

    def set_goal(self, goal: Goal) -> None:
        if self.result is None:
            self.goal = goal.image

    def add(self, frame: Frame, result: Result) -> None:
        index = frame.sequence
        if index == self.moment.index:
            self.image, self.result = thumbnail(frame.image), result
        if index in self.moment.step_images:
            self.arrived[index] = thumbnail(frame.image), result.latent
        if (index - self.moment.first) % self._every == 0:
            self.album.add(frame.image, result.latent)


def _conclude(window: _Window, sequences: Sequence[actions.ActionSequence], manifest: Manifest) -> WhatIf:
    result, moment = window.result, window.moment
    if result is None or window.image is None or result.futures is None:
        raise JepaRuntimeError(
            f"no prediction at {moment.time_s:.3f} s: the model needs a history of "
            f"{(manifest.history_size - 1) * manifest.io.step_s:g} s, and there the recording begins, has "
            f"a gap, or "
            "lacks commands",
            code="replay.history_too_short",
        )
    futures = result.futures
    arrived = [None if index is None else window.arrived[index] for index in moment.step_images]
    similar, distances = window.album.nearest(futures.latents.reshape(-1, *futures.latents.shape[2:]))
    horizon = len(moment.step_images)
    branches = []
    for index, sequence in enumerate(sequences):
        steps = slice(index * horizon, (index + 1) * horizon)
        branches.append(
            Branch(
                label=sequence.label,
                actions=sequence.actions,
                energies=None if futures.energies is None else futures.energies[index],
                errors=_errors(futures.latents[index], arrived) if sequence.label == EXECUTED else None,
                similar=tuple(similar[steps]),
                distances=distances[steps],
            )
        )
    return WhatIf(
        moment=moment,
        step_s=manifest.io.step_s,
        image=window.image,
        arrived=tuple(None if entry is None else entry[0] for entry in arrived),
        goal=None if window.goal is None else thumbnail(window.goal),
        current_energy=result.current_energy,
        error_bounds=futures.error_bounds,
        branches=tuple(branches),
        album_size=len(window.album),
    )


def _finite(values: NDArray[np.floating]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _errors(predicted: Floats, arrived: Sequence[tuple[Image, Floats] | None]) -> NDArray[np.float64]:
    return np.array(
        [
            np.nan if entry is None else np.linalg.norm((latent - entry[1]).astype(np.float64))
            for latent, entry in zip(predicted, arrived, strict=True)
        ]
    )


def _nearest(stamps_ns: NDArray[np.int64], since: slice, due_ns: int, tolerance_ns: int) -> int | None:
    distances = np.abs(stamps_ns[since] - due_ns)
    nearest = int(distances.argmin())
    return since.start + nearest if distances[nearest] <= tolerance_ns else None
