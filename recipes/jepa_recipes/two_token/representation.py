"""Stage 1: the encoder, trained together with a predictor and an inverse dynamics model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_export.data.two_rooms_recordings import Recordings
from jepa_export.training.prefetch import in_order
from jepa_export.training.stage import ModuleStage
from jepa_recipes.training_worlds.interface import TrainingWorld
from jepa_recipes.two_token import losses
from jepa_recipes.two_token.networks import (
    LATENT_DIM,
    ROBOT,
    SCENE,
    Encoder,
    InverseDynamics,
    JointEstimate,
    Predictor,
)

LAYOUTS, TRAJECTORIES, FRAMES = 32, 2, 5
QUEUE = 4096


class RepresentationStage(ModuleStage):
    """Training of the scene token and the robot token.

    Scene token: equal for all frames of a layout, different between layouts (InfoNCE against a queue). Robot
    token: predictable from the action (predictive InfoNCE within a layout, regression, inverse dynamics),
    spread and decorrelated within the layout.

    If the recordings contain joint angles, the robot token must contain them, in place of predictive InfoNCE:
    that loss represents the joint that moves most of the image, and little of the others.
    """

    name = "representation"

    def __init__(
        self,
        seed: int,
        encoder: Encoder,
        predictor: Predictor,
        *,
        training_world: TrainingWorld,
        steps: int,
        renderer: Executor,
    ) -> None:
        self.encoder, self.predictor, self.inverse = encoder, predictor, InverseDynamics()
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        modules: dict[str, nn.Module] = {
            "encoder": self.encoder,
            "predictor": self.predictor,
            "inverse": self.inverse,
        }
        self.joints = JointEstimate(training_world.joints) if training_world.joints else None
        if self.joints is not None:
            modules["joints"] = self.joints
        super().__init__(modules, steps=steps, learning_rate=2e-3, clip_norm=2.0)
        self._seed, self._training_world, self._renderer = seed, training_world, renderer
        self._queue = torch.randn(64, LATENT_DIM)
        self._batches: Iterator[Recordings] | None = None

    def extra_state(self) -> dict[str, Any]:
        return {"queue": self._queue}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self._queue = state["queue"]

    def losses(self, step: int) -> dict[str, Tensor]:
        data = self._batch(step)
        actions = torch.from_numpy(data.actions)
        frames = torch.from_numpy(data.frames)
        latents = self.encoder(frames.flatten(0, 2)).unflatten(0, frames.shape[:3])
        scene, robot = latents[:, :, :, SCENE], latents[:, :, :, ROBOT]
        temperature = self._temperature(step, 0.05)
        predicted = self.predictor.rollout(
            scene[:, :, 0].flatten(0, 1), robot[:, :, 0].flatten(0, 1), actions.flatten(0, 1)
        ).unflatten(0, scene.shape[:2])
        moved = self.inverse(robot[:, :, :-1], robot[:, :, 1:])
        within = (robot - robot.mean(dim=(1, 2), keepdim=True)).flatten(0, 2)
        if self.joints is None:
            located = {"predictive_contrast": losses.predictive_contrast(predicted, robot, temperature)}
        else:
            assert data.joints is not None
            angles = torch.from_numpy(data.joints)
            target = torch.cat([angles.cos(), angles.sin()], dim=-1)
            located = {"joints": 5.0 * functional.mse_loss(self.joints(robot), target)}
        return located | {
            "prediction": 0.1 * functional.mse_loss(predicted, robot[:, :, 1:]),
            "inverse": 2.0 * functional.mse_loss(moved, actions / self._training_world.top_speed),
            "scene": 0.5 * self._scene_contrast(scene, self._temperature(step, 0.01)),
            "spread": 4.0 * losses.spread(within),
            "decorrelation": 0.01
            * (losses.decorrelation(within) + losses.decorrelation(scene[:, :, 0].flatten(0, 1))),
        }

    def _scene_contrast(self, scene: Tensor, temperature: float) -> Tensor:
        """Attract frames of another trajectory in the same layout and repel layouts of earlier batches.

        With a single layout there is nothing to distinguish, and the loss is 0.
        """
        if not self._training_world.varies:
            return scene.new_zeros(())
        other = scene.roll(1, dims=1)
        loss = losses.contrast(scene.flatten(0, 2), other.flatten(0, 2), self._queue, temperature)
        self._queue = torch.cat([self._queue, scene[:, :, 0].detach().flatten(0, 1)])[-QUEUE:]
        return loss

    def _temperature(self, step: int, final: float) -> float:
        """Anneal from 0.5, which attracts everything, to ``final`` at half time (centimeter resolution)."""
        return 0.5 * float((final / 0.5) ** min(1.0, 2 * step / self.steps))

    def _batch(self, step: int) -> Recordings:
        if self._batches is None:
            self._batches = in_order(
                lambda index: self._renderer.submit(_record, self._training_world, self._seed, index),
                step,
                self.steps,
            )
        return next(self._batches)


def _record(training_world: TrainingWorld, seed: int, step: int) -> Recordings:
    return training_world.record((seed, 1, step), layouts=LAYOUTS, trajectories=TRAJECTORIES, frames=FRAMES)
