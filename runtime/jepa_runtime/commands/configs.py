"""``jepa-runtime configs``: installs the system files of a robot, and takes them back."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from jepa_runtime.commands.arguments import add_json_argument
from jepa_runtime.system_files.shipped import DEVICES

_EPILOG = "Exit status: 0 done or nothing to do, 1 error, 3 (plan) there is something to do."


def add_parser(subparsers: Any) -> None:
    """Add ``configs`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "configs",
        help="install the system files of a robot (units, limits, DDS, clocks), or take them back",
        description="Install the system files that jepa-edge carries, all or none, or take them back to the "
        "byte. Nothing is loaded or started: what is to be done for that is printed.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    plan = _add(actions, "plan", "show what would be installed")
    apply = _add(actions, "apply", "install the files; what was there is kept for undo")
    for action in (plan, apply):
        action.add_argument(
            "--device",
            action="append",
            choices=DEVICES,
            help="which files; may be given again (default: common alone)",
        )
    undo = _add(actions, "undo", "make the root what it was before the first apply")
    for action in (apply, undo):
        action.add_argument(
            "--keep-changed",
            action="store_true",
            help="leave files that were changed since they were installed as they are, instead of refusing; "
            "undo then puts what was there before beside them, as NAME.before-jepa-edge",
        )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        SystemFilesError: it failed.
    """
    # Other commands start without what only this one needs.
    from jepa_runtime.commands import configs_actions

    return configs_actions.run(args)


def _add(actions: Any, name: str, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=_EPILOG
    )
    parser.add_argument(
        "--root", type=_folder, default=Path("/"), metavar="DIR", help="the target (default: %(default)s)"
    )
    add_json_argument(parser, "the outcome")
    parser.set_defaults(run=run)
    return parser


def _folder(text: str) -> Path:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return Path(text)
