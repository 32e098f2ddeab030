"""The cache of compiled OpenVINO models: a folder for each graph, with a SHA-256 next to each model.

OpenVINO does not verify what it loads from the cache: after a power cut that left a page of the weights
empty, a model would compute wrong numbers without an error, and another account could have written any model.
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

# The graphs used last are retained; every update adds others.
MAX_BYTES = 4 << 30
_BLOB, _HASH = ".blob", ".sha256"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_folder(cache: Path) -> None:
    """Check that ``cache`` is a folder, if it exists and is accessible.

    Raises:
        BackendError: It is not a folder.
    """
    with suppress(OSError):
        if cache.exists() and not cache.is_dir():
            raise BackendError(
                f"{cache}: not a folder: give another --cache-dir, or none", code="backend.cache_invalid"
            )


def open_folder(cache: Path, graph_sha256: str) -> Path:
    """Return the folder of one graph in ``cache``, and remove compiled models that were changed.

    A model is unchanged if it has the hash that :func:`record_hashes` wrote. The folders of graphs that were
    used longest ago are removed if the cache is full.

    Raises:
        OSError: The folder cannot be created or read, a model cannot be removed, or another account could
            replace its content.
    """
    folder = cache / graph_sha256
    for path in (cache, folder):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not is_own(path.stat()):
            raise PermissionError(
                errno.EPERM, f"{path.name} belongs to another account, or other accounts can write to it"
            )
    for blob in folder.glob(f"*{_BLOB}"):
        if _recorded_hash(blob) != file_sha256(blob):
            # If the clock was set back, the hash may have a later time than the next model.
            for path in (blob.with_suffix(_HASH), blob):
                path.unlink(missing_ok=True)
    with suppress(OSError):
        os.utime(folder)
        _make_room(cache, folder)
    return folder


def record_hashes(folder: Path) -> None:
    """Write the SHA-256 of the models in ``folder``. Without a hash, a model is compiled again next time."""
    with suppress(OSError):
        for blob in folder.glob(f"*{_BLOB}"):
            hashed = blob.with_suffix(_HASH)
            # A newer blob of the same name has another hash, or at least a later time.
            if not hashed.exists() or os.stat(hashed).st_mtime_ns < os.stat(blob).st_mtime_ns:
                hashed.write_text(file_sha256(blob), encoding="utf-8")


def _make_room(cache: Path, used: Path) -> None:
    retained = 0
    for folder in sorted(cache.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        # The folder may contain other things, which are not removed.
        if _SHA256.fullmatch(folder.name) and folder.is_dir():
            retained += sum(path.stat().st_size for path in folder.iterdir())
            if retained > MAX_BYTES and folder != used:
                shutil.rmtree(folder)


def _recorded_hash(blob: Path) -> str:
    try:
        return blob.with_suffix(_HASH).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
