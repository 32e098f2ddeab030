"""The recipe of Gymnasium's Reacher, which uses the model of Two Rooms."""

from __future__ import annotations

import argparse

from jepa_export.training.recipes import TrainingRecipe
from jepa_recipes.two_token.train_options import add_episodes_argument


def _train(arguments: argparse.Namespace) -> int:
    from jepa_recipes.training_worlds.reacher import ReacherTrainingWorld
    from jepa_recipes.two_token.train_command import train_and_bundle

    return train_and_bundle(
        arguments.out,
        ReacherTrainingWorld(),
        command=f"jepa-export train reacher --seed {arguments.seed}",
        seed=arguments.seed,
        episodes=arguments.episodes,
    )


RECIPE = TrainingRecipe(
    summary="train the model of an arm with two joints, and measure its success rate in closed loop",
    add_arguments=add_episodes_argument,
    train=_train,
)
