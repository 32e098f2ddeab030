"""A made-up world for a predictor of LeWM's size: it has learnt something, and its plans can be judged.

A point in a square box; one action is five displacements in a row (LeWM's frame skip), and walls stop it. It
is seen as a latent of LeWM's width: random Fourier features of where it is (Rahimi and Recht 2007). The
encoder is left out: a plan begins from a latent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from jepa_export.teachers.family import find, shallow
from jepa_export.teachers.lewm import LeWM, LeWMConfig
from jepa_export.training.stage import Stage, run_stage

Floats32 = NDArray[np.float32]
# The longest displacement along an axis; the box is 2 wide.
REACH = 0.08
_SEED, _DISPLACEMENTS, _ROUGHNESS, _BATCH = 7, 5, 1.5, 128


class World:
    """Where the point is, [..., 2] in -1 … 1, and how it is seen: ``width`` of a latent."""

    def __init__(self, width: int) -> None:
        rng = np.random.default_rng(_SEED)
        self._frequencies = rng.normal(0, _ROUGHNESS, (2, width)).astype(np.float32)
        self._phases = rng.uniform(0, 2 * np.pi, width).astype(np.float32)

    def see(self, places: Floats32) -> Floats32:
        """Latents [..., width]."""
        seen: Floats32 = np.sqrt(np.float32(2)) * np.cos(places @ self._frequencies + self._phases)
        return seen

    def move(self, places: Floats32, actions: Floats32) -> Floats32:
        """Where ``actions`` [..., 10], in -1 … 1, lead from there."""
        for displacement in np.split(actions, _DISPLACEMENTS, axis=-1):
            places = np.clip(places + np.float32(REACH) * displacement, -1, 1)
        return places

    def walk(self, rng: np.random.Generator, count: int, steps: int) -> tuple[Floats32, Floats32]:
        """Places [count, steps + 1, 2], and the actions [count, steps, 10] between them: each keeps to a
        direction, more or less."""
        heading = rng.uniform(-1, 1, (count, steps, 1, 2))
        noise = rng.normal(0, 0.5, (count, steps, _DISPLACEMENTS, 2))
        actions = np.clip(heading + noise, -1, 1).astype(np.float32).reshape(count, steps, -1)
        places = [rng.uniform(-1, 1, (count, 2)).astype(np.float32)]
        for step in range(steps):
            places.append(self.move(places[-1], actions[:, step]))
        return np.stack(places, axis=1), actions


class Training(Stage):
    """LeWM's own loss, but for what keeps an encoder from collapsing: each frame of a window foretells the
    next."""

    name = "predictor"

    def __init__(self, model: LeWM, world: World, steps: int) -> None:
        super().__init__({"model": model}, steps=steps, learning_rate=1e-3, clip_norm=1.0)
        self._model, self._world = model, world
        for block in model.blocks:
            nn.init.zeros_(block.modulation[1].weight)
            nn.init.zeros_(block.modulation[1].bias)

    def losses(self, step: int) -> dict[str, Tensor]:
        places, actions = self._world.walk(
            np.random.default_rng([_SEED, step]), _BATCH, self._model.config.history
        )
        latents = torch.from_numpy(self._world.see(places))
        return {
            "next": mse_loss(self._model.predict(latents[:, :-1], torch.from_numpy(actions)), latents[:, 1:])
        }


def trained(steps: int, folder: Path, *, depth: int | None = None) -> tuple[LeWM, World]:
    """LeWM, its predictor trained for ``steps`` in that world.

    Args:
        folder: where the training is kept, and taken up again.
        depth: with so many blocks (None: all).
    """
    config = find("lewm").config
    assert isinstance(config, LeWMConfig)
    config = config if depth is None else shallow(config, depth)
    world = World(config.encoder.width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = config.build()
        run_stage(Training(model, world, steps), folder / f"lewm_{config.depth}_{steps}")
    return model.eval().requires_grad_(False), world
