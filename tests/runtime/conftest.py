"""Fixtures for tests of the runtime."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jepa_runtime.backends import Backend, BackendOptions, Graph, create_backend
from tests.runtime.backends.simulated_gpu import SimulatedGpu
from tests.runtime.backends.simulated_tensorrt import SimulatedTensorRT


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedTensorRT]:
    """Make ``tensorrt`` the simulated one, on the simulated GPU."""
    simulated = SimulatedTensorRT()
    cuda = ModuleType("jepa_runtime.backends.tensorrt.cuda")
    cuda.Cuda = SimulatedGpu  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", simulated)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "jepa_runtime.backends.tensorrt.cuda", cuda)
    yield simulated


@pytest.fixture
def encoder(toy_bundle: Path) -> Graph:
    return Graph.read(toy_bundle / "encoder" / "onnx" / "model.onnx")


@pytest.fixture
def opened(tensorrt: SimulatedTensorRT, tmp_path: Path) -> Callable[..., Backend]:
    """A backend that caches its engines in ``tmp_path``; with ``build`` it may build them."""

    def make(*, build: bool = False, **further: Any) -> Backend:
        reported = (lambda *_: True) if build else None
        return create_backend(
            "tensorrt", BackendOptions(cache_dir=tmp_path / "engines", build=reported, **further)
        )

    return make
