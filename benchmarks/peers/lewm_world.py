"""A made-up world for predictors of LeWM's size: they have learned something, and their plans can be judged.

A point in a square box; one action is five displacements in a row (LeWM's frame skip), and walls stop it. It
is seen as a latent of LeWM's width: random Fourier features of where it is (Rahimi and Recht 2007), of unit
scale as those of a student are. The encoder is left out: a plan begins from a latent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from jepa_export.students.predictor import WINDOW, Predictor, PredictorConfig
from jepa_export.teachers.family import find_teacher, shallow
from jepa_export.teachers.lewm import LeWM, LeWMConfig
from jepa_export.training.stage import ModuleStage, run_stage

Floats32 = NDArray[np.float32]
# The longest displacement along an axis; the box is 2 wide.
REACH = 0.08
_SEED, _DISPLACEMENTS, _ROUGHNESS, _BATCH = 7, 5, 1.5, 128
# A student's predictor with about as many parameters as LeWM's: see the report.
_STUDENT = {"width": 384, "heads": 6}
# Latents [B, L, D] and the actions [B, L, A] after them -> for each the next latent.
Foretell = Callable[[Tensor, Tensor], Tensor]


class World:
    """Where the point is, [..., 2] in -1 … 1, and how it is seen: ``width`` of a latent."""

    def __init__(self, width: int) -> None:
        rng = np.random.default_rng(_SEED)
        self._frequencies = rng.normal(0, _ROUGHNESS, (2, width)).astype(np.float32)
        self._phases = rng.uniform(0, 2 * np.pi, width).astype(np.float32)

    def see(self, places: Floats32) -> Floats32:
        """Latents [..., width], of mean 0 and deviation 1 each."""
        seen = np.cos(places @ self._frequencies + self._phases)
        centered = seen - seen.mean(-1, keepdims=True)
        latents: Floats32 = centered / centered.std(-1, keepdims=True)
        return latents

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


class Training(ModuleStage):
    """LeWM's own loss, but for what keeps an encoder from collapsing: each of ``frames`` in a row foretells
    the next."""

    name = "predictor"

    def __init__(
        self, module: nn.Module, foretell: Foretell, *, frames: int, world: World, steps: int
    ) -> None:
        super().__init__({"model": module}, steps=steps, learning_rate=1e-3, clip_norm=1.0)
        self._foretell, self._frames, self._world = foretell, frames, world

    def losses(self, step: int) -> dict[str, Tensor]:
        places, actions = self._world.walk(np.random.default_rng([_SEED, step]), _BATCH, self._frames)
        latents = torch.from_numpy(self._world.see(places))
        return {"next": mse_loss(self._foretell(latents[:, :-1], torch.from_numpy(actions)), latents[:, 1:])}


def trained(steps: int, folder: Path, *, depth: int | None = None) -> tuple[LeWM, World]:
    """LeWM, its predictor trained for ``steps`` in that world.

    Args:
        folder: where the training is kept, and taken up again.
        depth: number of blocks (None: all).
    """
    config = find_teacher("lewm").config
    assert isinstance(config, LeWMConfig)
    config = config if depth is None else shallow(config, depth)
    world = World(config.encoder.width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = config.build()
        for block in model.blocks:
            nn.init.zeros_(block.modulation[1].weight)
            nn.init.zeros_(block.modulation[1].bias)
        training = Training(model, model.predict, frames=config.history, world=world, steps=steps)
        run_stage(training, folder / f"lewm_predictor_{config.depth}_{steps}")
    return model.eval().requires_grad_(False), world


def trained_student(model: LeWM, world: World, steps: int, folder: Path) -> Predictor:
    """A student's predictor of the size of LeWM's (with as many blocks as ``model``), trained for as many
    steps on as many walks, each as long as it looks back."""
    config = PredictorConfig(
        **_STUDENT,
        depth=model.config.depth,
        tokens=1,
        dim=model.config.encoder.width,
        action_scale=(1.0,) * model.config.action_dim,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        student = Predictor(config)

        def foretell(latents: Tensor, actions: Tensor) -> Tensor:
            return student.next_latents(latents[:, :, None], actions)[:, :, 0]

        training = Training(student, foretell, frames=WINDOW, world=world, steps=steps)
        run_stage(training, folder / f"lewm_student_{config.depth}_{steps}")
    return student.eval().requires_grad_(False)
