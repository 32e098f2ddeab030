"""A root to install on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.system_files.roots import MEMORY, fill


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        fill(Path(folder, "root"))
        yield Path(folder, "root")
