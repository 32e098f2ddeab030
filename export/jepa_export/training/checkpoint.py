"""What a run keeps on disk besides its tables: checkpoints, and the settings that its folder belongs to; and
that no other process trains there meanwhile."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

import torch

from jepa_export.errors import JepaExportError

SETTINGS = "settings.json"
# Of this process, by folder: one is let go when its file is closed.
_LOCKS: dict[Path, IO[bytes]] = {}


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint: whole, or not at all.

    Raises:
        JepaExportError: it cannot be written.
    """
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    # Torch's writer reports a full disk as an error of its own.
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise JepaExportError(
            f"{path}: cannot be written ({str(error).splitlines()[0]}): the checkpoint before it is kept; "
            "make room, and the same command goes on from there"
        ) from error


def load(path: Path) -> dict[str, Any]:
    """What :func:`save` wrote.

    Raises:
        JepaExportError: it cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    # Strange bytes make the unpickler fail in any way.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise JepaExportError(
            f"{path}: no checkpoint, or a damaged one ({reason}): remove it to start this stage over"
        ) from error
    return state


def alone(folder: Path) -> None:
    """Keep other processes from training in ``folder`` until this one ends.

    Raises:
        JepaExportError: one does, or it cannot be written.
    """
    if (place := folder.resolve()) in _LOCKS:
        return
    try:
        file = (folder / ".lock").open("wb")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise JepaExportError(
            f"another process is training in {folder}: let it finish, stop it, or choose another --out"
        ) from error
    except OSError as error:
        raise JepaExportError(
            f"{folder}: cannot be written: {error.strerror}: choose another --out"
        ) from error
    _LOCKS[place] = file


def claim(folder: Path, settings: dict[str, Any], *, write: bool) -> None:
    """Refuse a folder that holds a run of other settings, among those that were known when it began; mark one
    without as of these.

    Raises:
        JepaExportError: it does, or cannot be written.
    """
    note = folder / SETTINGS
    text = json.dumps(settings, indent=2) + "\n"
    try:
        if not note.exists():
            if write:
                folder.mkdir(parents=True, exist_ok=True)
                partial = note.with_suffix(".partial")
                partial.write_text(text)
                os.replace(partial, note)
            return
        before = dict(json.loads(note.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise JepaExportError(f"{note}: cannot be read or written ({error}): choose another --out") from error
    now = json.loads(text)
    differ = [
        f"{name} {before[name]!r} (now {now.get(name)!r})"
        for name in sorted(before)
        if before[name] != now.get(name)
    ]
    if differ:
        raise JepaExportError(
            f"{folder} holds a run of other settings: {', '.join(differ)}; give the same, choose another "
            "--out, or remove the folder to start over"
        )
