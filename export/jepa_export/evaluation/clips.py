"""Clips to evaluate on: frames one step apart, and the action sequences to predict from there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from jepa_runtime.bundle import GoldenOutputs, Manifest
from jepa_runtime.imaging import Image
from jepa_runtime.planning import CEM, ActionLimits, CEMConfig
from jepa_runtime.sources import Floats

# Action sequences predicted from each clip; fewer if the model has fewer candidates.
CANDIDATES = 4


@dataclass(frozen=True, kw_only=True)
class Clips:
    """n clips. W is the model's history, H its horizon, C the number of candidates.

    Attributes:
        name: Description of their source, for messages.
        frames: uint8 [n, L, h, w, 3], one step apart; the first W are the history. Of a model that reads
            clips, the clip at each step: [n, L, F, h, w, 3].
        history_actions: float32 [n, W-1, A], executed between these.
        actions: float32 [n, C, H, A], to predict from there.
        history_states: float32 [n, W, S], the states of the robot at the history; None if the model reads
            none.
        executed: ``actions[:, 0]`` were executed, and L = W + H: frame W + h (from 0) shows the result of
            step h.
    """

    name: str
    frames: Image
    history_actions: Floats
    actions: Floats
    executed: bool
    history_states: Floats | None = None

    def __len__(self) -> int:
        return len(self.frames)


def takes_actions(manifest: Manifest) -> bool:
    """Return whether an action of the model can be anything but 0."""
    return any((*manifest.io.action.low, *manifest.io.action.high))


def candidates(manifest: Manifest, count: int, seed: int) -> Floats:
    """Return action sequences as a planner samples them, float32 [count, H, A]; the first stands still."""
    config = CEMConfig(num_samples=count, horizon=manifest.horizon, topk=1)
    return CEM(config, ActionLimits.of(manifest), seed=seed).ask()


def frames_read(manifest: Manifest, steps: int) -> int:
    """Return the number of frames, ``manifest.io.frame_interval_s`` apart, that ``steps`` latents need."""
    clip = manifest.io.clip
    return steps if clip is None else clip.frames + (steps - 1) * clip.frames_per_step


def clips_of(name: str, frames: Image, executed: Floats | None, manifest: Manifest, seed: int) -> Clips:
    """Return clips of frames and, if known, the actions between them.

    A model without actions executes 0.

    Args:
        name: Description of their source.
        frames: uint8 [n, :func:`frames_read` of L, h, w, 3], ``manifest.io.frame_interval_s`` apart.
        executed: Actions [n, at least one fewer, A] from each frame until the next; None: unknown.
        manifest: Manifest of the model.
        seed: Seed of the candidates.
    """
    clip = manifest.io.clip
    if clip is not None:
        views = np.lib.stride_tricks.sliding_window_view(frames, clip.frames, axis=1)
        frames = np.moveaxis(views[:, :: clip.frames_per_step], -1, 2)
        if executed is not None:
            rows = (frames.shape[1] - 1) * clip.frames_per_step
            within = executed[:, clip.frames - 1 :][:, :rows]
            executed = within.reshape(len(frames), -1, clip.frames_per_step, within.shape[-1]).mean(axis=2)
    past, count = manifest.history_size - 1, len(frames)
    rows = min(CANDIDATES, manifest.num_samples)
    actions = np.stack([candidates(manifest, rows, seed + index) for index in range(count)])
    history_actions = np.zeros((count, past, manifest.action_size), np.float32)
    if not takes_actions(manifest):
        executed = np.zeros((count, past + manifest.horizon, manifest.action_size), np.float32)
    if executed is not None:
        history_actions = executed[:, :past]
        actions[:, 0] = executed[:, past : past + manifest.horizon]
    return Clips(
        name=name,
        frames=frames,
        history_actions=history_actions,
        actions=actions,
        executed=executed is not None,
    )


def with_golden_states(clips: Clips, golden: GoldenOutputs) -> Clips:
    """Return clips with the states of the golden outputs, for a model that reads them.

    The robot was not in these states at the frames, so that the futures are not what followed.
    """
    assert golden.history_states is not None
    states = np.broadcast_to(golden.history_states, (len(clips), *golden.history_states.shape))
    return replace(clips, history_states=states, executed=False)


def golden_clips(golden: GoldenOutputs, manifest: Manifest) -> Clips:
    """Return the bundle's golden inputs as clips."""
    count, size = len(golden.frames), manifest.history_size
    history_actions = np.zeros((size - 1, manifest.action_size), np.float32)
    if golden.history_actions is not None:
        history_actions = golden.history_actions
    clips = Clips(
        name=f"the bundle's {count} golden frames",
        frames=golden.frames[golden.history_indices(size)],
        history_actions=np.broadcast_to(history_actions, (count, *history_actions.shape)),
        actions=np.broadcast_to(golden.actions, (count, *golden.actions.shape)),
        executed=False,
    )
    return clips if golden.history_states is None else with_golden_states(clips, golden)
