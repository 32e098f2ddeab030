"""The scripts and modules of benchmarks/ for tests: it is no package."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.ros.conftest import missing

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"


def load(name: str) -> ModuleType:
    """A module of benchmarks/, which is no package, imported with the path that its scripts have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module(name)


def skip_without_ros() -> None:
    """For tests of what takes ROS 2 to be imported or run."""
    if reason := missing():
        pytest.skip(reason)


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A benchmark as a user runs it."""
    return subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
