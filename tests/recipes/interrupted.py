"""Train the tiny recipe, and kill this process at a given step.

    python -m tests.recipes.interrupted FOLDER [STAGE STEP]

SIGKILL prevents all cleanup, as a power cut does.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from jepa_export.training import stage
from jepa_recipes.training_worlds.two_rooms import TwoRoomsTrainingWorld
from jepa_recipes.two_token import training
from jepa_recipes.two_token.training import Recipe, TrainedModel

RECIPE = Recipe(
    representation_steps=4, layouts=4, dynamics_steps=6, temporal_distance_steps=4, held_out_layouts=4
)
EVERY = 2


def train_tiny(folder: Path, *, seed: int = 0) -> TrainedModel:
    """Train the tiny recipe with a checkpoint after every second step."""

    def run_stage(which: stage.ModuleStage, where: Path, **_: Any) -> None:
        stage.run_stage(which, where, checkpoint_every=EVERY)

    with mock.patch.object(training, "run_stage", run_stage):
        return training.train(
            folder, seed=seed, training_world=TwoRoomsTrainingWorld("random"), recipe=RECIPE
        )


def die_at(stage_name: str, at_step: int) -> None:
    """Kill this process at ``at_step`` of ``stage_name``."""
    train_step = stage.TrainingStage.train_step

    def killing_train_step(self: stage.TrainingStage, step: int) -> dict[str, float]:
        if (self.name, step) == (stage_name, at_step):
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(self, step)

    stage.TrainingStage.train_step = killing_train_step


if __name__ == "__main__":
    if len(sys.argv) > 2:
        die_at(sys.argv[2], int(sys.argv[3]))
    train_tiny(Path(sys.argv[1]))
