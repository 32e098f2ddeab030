"""The public names of jepa_export."""

from __future__ import annotations

import subprocess
import sys

import jepa_export


def test_public_names_resolve_and_have_docstrings() -> None:
    assert sorted(jepa_export.__all__) == sorted(set(jepa_export.__all__))
    assert all(getattr(jepa_export, name).__doc__ for name in jepa_export.__all__)
    assert set(jepa_export.__all__) <= set(dir(jepa_export))


def test_import_does_not_load_torch() -> None:
    """The command line shows its help in a fraction of the time that torch takes to import."""
    code = "import sys, jepa_export; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
