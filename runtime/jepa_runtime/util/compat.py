"""What Python has from 3.11 on. JetPack 6 comes with 3.10, and its TensorRT is for that one alone."""

from __future__ import annotations

import hashlib
import sys
from enum import Enum
from pathlib import Path

_CHUNK_BYTES = 1 << 20


class StrEnum(str, Enum):
    """Members are texts and print as such; ``auto()`` is the name in small letters: :class:`enum.StrEnum`."""

    @staticmethod
    def _generate_next_value_(name: str, *_: object) -> str:
        return name.lower()

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, spec: str) -> str:
        return str.__format__(self, spec)


def python(code: str) -> list[str]:
    """A command that runs ``code`` without looking for modules in the current folder (``python -P``)."""
    return [sys.executable, "-c", f"import sys; sys.path[:] = filter(None, sys.path); {code}"]


def python_module(name: str) -> list[str]:
    """The same of a module, as by ``-m``."""
    return python(f"import runpy; runpy.run_module({name!r}, run_name='__main__', alter_sys=True)")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal (:func:`hashlib.file_digest`).

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
