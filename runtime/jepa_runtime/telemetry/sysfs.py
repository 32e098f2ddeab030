"""Reads procfs and sysfs below a root, so that a recorded tree of another machine can stand in for this."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path


class Files:
    """Files below ``root``; paths are relative to it. Between calls of :meth:`forget` each is read once."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self._prefix = os.path.join(root, "")
        self._texts: dict[str, str] = {}

    def forget(self) -> None:
        """Read files anew from now on."""
        self._texts.clear()

    def text(self, path: str) -> str:
        """The whole file, without white space and NUL (device trees) around it.

        Raises:
            OSError: it cannot be read; some attributes of sysfs answer so while their hardware sleeps.
        """
        if path not in self._texts:
            # Unbuffered and without Path: opening files is most of what a sample costs.
            with open(f"{self._prefix}{path}", "rb", buffering=0) as file:
                self._texts[path] = file.read().decode(errors="replace").strip(" \t\n\0")
        return self._texts[path]

    def number(self, path: str) -> float:
        """The file as one number.

        Raises:
            OSError: it cannot be read.
            ValueError: it holds something else.
        """
        text = self.text(path)
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{self.root / path}: expected a number, got {text[:40]!r}") from None

    def get(self, path: str) -> str | None:
        """Like :meth:`text`, or None if it is not there, unreadable or empty."""
        try:
            return self.text(path) or None
        except OSError:
            return None

    def field(self, path: str, key: str) -> float:
        """The first number behind ``key:`` in a file of such lines, such as /proc/meminfo.

        Raises:
            OSError: the file cannot be read.
            ValueError: no such line.
        """
        match = re.search(rf"^{re.escape(key)}:\s*([0-9]+)", self.text(path), re.MULTILINE)
        if match is None:
            raise ValueError(f"{self.root / path}: no line {key!r}")
        return float(match[1])

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""
        return (self.root / path).exists()

    def names(self, path: str) -> list[str]:
        """The entries of a folder. Raises OSError if it cannot be listed."""
        return os.listdir(self.root / path)

    def find(self, pattern: str) -> list[str]:
        """Paths that match, in the order of the numbers in them (cpu2 before cpu10)."""
        return sorted(glob.glob(pattern, root_dir=self.root), key=_by_number)


def cores(text: str) -> list[int]:
    """The kernel's notation of a set of cores: ``0-3,6`` is [0, 1, 2, 3, 6].

    Raises:
        ValueError: it is not in this notation.
    """
    found: list[int] = []
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def _by_number(path: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"([0-9]+)", path)]
