"""What is learned from rollouts: to predict latents, and to read relative poses from predictions."""

from __future__ import annotations

import torch
from torch import Tensor

from jepa_recipes.first_person.batches import Batch
from jepa_recipes.first_person.odometry_losses import relative_pose_loss, relative_poses
from jepa_recipes.first_person.outputs import ImaginedOutputs, Outputs
from jepa_recipes.first_person.prediction_losses import prediction_errors

# The gradients of both terms are then of a similar size: errors of latents are small numbers.
_PREDICTION_WEIGHT, _GROUNDING_WEIGHT = 2.0, 0.005


def rollout_losses(batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
    """Return the weighted terms of the rollouts of a batch; 0 if there are none."""
    prediction, grounding = outputs.latents.new_zeros(()), outputs.latents.new_zeros(())
    if outputs.imagined is not None:
        prediction = prediction_errors(outputs.imagined.rollouts, outputs.latents).mean()
        grounding = _grounding(outputs.imagined, torch.from_numpy(batch.clips.odometry))
    return {"prediction": _PREDICTION_WEIGHT * prediction, "grounding": _GROUNDING_WEIGHT * grounding}


def _grounding(imagined: ImaginedOutputs, odometry: Tensor) -> Tensor:
    """Return the loss of relative poses read from imagined latents."""
    drive, moment = imagined.rollouts.moments
    poses = relative_poses(odometry[drive, moment], odometry[drive, imagined.goals])
    return relative_pose_loss(imagined.read, poses.flatten(0, 1))
