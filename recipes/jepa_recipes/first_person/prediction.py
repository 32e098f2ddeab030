"""The prediction stage: the predictor alone learns on, and encoder and relative pose head stay as they are.

In the joint stage the latents to predict change from step to step, and rollouts begin in a quarter of the
drives only. Here they begin in all, and the predictor can follow latents that no longer change.
"""

from __future__ import annotations

from torch import Tensor

from jepa_recipes.first_person.batches import Batch, draw_batch
from jepa_recipes.first_person.evaluation import TABLES, evaluate
from jepa_recipes.first_person.networks import Networks
from jepa_recipes.first_person.outputs import compute_outputs
from jepa_recipes.first_person.rollout_losses import rollout_losses
from jepa_recipes.first_person.stage import DriveStage, StageSettings


class PredictionStage(DriveStage[Batch]):
    """Training of the predictor on latents of trained networks.

    Args:
        networks: The networks; the parameters of encoder and head no longer get gradients.
        settings: What the run gives to the stage.
        name: Name of the stage and of its files.
    """

    tables = TABLES

    def __init__(self, networks: Networks, settings: StageSettings, *, name: str = "prediction") -> None:
        self.networks = networks
        networks.encoder.requires_grad_(False)
        networks.head.requires_grad_(False)
        super().__init__(name, {"predictor": networks.predictor}, settings)

    def draw(self, step: int) -> Batch:
        return draw_batch(self.settings.library, self.settings.amount, self.settings.seed, step)

    def losses(self, step: int) -> dict[str, Tensor]:
        batch = self.batch(step)
        with self.autocast():
            outputs = compute_outputs(self.networks, batch, rollouts=self.settings.amount.clips)
        return rollout_losses(batch, outputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        networks = self.networks
        return evaluate(
            networks.encoder,
            networks.head,
            networks.predictor,
            self.settings.held_out,
            batches=self.settings.amount.evaluation_batches,
        )
