"""Files that a user wants written: tried before the work that fills them, and never left half written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from jepa_runtime.errors import JepaRuntimeError

# In the place of a file's name.
STDOUT = "-"
# Of a file that is mounted by itself, or is another account's; of a folder that takes no other file.
_STAYS = (errno.EBUSY, errno.EACCES, errno.EROFS, errno.EPERM)


def files_of(*targets: str | Path | None) -> list[Path]:
    """Those that are given and do not stand for standard output."""
    return [Path(target) for target in targets if target is not None and target != STDOUT]


def check_writable(path: Path) -> None:
    """See that a file can be written, before minutes are spent on what it is to hold; folders are made.

    Raises:
        JepaRuntimeError: it cannot.
    """
    is_new = not os.path.lexists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever reads from a pipe would take it for the end.
        if is_new or path.is_file() or path.is_dir():
            path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise JepaRuntimeError(f"{path}: cannot be written: {error.strerror}") from error


def write(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all; folders are made.

    What no other file can take the place of is written into: a pipe, a device, a link, a file that is mounted
    by itself or lies in a folder that is read only.

    Raises:
        JepaRuntimeError: it cannot be written.
    """
    # Names of files need not be UTF-8.
    content = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    partial = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_bytes(content)
            return
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except OSError as error:
            if error.errno not in _STAYS or not path.exists():
                raise
            path.write_bytes(content)
        finally:
            with suppress(OSError):
                partial.unlink()
    except OSError as error:
        raise JepaRuntimeError(f"{path}: cannot be written: {error.strerror}") from error


def write_text(target: str | Path, text: str) -> None:
    """Write lines to a file, or to standard output if ``target`` is ``-``.

    Raises:
        JepaRuntimeError: the file cannot be written.
    """
    if target == STDOUT:
        print(text, flush=True)
    else:
        write(Path(target), f"{text}\n")


def write_json(target: str | Path, data: Any) -> None:
    """Write JSON data as :func:`write_text` does."""
    write_text(target, json.dumps(data, indent=2, allow_nan=False))


def write_each(*outputs: tuple[object, Callable[[], object]]) -> None:
    """Write several files; one that cannot be written does not cost the others.

    Args:
        outputs: what was asked for, if it was (a path, mostly), and what writes it.

    Raises:
        JepaRuntimeError: which could not be written.
    """
    faults = []
    for asked, write_it in outputs:
        try:
            if asked:
                write_it()
        except JepaRuntimeError as error:
            faults.append(str(error))
    if faults:
        raise JepaRuntimeError("; ".join(faults))
