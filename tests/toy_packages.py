"""The package of the toy engine, installed into a folder, and commands that find it there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parent / "runtime" / "backends" / "toy_engine"


def install_toy_engine(temporary: pytest.TempPathFactory) -> Path:
    """Install the package, and return the folder of packages."""
    source = Path(shutil.copytree(_SOURCE, temporary.mktemp("source") / "toy_engine"))
    target = temporary.mktemp("site")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--target", target, source),
        ],
        check=True,
    )
    return target


def run(site: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python with the packages of ``site``."""
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", ""))))
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def run_program(site: Path, package: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command of a package, ``jepa_runtime`` or ``jepa_export``, with the packages of ``site``."""
    program = f"import sys; from {package}.cli import main; sys.exit(main())"
    return run(site, "-c", program, *arguments)
