"""Hashes of files."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from jepa_export.errors import JepaExportError
from jepa_runtime.util import file_sha256


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files in a folder.

    Cached in this process until the file changes.

    Raises:
        JepaExportError: The file is missing or cannot be read.
    """
    try:
        if path.is_dir():
            files = sorted(entry for entry in path.rglob("*") if entry.is_file())
            listed = [f"{file.relative_to(path)} {_hash(file, *_version(file))}" for file in files]
            return hashlib.sha256("\n".join(listed).encode()).hexdigest()
        return _hash(path, *_version(path))
    except OSError as error:
        raise JepaExportError(f"{path}: cannot be read: {error.strerror}", code="data.unreadable") from error


def _version(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=100_000)
def _hash(path: Path, size: int, mtime_ns: int) -> str:
    del size, mtime_ns
    return file_sha256(path)
