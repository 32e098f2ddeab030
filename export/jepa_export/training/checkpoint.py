"""The folder of a training run: checkpoints, settings, and a lock against a second process."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

import torch

from jepa_export.errors import JepaExportError
from jepa_runtime.util import atomic_files

SETTINGS = "settings.json"
# Lock files of this process, by folder; closing the file releases the lock.
_LOCKS: dict[Path, IO[bytes]] = {}


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint atomically.

    Raises:
        JepaExportError: It cannot be written.
    """
    atomic_files.remove_unfinished(path)
    try:
        with atomic_files.replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    # Torch's writer raises RuntimeError when the disk is full.
    except (OSError, RuntimeError) as error:
        raise JepaExportError(
            f"{path}: cannot be written: {str(error).splitlines()[0]}; the previous checkpoint is intact: "
            "free "
            "disk space and run the same command again",
            code="training.not_writable",
        ) from error


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint that :func:`save` wrote.

    Raises:
        JepaExportError: It cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    # Damaged bytes make the unpickler raise any exception.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise JepaExportError(
            f"{path}: not a checkpoint, or damaged: {reason}; remove it to start this stage over",
            code="training.checkpoint_damaged",
        ) from error
    return state


def lock_folder(folder: Path) -> None:
    """Keep other processes from training in ``folder`` until this one ends.

    Raises:
        JepaExportError: Another process trains there, or the folder cannot be written.
    """
    if (resolved := folder.resolve()) in _LOCKS:
        return
    try:
        file = (folder / ".lock").open("wb")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise JepaExportError(
            f"{folder}: another process is training there; let it finish, stop it, or choose another "
            "--output",
            code="training.folder_in_use",
        ) from error
    except OSError as error:
        raise JepaExportError(
            f"{folder}: cannot be written: {error.strerror}; choose another --output",
            code="training.not_writable",
        ) from error
    _LOCKS[resolved] = file


def claim_folder(folder: Path, settings: dict[str, Any], *, write: bool) -> None:
    """Check that ``folder`` is new or belongs to a run with the same settings, and write them if it is new.

    Only settings that existed when the run began are compared.

    Args:
        folder: Folder of the run.
        settings: Settings of this run, as JSON values.
        write: Write the settings (one of several processes does).

    Raises:
        JepaExportError: The folder belongs to other settings, or cannot be written.
    """
    note = folder / SETTINGS
    text = json.dumps(settings, indent=2) + "\n"
    try:
        if not note.exists():
            if write:
                folder.mkdir(parents=True, exist_ok=True)
                with atomic_files.replacing(note) as temporary:
                    temporary.write_text(text)
            return
        before = dict(json.loads(note.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise JepaExportError(
            f"{note}: cannot be read or written: {error}; choose another --output",
            code="training.not_writable",
        ) from error
    now = json.loads(text)
    differ = [
        f"{name} {before[name]!r} (now {now.get(name)!r})"
        for name in sorted(before)
        if before[name] != now.get(name)
    ]
    if differ:
        raise JepaExportError(
            f"{folder}: holds a run with other settings: {', '.join(differ)}; use the same settings, choose "
            "another --output, or remove the folder to start over",
            code="training.settings_mismatch",
        )
