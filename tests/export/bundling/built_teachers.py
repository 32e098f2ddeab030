"""Bundles of small V-JEPA 2 teachers with official weights, built by the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from jepa_export.cli import main
from jepa_export.teachers.checkpoints import read
from jepa_export.teachers.family import FAMILY
from jepa_export.teachers.vjepa2 import VJEPA2
from jepa_runtime import Bundle
from tests.export.teachers.tiny import TINY, official


@contextmanager
def small_family() -> Iterator[None]:
    """Use small teachers in place of the published ones."""
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        for name, member in TINY.items():
            patch.setitem(FAMILY, name, member)
        yield


def build(name: str, folder: Path, time: str) -> tuple[VJEPA2, Bundle]:
    """Return a teacher with official weights, and its bundle with ``--time``."""
    torch.save(official(name), folder / "weights.pt")
    options = ["--frames", "4", "--horizon", "2", "--time", time]
    weights = ["--teacher", name, "--checkpoint", str(folder / "weights.pt")]
    assert main(["build", *weights, *options, "--output", str(folder / "bundle")]) == 0
    model = read(name, folder / "weights.pt").model
    assert isinstance(model, VJEPA2)
    return model, Bundle.open(folder / "bundle")
