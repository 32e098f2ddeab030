"""The recipe of Two Rooms, whose model is shipped in ``models/two_rooms``."""

from __future__ import annotations

import argparse

from jepa_export.training.recipes import TrainingRecipe
from jepa_recipes.two_token.train_options import add_episodes_argument
from jepa_runtime.commands import UsageError, bundle_location


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
    parser.add_argument(
        "--predictor-of",
        type=bundle_location,
        metavar="BUNDLE",
        help="train only a smaller predictor, on the encoder of this bundle and from its rollouts",
    )
    parser.add_argument(
        "--action-prefixes",
        action="store_true",
        help="with --predictor-of: the predictor returns all steps in one call, instead of one step",
    )


def _train(arguments: argparse.Namespace) -> int:
    from jepa_recipes.training_worlds.two_rooms import TwoRoomsTrainingWorld
    from jepa_recipes.two_token.train_command import distill_predictor_and_bundle, train_and_bundle
    from jepa_recipes.two_token.training import PredictorRecipe

    world = TwoRoomsTrainingWorld(arguments.layout)
    command = f"jepa-export train two_rooms --layout {arguments.layout} --seed {arguments.seed}"
    if arguments.predictor_of is not None:
        if arguments.distill:
            raise UsageError("--distill: not with --predictor-of, whose bundle is the teacher")
        return distill_predictor_and_bundle(
            arguments.out,
            world,
            arguments.predictor_of,
            command=f"{command} --predictor-of {arguments.predictor_of}"
            + " --action-prefixes" * arguments.action_prefixes,
            seed=arguments.seed,
            episodes=arguments.episodes,
            recipe=PredictorRecipe(action_prefixes=arguments.action_prefixes),
        )
    if arguments.action_prefixes:
        raise UsageError("--action-prefixes: with --predictor-of only")
    return train_and_bundle(
        arguments.out,
        world,
        command=command + " --distill" * arguments.distill,
        seed=arguments.seed,
        episodes=arguments.episodes,
        distilled=arguments.distill,
    )


RECIPE = TrainingRecipe(
    summary="train the model of a mobile base in two rooms, and measure its success rate in closed loop",
    add_arguments=_add_arguments,
    train=_train,
)
