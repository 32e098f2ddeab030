"""jepa-export train-predictor: train an action-conditioned predictor on a frozen encoder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jepa_export.commands.distill import add_common_arguments, common_fields, run_training
from jepa_runtime.commands import bundle_location


def _encoder(text: str) -> Any:
    """Parse ``--encoder``: the address of a bundle, or the text of a folder or a teacher."""
    location = bundle_location(text)
    return text if isinstance(location, Path) else location


def add_parser(subparsers: Any) -> None:
    """Add ``train-predictor`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "train-predictor",
        description="Train a predictor of your robot's actions on a frozen encoder, and write the bundle of "
        "both. The same command resumes from the last checkpoint and does not repeat finished measurements "
        "and graphs.",
    )
    parser.add_argument(
        "--encoder",
        type=_encoder,
        required=True,
        metavar="FOLDER|BUNDLE|NAME[=CHECKPOINT]",
        help="output folder of jepa-export distill; or a bundle (its folder, or hf://org/name[@revision]), "
        "whose encoder is kept in every variant; or a teacher, whose tokens are averaged to at most 16",
    )
    parser.add_argument(
        "--student",
        default="vit_s",
        help="student whose predictor is trained on the encoder of a bundle or a teacher (default: "
        "%(default)s)",
    )
    add_common_arguments(parser)
    parser.add_argument("--action-free", action="store_true", help="train on data without actions")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from jepa_export.distillation.distill import train_predictor
    from jepa_export.distillation.requests import PredictorRequest

    request = PredictorRequest(
        encoder=str(arguments.encoder),
        action_free=arguments.action_free,
        **common_fields(arguments, "train-predictor"),
    )
    return run_training(lambda progress: train_predictor(request, progress))
