"""Decides, without touching anything, what is to be done to a root."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jepa_runtime.system_files.entries import File, Item, Journal, Link, Obstacle
from jepa_runtime.system_files.shipped import Shipped
from jepa_runtime.util.compat import StrEnum


class Action(StrEnum):
    """What a file of ours meets at its place."""

    NEW = "new"
    CHANGED = "changed"
    SAME = "same"
    CONFLICT = "conflict"
    BLOCKED = "blocked"


TO_DO = (Action.NEW, Action.CHANGED)


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """What is to be done at one path.

    Attributes:
        found: lies there; None: nothing, or what :attr:`why` says.
        why: what makes it a conflict, or blocks it.
    """

    file: Shipped
    action: Action
    found: Item = None
    why: str = ""

    def diff(self) -> str:
        """From what is there to ours, as a unified diff; for a new file all of it."""
        return "\n".join(
            difflib.unified_diff(
                _lines(self.found),
                self.file.content.decode(errors="replace").splitlines(),
                f"{self.file.path} (there)",
                f"{self.file.path} ({self.file.device})",
                lineterm="",
            )
        )


def plan(
    files: Iterable[Shipped], found: Mapping[str, Item | Obstacle], journal: Journal | None
) -> list[FileChange]:
    """What to do for each of ``files``, given what lies at its path and what was installed before."""
    return [_change(file, found[file.path], journal or Journal()) for file in files]


def _change(file: Shipped, found: Item | Obstacle, journal: Journal) -> FileChange:
    if isinstance(found, Obstacle):
        return FileChange(file=file, action=Action.BLOCKED, why=found.why)
    entry = journal.entries.get(file.path)
    if isinstance(found, File) and (found.content, found.mode) == (file.content, file.mode):
        return FileChange(file=file, action=Action.SAME, found=found)
    if entry is not None and entry.is_changed(found):
        why = "was removed" if found is None else "was changed"
        return FileChange(file=file, action=Action.CONFLICT, found=found, why=f"{why} since it was installed")
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
    """What makes a running system take notice that files changed, in the order in which to do it."""
    changed = list(paths)
    return [step for folder, step in _NEXT if any(path.startswith(folder) for path in changed)]


def _lines(found: Item) -> list[str]:
    if isinstance(found, Link):
        return [f"(a symbolic link to {found.target.decode(errors='replace')})"]
    return [] if found is None else found.content.decode(errors="replace").splitlines()
