"""Skip the tests of jepa-export where torch and the other packages of its extra are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export_extra import skipped_module

NEED_NOTHING = {
    "test_add_atlas.py",
    "test_cli.py",
    "test_publish.py",
    "test_recipes.py",
    "test_release_command.py",
    "test_release_signing.py",
}


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Stand in for the modules that cannot be imported."""
    return None if module_path.name in NEED_NOTHING else skipped_module(module_path, parent)
