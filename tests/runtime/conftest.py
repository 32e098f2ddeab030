"""What tests of the runtime may use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.runtime.simulated_gpu import SimulatedGpu
from tests.runtime.simulated_tensorrt import SimulatedTensorRT


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedTensorRT]:
    """Make ``tensorrt`` the simulated one, on the simulated GPU."""
    simulated = SimulatedTensorRT()
    cuda = ModuleType("jepa_runtime.backends.cuda")
    cuda.Cuda = SimulatedGpu  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", simulated)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "jepa_runtime.backends.cuda", cuda)
    yield simulated
