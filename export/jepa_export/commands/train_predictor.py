"""jepa-export train-predictor: what a robot's own actions change, on any frozen encoder."""

from __future__ import annotations

import argparse
from typing import Any

from jepa_export.commands.distill import add_common, common, finish


def add_parser(subparsers: Any) -> None:
    """Add ``train-predictor`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "train-predictor",
        help="train a predictor of your robot's actions on a frozen encoder, and write the bundle of both",
        description="The encoder stays as it is; a predictor learns from frames and actions what comes next.",
    )
    parser.add_argument(
        "--encoder",
        required=True,
        metavar="FOLDER|BUNDLE|NAME[=CHECKPOINT]",
        help="the --out of jepa-export distill; a bundle, whose encoder stays in every form; or a teacher, "
        "whose tokens are averaged to at most 16",
    )
    parser.add_argument(
        "--student",
        default="vit_s",
        help="whose predictor goes with the encoder of a bundle or a teacher (%(default)s)",
    )
    add_common(parser)
    parser.add_argument("--action-free", action="store_true", help="the data has no actions")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from jepa_export.distillation.distill import train_predictor
    from jepa_export.distillation.requests import PostTraining

    asked = PostTraining(
        encoder=arguments.encoder,
        action_free=arguments.action_free,
        **common(arguments, "train-predictor"),
    )
    return finish(lambda progress: train_predictor(asked, progress))
