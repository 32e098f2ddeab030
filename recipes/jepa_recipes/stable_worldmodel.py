"""The recipe of TwoRoom of stable-worldmodel, which uses the model of Two Rooms."""

from __future__ import annotations

import argparse

from jepa_export.commands import number_types
from jepa_export.training.recipes import TrainingRecipe


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recordings",
        type=number_types.count,
        default=1000,
        metavar="N",
        help="recorded episodes of the package's expert (default: %(default)s)",
    )


def _train(arguments: argparse.Namespace) -> int:
    from jepa_recipes.training_worlds.stable_worldmodel import TwoRoomTrainingWorld, extract, record_expert
    from jepa_recipes.two_token.train_command import train_and_bundle

    folder = arguments.out / "recordings"
    extract(record_expert(folder, arguments.recordings, arguments.seed), folder)
    return train_and_bundle(
        arguments.out,
        TwoRoomTrainingWorld(folder),
        command=f"jepa-export train stable_worldmodel --seed {arguments.seed} "
        f"--recordings {arguments.recordings}",
        seed=arguments.seed,
        episodes=0,
    )


RECIPE = TrainingRecipe(
    summary="train the model of TwoRoom of stable-worldmodel, on recordings of its expert",
    add_arguments=_add_arguments,
    train=_train,
)
