"""The joint stage: encoder, relative pose head and predictor learn together.

They begin one after the other. First, mostly turns on the spot teach which tokens match
(:mod:`.odometry_losses`); then the relative pose counts fully; then the predictor begins, and the pairs of
frames move apart.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from jepa_recipes.first_person.batches import Batch, draw_batch
from jepa_recipes.first_person.clips import ClipShape
from jepa_recipes.first_person.evaluation import TABLES, evaluate
from jepa_recipes.first_person.networks import Networks
from jepa_recipes.first_person.odometry_losses import match_loss, relative_pose_loss, relative_poses
from jepa_recipes.first_person.outputs import Outputs, compute_outputs
from jepa_recipes.first_person.rollout_losses import rollout_losses
from jepa_recipes.first_person.stage import DriveStage, StageSettings

_MATCH_WEIGHT = 3.0
# Pairs of each drive whose matches are learned, other than the turns on the spot.
_MATCH_PAIRS = 8


class JointStage(DriveStage[Batch]):
    """Training on odometry and on predictions.

    Args:
        networks: The networks.
        settings: What the run gives to the stage.
        name: Name of the stage and of its files.
        further: Further modules to train, by their names in the checkpoint.
    """

    tables: tuple[str, ...] = TABLES

    def __init__(
        self,
        networks: Networks,
        settings: StageSettings,
        *,
        name: str = "joint",
        further: dict[str, nn.Module] | None = None,
    ) -> None:
        self.networks = networks
        networks.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        modules = {"encoder": networks.encoder, "head": networks.head, "predictor": networks.predictor}
        super().__init__(name, modules | (further or {}), settings)

    def draw(self, step: int) -> Batch:
        return draw_batch(self.settings.library, self.settings.amount, self.settings.seed, step)

    def losses(self, step: int) -> dict[str, Tensor]:
        batch = self.batch(step)
        with self.autocast():
            outputs = compute_outputs(self.networks, batch, rollouts=self.rollouts(step))
        return self.recorded_losses(step, batch, outputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        networks = self.networks
        return evaluate(
            networks.encoder,
            networks.head,
            networks.predictor,
            self.settings.held_out,
            batches=self.settings.amount.evaluation_batches,
        )

    def rollouts(self, step: int) -> ClipShape | None:
        """Return the size of the batch if its rollouts count at ``step``, else None."""
        amount = self.settings.amount
        began = amount.seen(step) >= amount.schedule.prediction
        return amount.clips if began and amount.clips.consecutive else None

    def pose_weight(self, step: int) -> float:
        """Return the weight of the relative pose at ``step``."""
        return self.settings.amount.schedule.pose_weight(self.settings.amount.seen(step))

    def recorded_losses(self, step: int, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        """Return the weighted terms that odometry and later images of the same drives define."""
        odometry = torch.from_numpy(batch.clips.odometry).flatten(0, 1)
        return {
            "pose": self.pose_weight(step) * self._pose(outputs.read, odometry, batch),
            "match": _MATCH_WEIGHT * self._match(outputs.latents.flatten(0, 1), odometry, batch),
        } | rollout_losses(batch, outputs)

    def _pose(self, read: Tensor, odometry: Tensor, batch: Batch) -> Tensor:
        first, second = (torch.from_numpy(numbers) for numbers in batch.pairs)
        return relative_pose_loss(read, relative_poses(odometry[first], odometry[second]))

    def _match(self, latents: Tensor, odometry: Tensor, batch: Batch) -> Tensor:
        turns, drives = batch.clips.turns, len(batch.clips.which)
        first, second = (
            torch.from_numpy(np.concatenate([turned, pairs.reshape(drives, -1)[:, :_MATCH_PAIRS].flatten()]))
            for turned, pairs in zip((turns.first, turns.second), batch.pairs, strict=True)
        )
        with self.autocast():
            matches, points = self.networks.head.locate(latents[first], latents[second])
        return match_loss(matches, points, relative_poses(odometry[first], odometry[second]))
