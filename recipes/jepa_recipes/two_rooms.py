"""The recipe of Two Rooms, whose model is shipped in ``models/two_rooms``."""

from __future__ import annotations

import argparse

from jepa_export.training.recipes import TrainingRecipe
from jepa_recipes.two_token.train_options import add_episodes_argument


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layout", choices=["fixed", "random"], default="random", help="layouts (default: %(default)s)"
    )
    add_episodes_argument(parser)
    parser.add_argument(
        "--distill",
        action="store_true",
        help="train a large vision transformer first, and distill it into the model for the robot",
    )


def _train(arguments: argparse.Namespace) -> int:
    from jepa_recipes.training_worlds.two_rooms import TwoRoomsTrainingWorld
    from jepa_recipes.two_token.train_command import train_and_bundle

    return train_and_bundle(
        arguments.out,
        TwoRoomsTrainingWorld(arguments.layout),
        command=f"jepa-export train two_rooms --layout {arguments.layout} --seed {arguments.seed}"
        + " --distill" * arguments.distill,
        seed=arguments.seed,
        episodes=arguments.episodes,
        distilled=arguments.distill,
    )


RECIPE = TrainingRecipe(
    summary="train the model of a mobile base in two rooms, and measure its success rate in closed loop",
    add_arguments=_add_arguments,
    train=_train,
)
