"""Clips to evaluate on: frames one step apart, and the action sequences to predict from there."""

from __future__ import annotations

from dataclasses import dataclass

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
        frames: uint8 [n, L, h, w, 3], one step apart; the first W are the history.
        history_actions: float32 [n, W-1, A], executed between these.
        actions: float32 [n, C, H, A], to predict from there.
        executed: ``actions[:, 0]`` were executed, and L = W + H: frame W + h (from 0) shows the result of
            step h.
    """

    name: str
    frames: Image
    history_actions: Floats
    actions: Floats
    executed: bool

    def __len__(self) -> int:
        return len(self.frames)


def takes_actions(manifest: Manifest) -> bool:
    """Return whether an action of the model can be anything but 0."""
    return any((*manifest.io.action.low, *manifest.io.action.high))


def candidates(manifest: Manifest, count: int, seed: int) -> Floats:
    """Return action sequences as a planner samples them, float32 [count, H, A]; the first stands still."""
    config = CEMConfig(num_samples=count, horizon=manifest.horizon, topk=1)
    return CEM(config, ActionLimits.of(manifest), seed=seed).ask()


def clips_of(name: str, frames: Image, executed: Floats | None, manifest: Manifest, seed: int) -> Clips:
    """Return clips of frames [n, L, h, w, 3] and, if known, the actions [n, >= L-1, A] between them.

    A model without actions executes 0.
    """
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


def golden_clips(golden: GoldenOutputs, manifest: Manifest) -> Clips:
    """Return the bundle's golden inputs as clips."""
    count, size = len(golden.frames), manifest.history_size
    history_actions = np.zeros((size - 1, manifest.action_size), np.float32)
    if golden.history_actions is not None:
        history_actions = golden.history_actions
    return Clips(
        name=f"the bundle's {count} golden frames",
        frames=golden.frames[golden.history_indices(size)],
        history_actions=np.broadcast_to(history_actions, (count, *history_actions.shape)),
        actions=np.broadcast_to(golden.actions, (count, *golden.actions.shape)),
        executed=False,
    )
