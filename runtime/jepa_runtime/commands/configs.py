"""``jepa-runtime configs``: installs the system files of a robot, and takes them back."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax

from jepa_runtime.configs import transaction
from jepa_runtime.configs.items import File
from jepa_runtime.configs.planning import Action, Change, next_steps
from jepa_runtime.configs.shipped import DEVICES, shipped
from jepa_runtime.configs.transaction import BESIDE, Undone
from jepa_runtime.errors import ConfigsError

_SOMETHING_TO_DO = 3
_DEFAULT = ("common",)
_EPILOG = "Exit status: 0 done or nothing to do, 1 error, 3 (plan) there is something to do."
_STYLES = {Action.NEW: "green", Action.CHANGED: "yellow", Action.SAME: "dim"}


def add_parser(subparsers: Any) -> None:
    """Add ``configs`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "configs",
        help="install the system files of a robot (units, limits, DDS, clocks), or take them back",
        description="Install the system files that jepa-edge carries, all or none, or take them back to the "
        "byte. Nothing is loaded or started: what is to be done for that is printed.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    plan = _add(actions, "plan", "show what would be installed", _plan)
    apply = _add(actions, "apply", "install the files; each that was there is kept for undo", _apply)
    for action in (plan, apply):
        action.add_argument(
            "--device",
            action="append",
            choices=DEVICES,
            help="which files; may be given again (default: common alone)",
        )
    undo = _add(actions, "undo", "make the root what it was before the first apply", _undo)
    for action in (apply, undo):
        action.add_argument(
            "--keep-changed",
            action="store_true",
            help="leave files that were changed since they were installed as they are, instead of refusing; "
            f"undo then puts what was there before beside them, as NAME{BESIDE}",
        )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        ConfigsError: it failed.
    """
    if args.action is not _plan and os.path.samefile(args.root, "/") and os.geteuid() != 0:
        raise ConfigsError("/: only root may change it: run this with sudo, or on another --root")
    action: Callable[[argparse.Namespace, Console], int] = args.action
    return action(args, Console(stderr=args.json, highlight=False))


def _add(
    actions: Any, name: str, what: str, action: Callable[[argparse.Namespace, Console], int]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=_EPILOG
    )
    parser.add_argument(
        "--root",
        type=_folder,
        default=Path("/"),
        metavar="DIR",
        help="the target's root (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.set_defaults(run=run, action=action)
    return parser


def _folder(text: str) -> Path:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return Path(text)


def _plan(args: argparse.Namespace, console: Console) -> int:
    changes = transaction.look(args.root, shipped(args.device or _DEFAULT))
    _show(console, changes, diffs=True)
    if args.json:
        _print_changes(args, changes)
    elif args.device is None:
        console.print(_HINT)
    return 0 if all(change.action is Action.SAME for change in changes) else _SOMETHING_TO_DO


def _apply(args: argparse.Namespace, console: Console) -> int:
    files = shipped(args.device or _DEFAULT)
    changes = transaction.apply(args.root, files, keep_changed=args.keep_changed)
    _show(console, changes, diffs=False)
    if args.json:
        _print_changes(args, changes)
    elif args.device is None:
        console.print(_HINT)
    _show_next(console, _done(changes))
    return 0


def _undo(args: argparse.Namespace, console: Console) -> int:
    undone = transaction.undo(args.root, keep_changed=args.keep_changed)
    for what, paths in (("restored", undone.restored), ("removed", undone.removed), ("kept", undone.kept)):
        for path in paths:
            console.print(f"{what:9} {escape(path)}")
    if undone == Undone():
        console.print("nothing is installed")
    if args.json:
        told = {what: list(getattr(undone, what)) for what in ("restored", "removed", "kept")}
        print(json.dumps({"root": str(args.root), **told, "next": next_steps(_taken(undone))}, indent=2))
    _show_next(console, _taken(undone))
    return 0


_HINT = f"only what every robot gets: --device adds {' or '.join(DEVICES[1:])} (say --device common too)"


def _show(console: Console, changes: Sequence[Change], *, diffs: bool) -> None:
    for change in changes:
        style = _STYLES.get(change.action, "bold red")
        why = f": {escape(change.why)}" if change.why else ""
        console.print(f"[{style}]{change.action:9}[/] {escape(change.file.path)}{_modes(change)}{why}")
        if diffs and change.action in (Action.CHANGED, Action.CONFLICT):
            console.print(Syntax(change.diff(), "diff", background_color="default", word_wrap=True))


def _modes(change: Change) -> str:
    if not isinstance(change.found, File) or change.found.mode == change.file.mode:
        return ""
    return f" (mode {change.found.mode:04o} to {change.file.mode:04o})"


def _show_next(console: Console, paths: Sequence[str]) -> None:
    steps = next_steps(paths)
    if steps:
        console.print("to let the running system know:", *steps, sep="\n    ")


def _done(changes: Sequence[Change]) -> list[str]:
    return [change.file.path for change in changes if change.action in (Action.NEW, Action.CHANGED)]


def _taken(undone: Undone) -> list[str]:
    return [*undone.restored, *undone.removed]


def _print_changes(args: argparse.Namespace, changes: Sequence[Change]) -> None:
    files = [
        {
            "path": change.file.path,
            "device": change.file.device,
            "action": change.action,
            "why": change.why,
            "diff": change.diff() if change.action in (Action.CHANGED, Action.CONFLICT) else "",
        }
        for change in changes
    ]
    print(json.dumps({"root": str(args.root), "files": files, "next": next_steps(_done(changes))}, indent=2))
