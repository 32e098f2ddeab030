"""The command ``jepa-export``."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence

import jepa_runtime
from jepa_export.errors import JepaExportError
from jepa_runtime.commands import Command, Program, interrupted_by_signals

_COMMANDS = "jepa_export.commands"


def _invoke(arguments: argparse.Namespace) -> int:
    """Run the command of parsed arguments, whose ``needs``, if any, names the packages that it imports."""
    missing = [name for name in getattr(arguments, "needs", ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise JepaExportError(
            f"{', '.join(missing)} not installed: run pip install 'jepa-edge[export]'",
            code="export.extra_missing",
        )
    with interrupted_by_signals():
        return int(arguments.run(arguments))


PROGRAM = Program(
    name="jepa-export",
    description="Train, export and release world models for jepa-runtime.",
    version=jepa_runtime.__version__,
    groups={
        "Train a model": [
            Command(
                "train",
                "train a model from scratch in a simulated world",
                f"{_COMMANDS}.train",
                has_config=True,
            ),
            Command(
                "distill",
                "train a student of a teacher on recordings",
                f"{_COMMANDS}.distill",
                has_config=True,
            ),
            Command(
                "train-predictor",
                "train a predictor of your robot's actions on a frozen encoder",
                f"{_COMMANDS}.train_predictor",
                has_config=True,
            ),
        ],
        "Build a bundle": [
            Command(
                "build", "build the bundle of a student or a teacher", f"{_COMMANDS}.build", has_config=True
            ),
            Command(
                "bundle",
                "make a bundle of your own encoder and predictor",
                f"{_COMMANDS}.bundle",
                has_config=True,
            ),
            Command("add-variant", "add variants for other devices to a bundle", f"{_COMMANDS}.add_variant"),
            Command("compile-npu", "compile the NPU variants of a bundle", f"{_COMMANDS}.compile_npu"),
            Command("atlas", "add frames to show latents as images", f"{_COMMANDS}.atlas"),
        ],
        "Evaluate and release": [
            Command("evaluate", "measure the variants of a bundle", f"{_COMMANDS}.evaluate", has_config=True),
            Command("push", "upload a bundle to the Hugging Face Hub", f"{_COMMANDS}.push"),
            Command("release", "publish signed model releases for robots", f"{_COMMANDS}.release"),
        ],
        "Use a shell": [
            Command(
                "completion",
                "print a completion script for bash or zsh",
                "jepa_runtime.commands.parsers.completion",
            ),
        ],
    },
    invoke=_invoke,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Its arguments (default: those of the process).

    Returns:
        The exit status, see :mod:`~jepa_runtime.commands.exit_status`.
    """
    return PROGRAM.main(argv)
