"""Options and defaults that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from jepa_export.commands import number_types
from jepa_export.targets.registry import default_target_names, target_names

if TYPE_CHECKING:
    from jepa_export.teachers.checkpoints import Settings

# Packages without which a command cannot run; see jepa_export.cli.
REQUIRED = ("torch", "onnx", "nncf", "scipy")
# What a command prints after Ctrl-C.
NOTHING_WRITTEN = "interrupted: nothing was written"
RESUMES = "interrupted: the same command resumes from the last checkpoint"


def add_output_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the required option ``--output``, stored as ``out``, with the help ``text``."""
    parser.add_argument("-o", "--output", type=Path, required=True, dest="out", metavar="FOLDER", help=text)


def add_variant_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--target`` and ``--only``; see :func:`jepa_export.bundling.variants.select_variants`."""
    group = parser.add_mutually_exclusive_group()
    add_target_argument(group)
    group.add_argument(
        "--only", metavar="TARGET/PRECISION", help="the only variant of the bundle, such as openvino/int8"
    )


def add_target_argument(parser: argparse._ActionsContainer) -> None:
    """Add ``--target`` to a parser or a group; see :func:`targets_of`."""
    defaults = " and ".join(default_target_names())
    parser.add_argument(
        "--target",
        action="append",
        choices=target_names(),
        help=f"target of the bundle; repeatable (default: {defaults})",
    )


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for teachers of any size; see :func:`settings_of`."""
    group = parser.add_argument_group(
        "options for teachers of any size",
        "The teachers vjepa2, vjepa2_1, vjepa2_ac and ijepa have the sizes of their checkpoint. What the "
        "weights do not show comes from the configuration of the training, or from these options.",
    )
    group.add_argument(
        "--training-config",
        type=Path,
        metavar="FILE",
        help="configuration of the training, in YAML, or config.json of a port (default: "
        "params-pretrain.yaml, params-ijepa.yaml or config.json next to the checkpoint)",
    )
    group.add_argument(
        "--heads",
        type=number_types.positive_count,
        metavar="N",
        help="attention heads of the encoder (default: as in the configuration, or in the official "
        "architecture of this width and depth)",
    )
    group.add_argument(
        "--predictor-heads",
        type=number_types.positive_count,
        metavar="N",
        help="attention heads of the predictor (default: as in the configuration)",
    )
    group.add_argument(
        "--resolution",
        type=number_types.frame_size,
        metavar="PX",
        help="side of the teacher's frames in pixels, or HEIGHTxWIDTH (default: as in the training)",
    )
    group.add_argument(
        "--max-frames",
        type=number_types.positive_count,
        metavar="N",
        help="frames in the longest clip of the teacher (default: as in the training)",
    )


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return the values of the options for teachers of any size."""
    from jepa_export.teachers.checkpoints import Settings

    return Settings(
        heads=arguments.heads,
        predictor_heads=arguments.predictor_heads,
        frame_size=arguments.resolution,
        frames=arguments.max_frames,
        training_config=arguments.training_config,
    )


def targets_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the selected targets without duplicates; empty: the default."""
    return tuple(dict.fromkeys(arguments.target or ()))
