"""The replacements for features of Python 3.11 behave like those."""

from __future__ import annotations

import hashlib
import subprocess
from enum import auto
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime.util.compat import StrEnum, file_sha256, python_module


class Kind(StrEnum):
    FIRST = auto()
    OTHER = "another"


def test_members_are_strings() -> None:
    assert [str(kind) for kind in Kind] == [f"{kind}" for kind in Kind] == ["first", "another"]
    assert Kind("first") is Kind.FIRST and Kind.FIRST == "first" and f"{Kind.FIRST:>7}" == "  first"


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_digest_covers_the_whole_file(size: int, tmp_path: Path) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_started_module_imports_nothing_from_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('anybody may write here')")
    command = [*python_module("numpy.f2py"), "-v"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (np.__version__, "")
