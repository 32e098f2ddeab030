"""Clips to measure on: frames one step apart, and the action sequences that are followed from there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_runtime.bundle import GoldenOutputs, Manifest
from jepa_runtime.imaging.conversion import Image
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.sources.commands import Floats

# Action sequences that are followed from each clip.
CANDIDATES = 4


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


def golden_clips(golden: GoldenOutputs, manifest: Manifest) -> Clips:
    """The bundle's golden inputs as clips."""
    count, size = len(golden.frames), manifest.history_size
    between = np.zeros((size - 1, manifest.action_size), np.float32)
    if golden.history_actions is not None:
        between = golden.history_actions
    return Clips(
        name=f"the bundle's {count} golden frames",
        frames=golden.frames[golden.history_indices(size)],
        between=np.broadcast_to(between, (count, *between.shape)),
        actions=np.broadcast_to(golden.actions, (count, *golden.actions.shape)),
        executed=False,
    )
