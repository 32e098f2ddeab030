"""Skip tests of modules that need the extra ``export`` where it is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import pytest

_NEEDED = ("torch", "onnx", "nncf", "scipy", "safetensors", "av", "pyarrow", "lightning_fabric")
MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]


class _Skipped(pytest.Module):
    """Represent a test module that must not be imported here."""

    def collect(self) -> Iterable[pytest.Item]:
        pytest.skip(
            f"{', '.join(MISSING)} not installed (pip install 'jepa-edge[export]')", allow_module_level=True
        )


def skipped_module(path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Return the stand-in of a module that cannot be imported, or None if the extra is installed."""
    if not MISSING:
        return None
    skipped: pytest.Module = _Skipped.from_parent(parent, path=path)
    return skipped
