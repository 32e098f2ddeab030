"""jepa-export train: train a model from scratch in a simulated world."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from jepa_export.commands import number_types
from jepa_export.commands.options import REQUIRED, RESUMES, add_output_argument
from jepa_runtime.commands import UsageError

if TYPE_CHECKING:
    from jepa_export.data.training_world import TrainingWorld


def add_parser(subparsers: Any) -> None:
    """Add ``train`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "train",
        description="Train a model from scratch in a simulated world, write its bundle, and measure its "
        "success rate in closed loop. The same command resumes from the last checkpoint.",
    )
    parser.add_argument("world", choices=["two_rooms", "reacher"], help="simulated world to train in")
    add_output_argument(parser, "folder for checkpoints, losses and the bundle")
    parser.add_argument(
        "--seed", type=number_types.seed, default=0, help="random seed (default: %(default)s)"
    )
    parser.add_argument(
        "--layout", choices=["fixed", "random"], help="layouts of two_rooms (default: random)"
    )
    parser.add_argument(
        "--episodes",
        type=number_types.count,
        default=100,
        metavar="N",
        help="closed-loop episodes for each of three seeds; 0: none (default: %(default)s)",
    )
    parser.add_argument(
        "--distil",
        action="store_true",
        help="train a large vision transformer first, and distill it into the model for the robot",
    )
    parser.set_defaults(run=_run, needs=REQUIRED, stopped=RESUMES)


def _run(arguments: argparse.Namespace) -> int:
    from jepa_export.commands.train_world import train_and_bundle
    from jepa_export.data.reacher_recordings import ReacherTrainingWorld
    from jepa_export.data.two_rooms_recordings import TwoRoomsTrainingWorld

    training_world: TrainingWorld
    if arguments.world == "reacher":
        if arguments.layout or arguments.distil:
            raise UsageError("--layout and --distil apply to two_rooms only")
        training_world, layout = ReacherTrainingWorld(), ""
    else:
        training_world = TwoRoomsTrainingWorld(arguments.layout or "random")
        layout = f" --layout {training_world.kind}"
    return train_and_bundle(
        arguments.out,
        training_world,
        command=f"jepa-export train {arguments.world}{layout} --seed {arguments.seed}"
        + " --distil" * arguments.distil,
        seed=arguments.seed,
        episodes=arguments.episodes,
        distilled=arguments.distil,
    )
