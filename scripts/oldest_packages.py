"""Print the lower bounds of pyproject.toml as constraints for pip: the last release of each oldest series.

usage: python scripts/oldest_packages.py EXTRA...
"""

import re
import sys
from pathlib import Path

from pip._vendor import tomli

ROOT = Path(__file__).resolve().parent.parent


def constraints(*extras: str) -> list[str]:
    """Return the constraints of the base dependencies and of these extras."""
    project = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    named = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    found = [re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line) for line in named]
    return [f"{entry[1]}=={entry[2]}.*" for entry in found if entry is not None]


if __name__ == "__main__":
    print("\n".join(constraints(*sys.argv[1:])))
