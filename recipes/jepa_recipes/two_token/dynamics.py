"""Stage 2: the predictor, rolled out over the whole horizon on latents of the frozen encoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from jepa_export.training.stage import ModuleStage
from jepa_recipes.two_token.latent_library import LatentLibrary
from jepa_recipes.two_token.networks import ROBOT, SCENE, Predictor

HORIZON = 8
BATCH = 256


class DynamicsStage(ModuleStage):
    """Training on the mean squared error of the robot token over :data:`HORIZON` autoregressive steps."""

    name = "dynamics"

    def __init__(self, library: LatentLibrary, predictor: Predictor, *, steps: int) -> None:
        self.predictor = predictor
        super().__init__({"predictor": self.predictor}, steps=steps, learning_rate=2e-3, clip_norm=1.0)
        self._latents, self._actions = library.latents.flatten(0, 1), library.actions.flatten(0, 1)

    def losses(self, step: int) -> dict[str, Tensor]:
        chosen = torch.randint(0, len(self._latents), (BATCH,))
        start = int(torch.randint(0, self._actions.shape[1] - HORIZON + 1, ()))
        latents = self._latents[chosen, start : start + HORIZON + 1]
        predicted = self.predictor.rollout(
            latents[:, 0, SCENE], latents[:, 0, ROBOT], self._actions[chosen, start : start + HORIZON]
        )
        return {"prediction": functional.mse_loss(predicted, latents[:, 1:, ROBOT])}
