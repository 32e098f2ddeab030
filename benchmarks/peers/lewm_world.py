"""A synthetic world for predictors of LeWM's size, in which they can be trained and their plans evaluated.

A point in a square box; one action is five consecutive displacements (LeWM's frame skip), and walls stop it.
Its latent of LeWM's width contains random Fourier features of its position (Rahimi and Recht 2007), of unit
scale like those of a student. There is no encoder: a plan begins from a latent.
"""

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
# Longest displacement along an axis; the box is 2 wide.
REACH = 0.08
_SEED, _DISPLACEMENTS, _ROUGHNESS, _BATCH = 7, 5, 1.5, 128
# A student's predictor with about the number of parameters of LeWM's: see the report.
_STUDENT = {"width": 384, "heads": 6}
# Latents [B, L, D] and the actions [B, L, A] after them -> the next latent of each.
NextLatents = Callable[[Tensor, Tensor], Tensor]


class World:
    """Positions of the point, [..., 2] in -1 … 1, and their latents of size ``width``."""

    def __init__(self, width: int) -> None:
        rng = np.random.default_rng(_SEED)
        self._frequencies = rng.normal(0, _ROUGHNESS, (2, width)).astype(np.float32)
        self._phases = rng.uniform(0, 2 * np.pi, width).astype(np.float32)

    def encode(self, places: Floats32) -> Floats32:
        """Return latents [..., width], each of mean 0 and deviation 1."""
        features = np.cos(places @ self._frequencies + self._phases)
        centered = features - features.mean(-1, keepdims=True)
        latents: Floats32 = centered / centered.std(-1, keepdims=True)
        return latents

    def move(self, places: Floats32, actions: Floats32) -> Floats32:
        """Return the positions after ``actions`` [..., 10], in -1 … 1."""
        for displacement in np.split(actions, _DISPLACEMENTS, axis=-1):
            places = np.clip(places + np.float32(REACH) * displacement, -1, 1)
        return places

    def walk(self, rng: np.random.Generator, count: int, steps: int) -> tuple[Floats32, Floats32]:
        """Return positions [count, steps + 1, 2] and the actions [count, steps, 10] between them.

        Each action roughly keeps a direction.
        """
        heading = rng.uniform(-1, 1, (count, steps, 1, 2))
        noise = rng.normal(0, 0.5, (count, steps, _DISPLACEMENTS, 2))
        actions = np.clip(heading + noise, -1, 1).astype(np.float32).reshape(count, steps, -1)
        places = [rng.uniform(-1, 1, (count, 2)).astype(np.float32)]
        for step in range(steps):
            places.append(self.move(places[-1], actions[:, step]))
        return np.stack(places, axis=1), actions


class Training(ModuleStage):
    """LeWM's own loss without the term against collapse: each of ``frames`` consecutive ones predicts the
    next."""

    name = "predictor"

    def __init__(
        self, module: nn.Module, predict: NextLatents, *, frames: int, world: World, steps: int
    ) -> None:
        super().__init__({"model": module}, steps=steps, learning_rate=1e-3, clip_norm=1.0)
        self._predict, self._frames, self._world = predict, frames, world

    def losses(self, step: int) -> dict[str, Tensor]:
        places, actions = self._world.walk(np.random.default_rng([_SEED, step]), _BATCH, self._frames)
        latents = torch.from_numpy(self._world.encode(places))
        return {"next": mse_loss(self._predict(latents[:, :-1], torch.from_numpy(actions)), latents[:, 1:])}


def trained(steps: int, folder: Path, *, depth: int | None = None) -> tuple[LeWM, World]:
    """Return LeWM with a predictor trained for ``steps``, and the world.

    Args:
        steps: Number of training steps.
        folder: Folder of the checkpoints, from which training resumes.
        depth: Number of blocks (None: all).
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
    """Return a student's predictor of LeWM's size, with the number of blocks of ``model``.

    It is trained for ``steps`` on the same number of walks, each as long as its context.
    """
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

        def predict(latents: Tensor, actions: Tensor) -> Tensor:
            return student.next_latents(latents[:, :, None], actions)[:, :, 0]

        training = Training(student, predict, frames=WINDOW, world=world, steps=steps)
        run_stage(training, folder / f"lewm_student_{config.depth}_{steps}")
    return student.eval().requires_grad_(False)
