"""``completion``: print a completion script for a shell."""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab

from jepa_runtime.commands.arguments import (
    binary_output,
    bundle_location,
    local_bundle,
    mcap_file,
    text_output,
)

_FILE_TYPES = (Path, bundle_location, local_bundle, binary_output, mcap_file, text_output)
# Options whose value may be a file, but need not be.
_FILE_OPTIONS = ("json", "source", "goal", "data", "calibration", "checkpoint")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    parser: argparse.ArgumentParser = args.program.parser()
    _prepare(parser)
    print(shtab.complete(parser, args.shell))
    return 0


def _prepare(parser: argparse.ArgumentParser) -> None:
    """Mark in all commands where a file name is completed, and describe the commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            # The program lists its commands itself; shtab leaves out what has no help.
            action.help = "command"
            described = {choice.dest for choice in action._choices_actions}
            for name, command in action.choices.items():
                if name not in described:
                    summary = (command.description or name).partition(". ")[0]
                    action._choices_actions.append(action._ChoicesPseudoAction(name, (), summary))
                _prepare(command)
        elif action.type in _FILE_TYPES or action.dest in _FILE_OPTIONS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
