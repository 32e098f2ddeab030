"""``jepa-runtime configs``: install the system files of a robot, or remove them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax

from jepa_runtime.commands.exit_status import ExitStatus
from jepa_runtime.errors import SystemFilesError
from jepa_runtime.system_files import transaction
from jepa_runtime.system_files.change_plan import TO_DO, Action, FileChange, next_steps
from jepa_runtime.system_files.entries import File
from jepa_runtime.system_files.shipped import DEVICES, find_shipped
from jepa_runtime.system_files.transaction import Undone
from jepa_runtime.util.output_files import STDOUT, write_json

_DEFAULT = DEVICES[:1]
_HINT = (
    f"only the files for every robot: --device adds {' or '.join(DEVICES[1:])} (together with --device "
    "common)"
)
_STYLES = {Action.NEW: "green", Action.CHANGED: "yellow", Action.SAME: "dim"}
_DIFFER = (Action.CHANGED, Action.CONFLICT)


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        SystemFilesError: The files cannot be installed or restored.
    """
    if args.action != "plan" and os.path.samefile(args.root, "/") and os.geteuid() != 0:
        raise SystemFilesError(
            "/: only root may change it: run this with sudo, or choose another --root",
            code="system_files.not_root",
        )
    return {"plan": _plan, "apply": _apply, "undo": _undo}[args.action](args, Console(highlight=False))


def _plan(args: argparse.Namespace, console: Console) -> int:
    changes = transaction.preview(args.root, find_shipped(args.device or _DEFAULT))
    _show(args, console, changes)
    unchanged = all(change.action is Action.SAME for change in changes)
    return ExitStatus.OK if unchanged else ExitStatus.NEGATIVE


def _apply(args: argparse.Namespace, console: Console) -> int:
    files = find_shipped(args.device or _DEFAULT)
    changes = transaction.apply(args.root, files, keep_changed=args.keep_changed)
    _show(args, console, changes)
    if args.json != STDOUT:
        _show_next(console, _next(changes))
    return ExitStatus.OK


def _undo(args: argparse.Namespace, console: Console) -> int:
    undone = transaction.undo(args.root, keep_changed=args.keep_changed)
    steps = next_steps([*undone.restored, *undone.removed])
    if args.json is not None:
        write_json(args.json, {"root": str(args.root), **asdict(undone), "next": steps})
    if args.json == STDOUT:
        return ExitStatus.OK
    for outcome, paths in asdict(undone).items():
        for path in paths:
            console.print(f"{outcome:9} {escape(path)}")
    if undone == Undone():
        console.print("nothing is installed")
    _show_next(console, steps)
    return ExitStatus.OK


def _show(args: argparse.Namespace, console: Console, changes: Sequence[FileChange]) -> None:
    if args.json is not None:
        files = [_as_dict(change) for change in changes]
        write_json(args.json, {"root": str(args.root), "files": files, "next": _next(changes)})
    if args.json == STDOUT:
        return
    for change in changes:
        style = _STYLES.get(change.action, "bold red")
        why = f": {escape(change.reason)}" if change.reason else ""
        console.print(f"[{style}]{change.action:9}[/] {escape(change.file.path)}{_modes(change)}{why}")
        if args.action == "plan" and change.action in _DIFFER:
            console.print(Syntax(change.diff(), "diff", background_color="default", word_wrap=True))
    if args.device is None:
        console.print(_HINT)


def _as_dict(change: FileChange) -> dict[str, str]:
    return {
        "path": change.file.path,
        "device": change.file.device,
        "action": change.action,
        "reason": change.reason,
        "diff": change.diff() if change.action in _DIFFER else "",
    }


def _modes(change: FileChange) -> str:
    if not isinstance(change.found, File) or change.found.mode == change.file.mode:
        return ""
    return f" (mode {change.found.mode:04o} to {change.file.mode:04o})"


def _next(changes: Sequence[FileChange]) -> list[str]:
    return next_steps(change.file.path for change in changes if change.action in TO_DO)


def _show_next(console: Console, steps: Sequence[str]) -> None:
    if steps:
        console.print("to apply this to the running system:", *steps, sep="\n    ")
