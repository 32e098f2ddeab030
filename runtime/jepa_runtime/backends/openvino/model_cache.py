"""OpenVINO's cache of compiled models: a folder for each graph, and in it a SHA-256 beside each.

OpenVINO does not check what it loads from there: where a power cut left a page of the weights empty, a model
computes other numbers without an error, and another account could have put any model there.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from jepa_runtime.backends.file_ownership import is_own
from jepa_runtime.errors import BackendError
from jepa_runtime.util.compat import file_sha256

# Graphs used last stay; every update brings others.
MOST_BYTES = 4 << 30
_BLOB, _HASH = ".blob", ".sha256"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check(cache: Path) -> None:
    """See that ``cache`` is a folder, if it is there and may be looked at.

    Raises:
        BackendError: it is something else.
    """
    with suppress(OSError):
        if cache.exists() and not cache.is_dir():
            raise BackendError(f"{cache}: is no folder: give --cache-dir a folder, or none")


def folder_of(cache: Path, graph_sha256: str) -> Path:
    """The folder in ``cache`` for one graph, without the compiled models that are not as they were when
    :func:`sealed` saw them. Folders of graphs that were used longest ago make room.

    Raises:
        OSError: it cannot be made or read, something in it cannot be removed, or another account could
            replace what is in it.
    """
    folder = cache / graph_sha256
    for path in (cache, folder):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not is_own(path.stat()):
            raise PermissionError(
                errno.EPERM, f"{path.name} belongs to another account, or others may write to it"
            )
    for blob in folder.glob(f"*{_BLOB}"):
        if _noted(blob) != file_sha256(blob):
            # Its hash may be of a time to come, where the clock was set back.
            for path in (blob.with_suffix(_HASH), blob):
                path.unlink(missing_ok=True)
    with suppress(OSError):
        os.utime(folder)
        _make_room(cache, folder)
    return folder


def sealed(folder: Path) -> None:
    """Note the SHA-256 of what was compiled into ``folder``; what cannot be noted is compiled anew."""
    with suppress(OSError):
        for blob in folder.glob(f"*{_BLOB}"):
            hashed = blob.with_suffix(_HASH)
            # A later blob of the same name has another hash, or at least was written later.
            if not hashed.exists() or os.stat(hashed).st_mtime_ns < os.stat(blob).st_mtime_ns:
                hashed.write_text(file_sha256(blob), encoding="utf-8")


def _make_room(cache: Path, used: Path) -> None:
    kept = 0
    for folder in sorted(cache.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        # Nothing else of a folder that somebody may have for other things too.
        if _SHA256.fullmatch(folder.name) and folder.is_dir():
            kept += sum(path.stat().st_size for path in folder.iterdir())
            if kept > MOST_BYTES and folder != used:
                shutil.rmtree(folder)


def _noted(blob: Path) -> str:
    try:
        return blob.with_suffix(_HASH).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
