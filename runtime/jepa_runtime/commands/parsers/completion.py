"""The options of ``completion``, which both programs have."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add ``completion`` to the commands of a program."""
    parser = subparsers.add_parser(
        "completion",
        description="Print a script that completes commands, options and file names in a shell. Write it to "
        "a file once, and again after an update of the package.",
        epilog="File for bash: ~/.local/share/bash-completion/completions/PROGRAM; for zsh: _PROGRAM in a "
        "folder of $fpath.",
    )
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import completion

    return completion.run(args)
