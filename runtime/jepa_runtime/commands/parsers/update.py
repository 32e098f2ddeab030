"""The options of ``jepa-runtime update``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.commands.arguments import add_bundle_argument, add_json_argument, count
from jepa_runtime.util.precision import PRECISIONS

_ROBOT = Path("/var/lib/jepa-edge")
_EPILOG = (
    "Exit status: 0 success or nothing to do, 1 error, 3 a release was rejected or rolled back, 4 undecided: "
    "the machine was too busy to assess a release, which is retried soon, 5 `status` found an alarm."
)


def add_parser(subparsers: Any) -> None:
    """Add ``update`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "update",
        help="update models over the air: signed, tested before the switch, rolled back on failure",
        description="Install models from a signed repository, test them, switch to them, and roll back on "
        "failure.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    _add_provision(actions)
    check = _add(actions, "check", "check for an update without installing it", as_json=True)
    apply = _add(actions, "apply", "finish the update in progress, or install an available one", as_json=True)
    for action in (check, apply):
        action.add_argument(
            "--from",
            dest="source",
            type=Path,
            metavar="DIR",
            help="use a repository in a folder, such as a USB stick (default: the configured repository)",
        )
        action.add_argument(
            "--retry-rejected",
            action="store_true",
            help="retry releases that were rejected earlier",
        )
        action.add_argument(
            "--any-interface",
            action="store_true",
            help="accept releases with other actions, limits or steps, and without poses",
        )
    _add(actions, "status", "show the active model and the last update", as_json=True)
    rollback = _add(actions, "rollback", "go back to the previous model", as_json=True)
    rollback.add_argument("--reason", default="manual", help="reason for the log (default: %(default)s)")
    _add(actions, "approve", "approve the switch to the waiting candidate")
    cancel = _add(actions, "cancel", "drop the update in progress if it has not switched yet", as_json=True)
    cancel.add_argument("--reason", default="manual", help="reason for the log (default: %(default)s)")
    _add(actions, "pin", "stay with the active model; a revoked model is rolled back all the same")
    _add(actions, "unpin", "enable updates again")
    history = _add(actions, "history", "show the audit log", as_json=True)
    history.add_argument(
        "-n", type=count, default=30, metavar="N", help="number of entries (default: %(default)s)"
    )
    _add(actions, "daemon", "check for updates periodically until SIGTERM")
    _add(actions, "verify", "verify the slots, links, state and log on disk", as_json=True)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import update

    return update.run(args)


def _add(actions: Any, name: str, what: str, *, as_json: bool = False) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=_EPILOG
    )
    parser.add_argument(
        "--robot", type=Path, default=_ROBOT, metavar="DIR", help="the robot's folder (default: %(default)s)"
    )
    if as_json:
        add_json_argument(parser, "the result")
    parser.set_defaults(run=_run)
    return parser


def _add_provision(actions: Any) -> None:
    parser = _add(actions, "provision", "set up the folder of a robot", as_json=True)
    add_bundle_argument(parser, "factory model", required=False, local=True)
    parser.add_argument(
        "--trusted-root", type=Path, metavar="FILE", help="root.json of the repository, from a trusted source"
    )
    parser.add_argument("--repository", metavar="URL", help="http(s) address or folder of the repository")
    parser.add_argument(
        "--targets", metavar="URL", help="address of its targets (default: below --repository)"
    )
    parser.add_argument(
        "--channel", metavar="NAME", default="stable", help="channel to follow (default: %(default)s)"
    )
    parser.add_argument("--model", metavar="ID", help="model to run")
    parser.add_argument("--device-id", metavar="ID", help="name of the robot (default: the host name)")
    parser.add_argument("--hardware", action="append", metavar="ID", help="hardware type; may be repeated")
    parser.add_argument(
        "--engine", default=DEFAULT_ENGINE, metavar="E", help="engine and device (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="precision (default: the first of the bundle that the engine can run)",
    )
    parser.add_argument("--allow-untrained", action="store_true", help="accept random weights, for tests")
    parser.add_argument("--rebuild", action="store_true", help="rebuild a lost state from the slots")
