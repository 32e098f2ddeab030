"""OpenVINO's cache of compiled models, with a SHA-256 beside each.

OpenVINO takes the weights that it finds there as they are: with a page that a power cut left empty, a model
computes other numbers and says nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from jepa_runtime.compat import file_sha256
from jepa_runtime.errors import BackendError

_BLOB, _HASH = ".blob", ".sha256"


def checked(folder: Path) -> bool:
    """Remove from ``folder`` every compiled model that is not as it was when :func:`sealed` saw it.

    Returns:
        Whether what is left may be used; not where it cannot be looked at, or something else not removed.

    Raises:
        BackendError: it is no folder.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise BackendError(f"{folder}: is no folder: give --cache-dir a folder, or none")
        for blob in folder.glob(f"*{_BLOB}"):
            if _noted(blob) != _sha256(blob):
                blob.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def sealed(folder: Path) -> None:
    """Note the SHA-256 of what was compiled into ``folder``; what cannot be noted is compiled anew."""
    with suppress(OSError):
        for blob in folder.glob(f"*{_BLOB}"):
            hashed = blob.with_suffix(_HASH)
            # A later blob of the same name has another hash, or at least was written later.
            if not hashed.exists() or os.stat(hashed).st_mtime_ns < os.stat(blob).st_mtime_ns:
                hashed.write_text(_sha256(blob), encoding="utf-8")


def _noted(blob: Path) -> str:
    try:
        return blob.with_suffix(_HASH).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _sha256(blob: Path) -> str:
    with blob.open("rb") as content:
        return file_sha256(content)
