"""The recipe of the environments of stable-worldmodel."""

from __future__ import annotations

import argparse

from jepa_export.commands import number_types
from jepa_export.training.recipes import TrainingRecipe

_RECORDINGS = {"two_room": 1000, "reacher": 160}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--environment",
        choices=_RECORDINGS,
        default="two_room",
        help="environment to record (default: %(default)s)",
    )
    parser.add_argument(
        "--recordings",
        type=number_types.count,
        metavar="N",
        help="recorded episodes (default: "
        + ", ".join(f"{n} of {name}" for name, n in _RECORDINGS.items())
        + ")",
    )


def _train(arguments: argparse.Namespace) -> int:
    from jepa_export.bundling.staging import check_output
    from jepa_export.training.checkpoint import claim_folder, lock_folder

    number = arguments.recordings or _RECORDINGS[arguments.environment]
    command = (
        f"jepa-export train stable_worldmodel --environment {arguments.environment} "
        f"--seed {arguments.seed} --recordings {number}"
    )
    check_output(arguments.out / "bundle")
    folder = arguments.out / "recordings"
    settings = {"environment": arguments.environment, "recordings": number, "seed": arguments.seed}
    claim_folder(folder, settings, write=True)
    lock_folder(folder)
    train = _train_two_room if arguments.environment == "two_room" else _train_reacher
    return train(arguments, number, command)


def _train_two_room(arguments: argparse.Namespace, number: int, command: str) -> int:
    from jepa_recipes.stable_worldmodel.recordings import extract, record
    from jepa_recipes.stable_worldmodel.two_room import SOURCE, TwoRoomTrainingWorld
    from jepa_recipes.two_token.train_command import train_and_bundle

    folder = arguments.out / "recordings"
    extract(record(folder, SOURCE, number, arguments.seed), SOURCE, folder)
    return train_and_bundle(
        arguments.out, TwoRoomTrainingWorld(folder), command=command, seed=arguments.seed, episodes=0
    )


def _train_reacher(arguments: argparse.Namespace, number: int, command: str) -> int:
    from rich.console import Console

    from jepa_recipes.stable_worldmodel.reacher import SOURCE, Recipe, train_and_bundle
    from jepa_recipes.stable_worldmodel.recordings import extract, record

    folder = arguments.out / "recordings"
    rows = extract(record(folder, SOURCE, number, arguments.seed), SOURCE, folder)
    bundle = train_and_bundle(
        arguments.out,
        rows,
        command=command,
        seed=arguments.seed,
        recipe=Recipe(),
    )
    Console().print(f"bundle: {bundle.path}")
    return 0


RECIPE = TrainingRecipe(
    summary="train a model of an environment of stable-worldmodel, on recordings of the package's policies",
    add_arguments=_add_arguments,
    train=_train,
)
