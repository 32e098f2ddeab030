"""Features of Python 3.11 for Python 3.10, which JetPack 6 and its TensorRT need."""

from __future__ import annotations

import hashlib
import sys
from enum import Enum
from pathlib import Path

_CHUNK_BYTES = 1 << 20


class StrEnum(str, Enum):
    """Represent members as strings, as :class:`enum.StrEnum`; ``auto()`` is the name in lower case."""

    @staticmethod
    def _generate_next_value_(name: str, *_: object) -> str:
        return name.lower()

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, spec: str) -> str:
        return str.__format__(self, spec)


def python(code: str) -> list[str]:
    """Return a command that runs ``code`` with the current folder off the module path (``python -P``)."""
    return [sys.executable, "-c", f"import sys; sys.path[:] = filter(None, sys.path); {code}"]


def python_module(name: str) -> list[str]:
    """Return a command that runs a module, as ``python -P -m`` does."""
    return python(f"import runpy; runpy.run_module({name!r}, run_name='__main__', alter_sys=True)")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal (:func:`hashlib.file_digest`).

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
