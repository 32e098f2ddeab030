"""Staging of a bundle: a folder that replaces its destination in one step, and what goes into it."""

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
from jepa_runtime.bundle import Bundle

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# Reported by an old kernel, or a file system that cannot exchange names.
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def check_output(folder: Path) -> None:
    """Check that ``folder`` is absent or a bundle that may be replaced.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, lies below a file, or cannot be examined.
    """
    with write_errors_reported(folder):
        file = next((parent for parent in folder.parents if parent.is_file()), None)
        if file is not None:
            raise JepaExportError(
                f"{folder} cannot be created: {file} is a file: choose another --output",
                code="export.output_below_file",
            )
        if folder.exists() and not (folder / "manifest.json").exists():
            raise JepaExportError(
                f"{folder} exists and is not a bundle: choose another --output, or remove it",
                code="export.output_not_a_bundle",
            )


@contextmanager
def write_errors_reported(out: Path) -> Iterator[None]:
    """Convert an OSError in the block, such as a full disk, to an error that names ``out``.

    Raises:
        JepaExportError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise JepaExportError(
            f"{out} cannot be written: {reason}; nothing was written", code="export.write_failed"
        ) from error


def check_absent(folder: Path) -> None:
    """Check that nothing exists at ``folder``.

    Raises:
        JepaExportError: ``folder`` exists, lies below a file, or cannot be examined.
    """
    check_output(folder)
    if folder.exists():
        raise JepaExportError(
            f"{folder} exists and is not replaced: choose another --output", code="export.output_exists"
        )


def check_outside(folder: Path, base: Bundle) -> None:
    """Check that a copy of ``base`` in ``folder`` would not add files to ``base``.

    Raises:
        JepaExportError: ``folder`` lies in ``base``.
    """
    if base.path.resolve() in folder.resolve().parents:
        raise JepaExportError(
            f"{folder}: lies in {base.path}, which is copied: choose a folder elsewhere",
            code="export.output_in_bundle",
        )


@contextmanager
def staged(folder: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield an empty folder that replaces ``folder`` when the block ends without an error.

    Until then, and after an error, ``folder`` stays as it was. One of the two exists at every moment, except
    on a file system that cannot exchange names.

    Args:
        folder: Destination; the staging folder is created next to it.
        replace: Whether an existing bundle may be replaced.

    Raises:
        JepaExportError: ``folder`` exists and may not be replaced, or cannot be written.
    """
    (check_output if replace else check_absent)(folder)
    with write_errors_reported(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_staging_prefix(folder)) as temporary:
            staging = Path(temporary) / "bundle"
            staging.mkdir()
            yield staging
            if replace and folder.exists():
                _replace(folder, staging, Path(temporary) / "replaced")
            else:
                staging.rename(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove the staging folders that killed processes left next to the bundle ``folder``.

    Call it only where no other process can be writing this bundle.
    """
    for left in folder.parent.glob(f"{_staging_prefix(folder)}*"):
        shutil.rmtree(left, ignore_errors=True)


def _staging_prefix(folder: Path) -> str:
    return f".{folder.name}.staging."


def exchange(one: Path, other: Path) -> None:
    """Exchange two names on one file system atomically (renameat2 of Linux).

    Raises:
        OSError: The names were not exchanged; ENOSYS, EINVAL or EOPNOTSUPP where the system cannot do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _replace(old: Path, new: Path, backup: Path) -> None:
    try:
        exchange(new, old)
        return
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    old.rename(backup)
    try:
        new.rename(old)
    except OSError:
        backup.rename(old)
        raise


def copy_files(base: Bundle, staging: Path) -> None:
    """Copy every file of a bundle, verified against its manifest.

    Raises:
        BundleError: A file of ``base`` is no longer what its manifest records.
    """
    for record in base.manifest.files:
        path = staging / record.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base.read(record.path))


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write report.json; seal the bundle afterwards."""
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")


def source_commit(file: Path = Path(__file__)) -> str:
    """Return the commit of the code in ``file`` (default: of this code), or ``unknown``.

    A file that git does not track, such as a package installed below a repository, has no commit.
    """
    commands = [["git", "ls-files", "--error-unmatch", file.name], ["git", "describe", "--always", "--dirty"]]
    try:
        *_, described = [
            subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=True).stdout
            for command in commands
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.strip()
