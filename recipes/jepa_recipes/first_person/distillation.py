"""The distillation stage: small networks learn what a teacher computes from the same batches.

The student's latents reconstruct the teacher's through a linear map, its head reproduces the teacher's
readings with their expected errors, and its predictor the teacher's rollouts and what the teacher reads from
them. The terms of the joint stage are added with a weight: what odometry and later images say remains true,
whatever the teacher computes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_recipes.first_person.clips import ClipShape, sample_clips
from jepa_recipes.first_person.distillation_losses import latent_loss, reading_loss
from jepa_recipes.first_person.evaluation import TABLES
from jepa_recipes.first_person.joint import JointStage
from jepa_recipes.first_person.networks import Networks
from jepa_recipes.first_person.outputs import Outputs, compute_outputs
from jepa_recipes.first_person.stage import StageSettings

_LATENT_WEIGHT, _READING_WEIGHT, _ROLLOUT_WEIGHT, _ROLLOUT_READING_WEIGHT = 2.0, 1.0, 2.0, 0.5
_OF_TEACHER = "of_teacher"
_SHAPE = ClipShape(drives=4, frames=10, turned=0, consecutive=1)


class DistillationStage(JointStage):
    """Training on what a teacher computes, and on what was recorded.

    Args:
        student: Networks to train.
        teacher: Trained networks.
        settings: What the run gives to the stage.
        odometry_weight: Weight of the terms of the joint stage.
    """

    tables = (*TABLES, _OF_TEACHER)

    def __init__(
        self, student: Networks, teacher: Networks, settings: StageSettings, *, odometry_weight: float
    ) -> None:
        self.adapter = nn.Linear(student.encoder.dim, teacher.encoder.dim)
        self.teacher, self._odometry_weight = teacher.eval(), odometry_weight
        super().__init__(student, settings, name="distillation", further={"adapter": self.adapter})

    def losses(self, step: int) -> dict[str, Tensor]:
        batch, rollouts = self.batch(step), self.rollouts(step)
        with self.autocast():
            outputs = compute_outputs(self.networks, batch, rollouts=rollouts)
        goals = outputs.imagined.goals if outputs.imagined else None
        with torch.no_grad(), self.autocast():
            taught = compute_outputs(self.teacher, batch, rollouts=rollouts, goals=goals)
        terms = self._taught_losses(step, outputs, taught)
        if self._odometry_weight:
            recorded = self.recorded_losses(step, batch, outputs)
            terms |= {name: self._odometry_weight * term for name, term in recorded.items()}
        return terms

    def evaluate(self) -> dict[str, dict[str, float]]:
        return super().evaluate() | {_OF_TEACHER: self._retention()}

    def _taught_losses(self, step: int, outputs: Outputs, taught: Outputs) -> dict[str, Tensor]:
        rollout, rollout_reading = outputs.latents.new_zeros(()), outputs.latents.new_zeros(())
        if outputs.imagined and taught.imagined:
            rollout = latent_loss(
                self.adapter(outputs.imagined.rollouts.latents), taught.imagined.rollouts.latents
            )
            rollout_reading = reading_loss(outputs.imagined.read, taught.imagined.read)
        return {
            "latent": _LATENT_WEIGHT * latent_loss(self.adapter(outputs.latents), taught.latents),
            "reading": _READING_WEIGHT * self.pose_weight(step) * reading_loss(outputs.read, taught.read),
            "rollout": _ROLLOUT_WEIGHT * rollout,
            "rollout_reading": _ROLLOUT_READING_WEIGHT * rollout_reading,
        }

    @torch.no_grad()
    def _retention(self) -> dict[str, float]:
        """Return how well the student's latents reconstruct the teacher's, of frames of held-out drives.

        Explained variance is that around the mean of each token: 0 if the mean were always given.
        """
        rng = np.random.default_rng(0)
        cosines, squares, missed, frames = list[float](), 0.0, 0.0, 0
        total: Tensor | float = 0.0
        for _ in range(self.settings.amount.evaluation_batches):
            clips = sample_clips(self.settings.held_out, _SHAPE, rng, augment=False)
            images = torch.from_numpy(clips.images).flatten(0, 1)
            latents = self.teacher.encoder(images)
            reconstructed = self.adapter(self.networks.encoder(images))
            cosines.append(float(functional.cosine_similarity(reconstructed, latents, dim=-1).mean()))
            squares += float(latents.double().pow(2).sum())
            missed += float((reconstructed - latents).double().pow(2).sum())
            total, frames = total + latents.double().sum(0), frames + len(latents)
        assert isinstance(total, Tensor)
        variation = squares - float(total.pow(2).sum()) / frames
        return {"explained_variance": 1 - missed / variation, "cosine": sum(cosines) / len(cosines)}
