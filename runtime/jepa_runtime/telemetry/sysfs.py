"""Read procfs and sysfs below a root: those of this machine, or a recorded tree of another one."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path


class Files:
    """Cached text files below ``root``. All paths are relative to it."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self._prefix = os.path.join(root, "")
        self._texts: dict[str, str] = {}

    def clear_cache(self) -> None:
        """Discard what was read, so that files are read again."""
        self._texts.clear()

    def text(self, path: str) -> str:
        """Return the content of a file, stripped of surrounding whitespace and NUL (device trees).

        Raises:
            OSError: The file cannot be read, as some sysfs attributes while their device is suspended.
        """
        if path not in self._texts:
            # Unbuffered and without Path: opening files is most of what a sample costs.
            with open(f"{self._prefix}{path}", "rb", buffering=0) as file:
                self._texts[path] = file.read().decode(errors="replace").strip(" \t\n\0")
        return self._texts[path]

    def number(self, path: str) -> float:
        """Return the content of a file as a number.

        Raises:
            OSError: The file cannot be read.
            ValueError: The content is not a number.
        """
        text = self.text(path)
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{self.root / path} is not a number: {text[:40]!r}") from None

    def get(self, path: str) -> str | None:
        """Return the content of a file, or None if it does not exist, is unreadable or empty."""
        try:
            return self.text(path) or None
        except OSError:
            return None

    def field(self, path: str, key: str) -> float:
        """Return the number after ``key:`` in a file such as /proc/meminfo.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file has no such line.
        """
        match = re.search(rf"^{re.escape(key)}:\s*([0-9]+)", self.text(path), re.MULTILINE)
        if match is None:
            raise ValueError(f"{self.root / path} has no line {key!r}")
        return float(match[1])

    def exists(self, path: str) -> bool:
        """Return whether a file or folder exists."""
        return (self.root / path).exists()

    def names(self, path: str) -> list[str]:
        """Return the entries of a folder.

        Raises:
            OSError: The folder cannot be listed.
        """
        return os.listdir(self.root / path)

    def find(self, pattern: str) -> list[str]:
        """Return the paths that match a shell pattern, in natural order (cpu2 before cpu10)."""
        return sorted(glob.glob(pattern, root_dir=self.root), key=_natural_key)


def parse_cpu_list(text: str) -> list[int]:
    """Parse the kernel's notation of a set of cores: ``0-3,6`` is [0, 1, 2, 3, 6].

    Raises:
        ValueError: The text is not in this notation.
    """
    found: list[int] = []
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def _natural_key(path: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"([0-9]+)", path)]
