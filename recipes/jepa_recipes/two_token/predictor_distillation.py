"""A smaller predictor for an existing bundle of a two-token model, whose encoder and energy stay.

It learns from the rollouts of the bundle's predictor, and from the latents that followed in recordings.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from jepa_export.training.stage import ModuleStage
from jepa_recipes.two_token.dynamics import HORIZON
from jepa_recipes.two_token.latent_library import LatentLibrary
from jepa_recipes.two_token.networks import ROBOT, SCENE, ActionPrefixPredictor, Predictor
from jepa_runtime import WorldModel

STARTS, CANDIDATES = 16, 16
# Of the candidates: recorded sequences, constant ones, and noise around constant ones, as planners propose.
_RECORDED, _CONSTANT = 5, 4
_INITIAL_STD = 0.8


class PredictorDistillationStage(ModuleStage):
    """Training on the mean squared error of the robot token over :data:`HORIZON` steps.

    Half of the loss is the difference from the rollouts of the teacher, for :data:`CANDIDATES` sequences from
    each of :data:`STARTS` latents; the other half is that from the latents that followed recorded actions.

    Args:
        teacher: Opened bundle with at least :data:`CANDIDATES` candidates.
        library: Latents of the teacher's encoder.
        predictor: Predictor to train.
    """

    name = "predictor"

    def __init__(
        self,
        teacher: WorldModel,
        library: LatentLibrary,
        predictor: Predictor | ActionPrefixPredictor,
        *,
        steps: int,
    ) -> None:
        self.predictor = predictor
        super().__init__({"predictor": predictor}, steps=steps, learning_rate=2e-3, clip_norm=1.0)
        self._teacher = teacher
        self._latents, self._actions = library.latents.flatten(0, 1), library.actions.flatten(0, 1)

    def losses(self, step: int) -> dict[str, Tensor]:
        latents, recorded = self._recorded(STARTS * CANDIDATES)
        starts = latents[:STARTS, 0]
        candidates = self._candidates()
        predicted = self.predictor.rollout(
            torch.cat([starts[:, SCENE].repeat_interleave(CANDIDATES, 0), latents[:, 0, SCENE]]),
            torch.cat([starts[:, ROBOT].repeat_interleave(CANDIDATES, 0), latents[:, 0, ROBOT]]),
            torch.cat([candidates.flatten(0, 1), recorded]),
        )
        of_teacher, of_recordings = predicted.chunk(2)
        return {
            "rollouts": functional.mse_loss(of_teacher, self._targets(starts, candidates)),
            "recordings": functional.mse_loss(of_recordings, latents[:, 1:, ROBOT]),
        }

    def _recorded(self, count: int) -> tuple[Tensor, Tensor]:
        """Return latents [count, H + 1, 2, D] of recordings, and the actions between them."""
        chosen = torch.randint(0, len(self._latents), (count,))
        first = torch.randint(0, self._actions.shape[1] - HORIZON + 1, (count,))
        steps = first[:, None] + torch.arange(HORIZON + 1)
        return self._latents[chosen[:, None], steps], self._actions[chosen[:, None], steps[:, :-1]]

    def _candidates(self) -> Tensor:
        """Return action sequences [STARTS, CANDIDATES, H, 2] in the unit of the recordings."""
        top_speed = self.predictor.top_speed
        candidates = self._recorded(STARTS * CANDIDATES)[1].unflatten(0, (STARTS, CANDIDATES)).clone()
        count = CANDIDATES - _RECORDED
        constant = top_speed * _INITIAL_STD * torch.randn(STARTS, count, 1, 2)
        noise = top_speed * _INITIAL_STD * torch.rand(STARTS, count, 1, 1)
        noise[:, :_CONSTANT] = 0
        candidates[:, _RECORDED:] = constant + noise * torch.randn(STARTS, count, HORIZON, 2)
        norm = candidates.norm(dim=-1, keepdim=True)
        limited: Tensor = candidates * (top_speed / norm.clamp_min(top_speed))
        return limited

    def _targets(self, starts: Tensor, candidates: Tensor) -> Tensor:
        """Return the robot tokens [STARTS * CANDIDATES, H, D] that the teacher predicts."""
        futures = [
            torch.from_numpy(self._teacher.predict(actions, latents=latent[None]).latents[:, :, ROBOT])
            for latent, actions in zip(starts.numpy(), candidates.numpy(), strict=True)
        ]
        return torch.cat(futures)
