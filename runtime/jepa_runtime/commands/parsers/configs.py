"""The options of ``jepa-runtime configs``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from jepa_runtime.commands.arguments import add_json_argument
from jepa_runtime.system_files.shipped import DEVICES

_EPILOG = "Exit status: 0 done, or nothing to do; 1 error; 3 `plan` found changes to make."


def add_parser(subparsers: Any) -> None:
    """Add ``configs`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "configs",
        description="Install the system files of jepa-edge (systemd units, limits, DDS, clocks), all or "
        "none, or restore the previous state of the root. No unit is loaded or started: the commands for "
        "that are printed.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    plan = _add(actions, "plan", "show the changes that apply would make")
    apply = _add(actions, "apply", "install the files, and back up those that they replace")
    for action in (plan, apply):
        action.add_argument(
            "--device",
            action="append",
            choices=DEVICES,
            help="files to install; repeatable (default: common)",
        )
    undo = _add(actions, "undo", "restore the root as it was before the first apply")
    for action in (apply, undo):
        action.add_argument(
            "--keep-changed",
            action="store_true",
            help="keep files that were changed since they were installed, instead of failing; undo then "
            "writes the previous content next to them, to NAME.before-jepa-edge",
        )


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import configs

    return configs.run(args)


def _add(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=_EPILOG
    )
    parser.add_argument(
        "--root", type=_folder, default=Path("/"), metavar="DIR", help="root folder (default: %(default)s)"
    )
    add_json_argument(parser, "the outcome")
    parser.set_defaults(run=_run)
    return parser


def _folder(text: str) -> Path:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return Path(text)
