"""Datasets in memory, in place of those of stable-worldmodel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from jepa_recipes.stable_worldmodel.recordings import SIDE_PX


def dot_dataset(lengths: list[int], step_px: float) -> Any:
    """Return recordings of a dot that moves by ``step_px`` times its actions; images show their number."""
    rng = np.random.default_rng(0)
    episodes = []
    for number, length in enumerate(lengths):
        actions = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
        moved = np.cumsum(step_px * actions, axis=0)
        positions = np.concatenate([np.zeros((1, 2)), moved[:-1]]).astype(np.float32)
        pixels = torch.full((length, 3, SIDE_PX, SIDE_PX), number, dtype=torch.uint8)
        episodes.append(
            {"action": torch.from_numpy(actions), "state": torch.from_numpy(positions), "pixels": pixels}
        )
    return _dataset(lengths, episodes)


def arm_dataset(lengths: list[int]) -> Any:
    """Return recordings of two joints whose velocities the actions add to; a dot shows each angle."""
    rng = np.random.default_rng(1)
    episodes = []
    for length in lengths:
        actions = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
        velocities = rng.uniform(-1, 1, 2) + np.concatenate([np.zeros((1, 2)), np.cumsum(actions, 0)[:-1]])
        turned = rng.uniform(-1, 1, 2) + 0.04 * np.concatenate(
            [np.zeros((1, 2)), np.cumsum(velocities, 0)[:-1]]
        )
        pixels = torch.zeros((length, 3, SIDE_PX, SIDE_PX), dtype=torch.uint8)
        for index, angles in enumerate(turned):
            for channel, angle in enumerate(angles):
                x, y = (SIDE_PX / 2 + 80 * np.array([np.cos(angle), np.sin(angle)])).astype(int)
                pixels[index, channel, y - 8 : y + 8, x - 8 : x + 8] = 255
        episodes.append(
            {
                "action": torch.from_numpy(actions),
                "qpos": torch.from_numpy(turned),
                "qvel": torch.from_numpy(velocities),
                "pixels": pixels,
            }
        )
    return _dataset(lengths, episodes)


def _dataset(lengths: list[int], episodes: list[dict[str, Any]]) -> Any:
    return SimpleNamespace(lengths=np.array(lengths), load_episode=episodes.__getitem__)
