"""Decide what an installation would change, without changing anything."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jepa_runtime.system_files.entries import File, Item, Journal, Link, Obstacle
from jepa_runtime.system_files.shipped import Shipped
from jepa_runtime.util.compat import StrEnum


class Action(StrEnum):
    """How a shipped file compares with what is at its path."""

    NEW = "new"
    CHANGED = "changed"
    SAME = "same"
    CONFLICT = "conflict"
    BLOCKED = "blocked"


TO_DO = (Action.NEW, Action.CHANGED)


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """The planned change of one path.

    Attributes:
        file: The file to install.
        action: What installing it means.
        found: What exists at the path; None if nothing does, or if :attr:`reason` describes it.
        reason: Why the file is in conflict or blocked, or an empty string.
    """

    file: Shipped
    action: Action
    found: Item = None
    reason: str = ""

    def diff(self) -> str:
        """Return a unified diff from the existing to the shipped file."""
        return "\n".join(
            difflib.unified_diff(
                _lines(self.found),
                self.file.content.decode(errors="replace").splitlines(),
                f"{self.file.path} (installed)",
                f"{self.file.path} ({self.file.device})",
                lineterm="",
            )
        )


def plan(
    files: Iterable[Shipped], found: Mapping[str, Item | Obstacle], journal: Journal | None
) -> list[FileChange]:
    """Return the change of each file.

    Args:
        files: The files to install.
        found: What exists at the path of each file.
        journal: The record of previous installations, or None.
    """
    return [_change(file, found[file.path], journal or Journal()) for file in files]


def _change(file: Shipped, found: Item | Obstacle, journal: Journal) -> FileChange:
    if isinstance(found, Obstacle):
        return FileChange(file=file, action=Action.BLOCKED, reason=found.reason)
    entry = journal.entries.get(file.path)
    if isinstance(found, File) and (found.content, found.mode) == (file.content, file.mode):
        return FileChange(file=file, action=Action.SAME, found=found)
    if entry is not None and entry.is_changed(found):
        reason = f"was {'removed' if found is None else 'changed'} since it was installed"
        return FileChange(file=file, action=Action.CONFLICT, found=found, reason=reason)
    action = Action.NEW if found is None else Action.CHANGED
    return FileChange(file=file, action=action, found=found)


_NEXT = (
    ("etc/sysusers.d/", "systemd-sysusers"),
    ("etc/tmpfiles.d/", "systemd-tmpfiles --create"),
    ("etc/systemd/system/", "systemctl daemon-reload"),
    ("etc/systemd/journald.conf.d/", "systemctl restart systemd-journald"),
    ("etc/sysctl.d/", "sysctl --system"),
    ("etc/modules-load.d/", "systemctl restart systemd-modules-load"),
    ("etc/udev/rules.d/", "udevadm control --reload && udevadm trigger"),
    ("etc/security/limits.d/", "log in again"),
)


def next_steps(paths: Iterable[str]) -> list[str]:
    """Return the commands that apply changed files to the running system, in order."""
    changed = list(paths)
    return [step for folder, step in _NEXT if any(path.startswith(folder) for path in changed)]


def _lines(found: Item) -> list[str]:
    if isinstance(found, Link):
        return [f"(a symbolic link to {found.target.decode(errors='replace')})"]
    return [] if found is None else found.content.decode(errors="replace").splitlines()
