"""What every writer of bundles needs: a folder that appears whole or not at all, and who made it."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jepa_export.errors import JepaExportError

_FROM_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux's headers
# What a system says that cannot exchange: an old kernel, or a file system without.
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def check_target(folder: Path) -> None:
    """Refuse to replace what is not a bundle.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, lies below a file, or cannot be looked at.
    """
    with nothing_half_written(folder):
        file = next((parent for parent in folder.parents if parent.is_file()), None)
        if file is not None:
            raise JepaExportError(f"{folder} cannot be made: {file} is a file: choose another --out")
        if folder.exists() and not (folder / "manifest.json").exists():
            raise JepaExportError(f"{folder} exists and is not a bundle: choose another --out, or remove it")


@contextmanager
def nothing_half_written(out: Path) -> Iterator[None]:
    """Say in our words that ``out`` cannot be written, as when the disk is full.

    Raises:
        JepaExportError: it cannot.
    """
    try:
        yield
    except OSError as error:
        # Copying a folder gathers the errors of all files.
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror or error
        raise JepaExportError(f"{out} cannot be written: {reason}; nothing was written") from error


def check_absent(folder: Path) -> None:
    """Refuse to write where something is already.

    Raises:
        JepaExportError: ``folder`` exists, lies below a file, or cannot be examined.
    """
    check_target(folder)
    if folder.exists():
        raise JepaExportError(f"{folder} exists and is not replaced: choose another --out")


@contextmanager
def staged(folder: Path, *, replace: bool = True) -> Iterator[Path]:
    """An empty folder beside ``folder``, which takes its place when the block ends without an error; until
    then, and after an error, what was there stays. At every moment one of the two is there, but on a file
    system that cannot exchange names.

    Args:
        replace: whether a bundle that is there may be replaced.

    Raises:
        JepaExportError: ``folder`` exists and may not be replaced, or cannot be written.
    """
    (check_target if replace else check_absent)(folder)
    with nothing_half_written(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            staging = Path(temporary) / "bundle"
            staging.mkdir()
            yield staging
            if replace and folder.exists():
                _replace(folder, staging, Path(temporary) / "replaced")
            else:
                staging.rename(folder)


def exchange(one: Path, other: Path) -> None:
    """Let two names on one file system change places, at once (renameat2 of Linux).

    Raises:
        OSError: they do not; where the system cannot do it, its number is ENOSYS, EINVAL or EOPNOTSUPP.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if libc.renameat2(_FROM_HERE, os.fsencode(one), _FROM_HERE, os.fsencode(other), _EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _replace(old: Path, new: Path, aside: Path) -> None:
    try:
        exchange(new, old)
        return
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write report.json; the bundle must be sealed again afterwards."""
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")


def commit() -> str:
    """The commit that this was made from, or 'unknown' outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
