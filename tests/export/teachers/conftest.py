"""Small teachers in the registry, and their checkpoints on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# If torch is missing, the tests are skipped, but this file is still imported.
if TYPE_CHECKING:
    from jepa_export.teachers.checkpoints import Teacher


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Register the small teachers by name."""
    import torch

    from jepa_export.teachers.family import FAMILY
    from tests.export.teachers.tiny import TINY

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        for name, member in TINY.items():
            patch.setitem(FAMILY, name, member)
        yield


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a checkpoint as torch does and returns its path."""
    import torch

    def save(content: object, name: str = "official.pt") -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def teacher(saved: Callable[..., Path]) -> Callable[[str], Teacher]:
    """Return a function that reads the small teacher of a family from a file in its official format."""
    from jepa_export.teachers.checkpoints import read
    from tests.export.teachers.tiny import official

    return lambda case: read(case, saved(official(case)))
