"""Marks for tests that need a vendor's compiler."""

from __future__ import annotations

import pytest

from jepa_export.errors import JepaExportError
from jepa_export.targets import npu_compiler, tensorrt_check


def missing_compiler() -> str | None:
    """Return why the NPU compiler is missing, or None if it is available."""
    try:
        npu_compiler.find()
    except JepaExportError as error:
        return str(error)
    return None


needs_compiler = pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))
needs_tensorrt = pytest.mark.skipif(
    tensorrt_check.missing() is not None, reason=str(tensorrt_check.missing())
)
