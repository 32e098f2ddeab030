"""``jepa-runtime update``: sets a robot up for updates over the air, makes them, and says how they stand."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.bundle import Precision
from jepa_runtime.commands.arguments import add_json_argument, count

_ROOT = Path("/var/lib/jepa-edge")
_EPILOG = (
    "Exit status: 0 done or nothing to do, 1 error, 3 a release was refused or rolled back, 4 undecided: the "
    "machine was too busy to judge a release, which is tried again soon, 5 `status` found an alarm."
)


def add_parser(subparsers: Any) -> None:
    """Add ``update`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "update",
        help="get models over the air: signed, tried before they serve, taken back if they fail",
        description="Get models from a signed repository, try them, switch to them and go back if they fail.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    _add_provision(actions)
    check = _add(actions, "check", "say whether there is an update, without installing it", as_json=True)
    apply = _add(actions, "apply", "end the update in work, or look for one and install it", as_json=True)
    for action in (check, apply):
        action.add_argument(
            "--from", dest="source", type=Path, metavar="DIR", help="from a folder, such as a USB stick"
        )
        action.add_argument("--again", action="store_true", help="also what was refused before")
        action.add_argument(
            "--any-interface", action="store_true", help="also other actions, limits or steps than now"
        )
    _add(actions, "status", "say what serves, and how the last update went", as_json=True)
    rollback = _add(actions, "rollback", "go back to what served before", as_json=True)
    rollback.add_argument("--reason", default="by hand", help="for the log (default: %(default)s)")
    _add(actions, "approve", "let the candidate that waits for it be switched to")
    cancel = _add(actions, "cancel", "drop the update in work, if it has not switched yet", as_json=True)
    cancel.add_argument("--reason", default="by hand", help="for the log (default: %(default)s)")
    _add(actions, "pin", "stay with what serves; what is revoked makes way all the same")
    _add(actions, "unpin", "take updates again")
    history = _add(actions, "history", "show what happened", as_json=True)
    history.add_argument("-n", type=count, default=30, metavar="N", help="entries (default: %(default)s)")
    _add(actions, "daemon", "look for updates again and again, until SIGTERM")
    _add(actions, "verify", "check what lies on the disk: slots, links, state, log", as_json=True)


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        JepaRuntimeError: it failed.
    """
    # What is signed is checked with libraries that take longer to import than the other commands to start.
    from jepa_runtime.commands import update_actions

    return update_actions.run(args)


def _add(actions: Any, name: str, what: str, *, as_json: bool = False) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=_EPILOG
    )
    parser.add_argument(
        "--root", type=Path, default=_ROOT, metavar="DIR", help="the robot's folder (default: %(default)s)"
    )
    if as_json:
        add_json_argument(parser, "the outcome")
    parser.set_defaults(run=run)
    return parser


def _add_provision(actions: Any) -> None:
    parser = _add(actions, "provision", "set up the folder of a robot", as_json=True)
    parser.add_argument(
        "--trusted-root", type=Path, metavar="FILE", help="the repository's root.json, from a trusted source"
    )
    parser.add_argument("--repository", metavar="URL", help="where it is: http(s), or a folder")
    parser.add_argument("--targets", metavar="URL", help="where its targets are, if not there")
    parser.add_argument("--channel", metavar="NAME", default="stable", help="default: %(default)s")
    parser.add_argument("--model", metavar="ID", help="the model that is to run")
    parser.add_argument("--device-id", metavar="ID", help="the robot's name (default: this host's)")
    parser.add_argument(
        "--hardware", action="append", metavar="ID", help="what kind of robot it is; may be given again"
    )
    parser.add_argument("--engine", default=DEFAULT_ENGINE, metavar="E", help="default: %(default)s")
    parser.add_argument("--precision", choices=get_args(Precision), help="default: the bundle's first")
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="the model that it has from the start")
    parser.add_argument("--allow-untrained", action="store_true", help="accept random weights, for tests")
    parser.add_argument(
        "--rebuild", action="store_true", help="make the state again from the slots, where it was lost"
    )
