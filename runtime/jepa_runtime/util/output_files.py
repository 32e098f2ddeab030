"""Output files of commands: checked before the work that fills them, and never left half written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.util.atomic_files import replacing

STDOUT = "-"
"""Stands for standard output in the place of a file name."""
# The file is a mount point or belongs to another account, or its folder accepts no new file.
_NOT_REPLACEABLE = (errno.EBUSY, errno.EACCES, errno.EROFS, errno.EPERM)


def file_paths(*targets: str | Path | None) -> list[Path]:
    """Return the paths of the targets that are given and are not standard output."""
    return [Path(target) for target in targets if target is not None and target != STDOUT]


def check_writable(path: Path) -> None:
    """Check that a file can be written, and create its folders, before the work that fills it.

    Raises:
        JepaRuntimeError: The file cannot be written.
    """
    is_new = not os.path.lexists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The reader of a pipe would see end of file.
        if is_new or path.is_file() or path.is_dir():
            path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise _not_writable(path, error) from error


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all, and create its folders.

    What a new file cannot replace is overwritten in place: a pipe, a device, a link, a mount point, a file in
    a read-only folder.

    Raises:
        JepaRuntimeError: The file cannot be written.
    """
    # File names need not be UTF-8.
    content = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_bytes(content)
            return
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            if error.errno not in _NOT_REPLACEABLE or not path.exists():
                raise
            path.write_bytes(content)
    except OSError as error:
        raise _not_writable(path, error) from error


def write_text(target: str | Path, text: str) -> None:
    """Write lines to a file, or to standard output if ``target`` is ``-``.

    Raises:
        JepaRuntimeError: The file cannot be written.
    """
    if target == STDOUT:
        print(text, flush=True)
    else:
        write_file(Path(target), f"{text}\n")


def write_json(target: str | Path, data: Any) -> None:
    """Write JSON data as :func:`write_text` does."""
    write_text(target, json.dumps(data, indent=2, allow_nan=False))


def write_each(*outputs: tuple[object, Callable[[], object]]) -> None:
    """Write several files; a file that cannot be written does not prevent the others.

    Args:
        outputs: Pairs of the requested target (nothing is written if it is falsy) and the function that
            writes it.

    Raises:
        JepaRuntimeError: At least one file could not be written.
    """
    faults = []
    for target, write_output in outputs:
        try:
            if target:
                write_output()
        except JepaRuntimeError as error:
            faults.append(error)
    if faults:
        raise JepaRuntimeError("; ".join(map(str, faults)), code=faults[0].code)


def _not_writable(path: Path, error: OSError) -> JepaRuntimeError:
    return JepaRuntimeError(f"{path}: cannot be written: {error.strerror}", code="output.not_writable")
