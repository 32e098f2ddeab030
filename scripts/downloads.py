"""Print the download size [MB] of files of requirements/, for the Python that runs this script.

usage: python scripts/downloads.py requirements/base.txt...
"""

import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pip._vendor.packaging.markers import Marker


def megabytes(*files: Path) -> float:
    """Return the total size of the packages that are not installed yet [MB]."""
    found = (missing for file in files for missing in _missing(file.read_text(encoding="utf-8")))
    return sum(dict(found).values())


def _missing(written: str) -> Iterator[tuple[str, float]]:
    for sizes, name, version, marker in re.findall(
        r"^# (.*)\n([a-z0-9-]+)==(\S+)(?: ; (.+?))?(?: \\)?$", written, re.MULTILINE
    ):
        if marker and not Marker(marker).evaluate():
            continue
        size = re.search(rf"([\d.]+) MB on {platform.machine()}", sizes)
        if size is not None and _installed(name) != version:
            yield name, float(size[1])


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(f"{megabytes(*map(Path, sys.argv[1:])):.0f}")
