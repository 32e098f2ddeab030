"""An engine for ``--engine toy``: ONNX models in NumPy, by the reference implementation of onnx."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.backends import Backend, BackendOptions, Engine, Graph, LayerTime, Package, check_inputs
from jepa_runtime.errors import BackendError


class ToySession:
    """A graph of fixed shapes."""

    def __init__(self, graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        model = onnx.load_from_string(graph.model)
        check_inputs(graph.name, (value.name for value in model.graph.input), shapes)
        dtypes = {
            value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            for value in model.graph.input
        }
        self._evaluator = ReferenceEvaluator(model)
        self.inputs = {name: np.zeros(shape, dtypes[name]) for name, shape in shapes.items()}
        self.outputs: Mapping[str, NDArray] = {}
        self.run()

    def run(self) -> Mapping[str, NDArray]:
        """Compute the outputs."""
        values = self._evaluator.run(None, self.inputs)
        self.outputs = dict(zip(self._evaluator.output_names, values, strict=True))
        return self.outputs

    def close(self) -> None:
        """Release the buffers."""
        self.inputs, self.outputs = {}, {}


class ToyBackend:
    """The reference implementation of ONNX on the CPU."""

    engine, device, targets = "toy", "CPU", ("toy", "onnx")

    def __init__(self, device: str) -> None:
        import onnx

        if device != self.device:
            raise BackendError(f"toy:{device}: no such device; devices: CPU", code="backend.device_not_found")
        self.version = onnx.__version__

    def load(
        self, graph: Graph | Path, shapes: Mapping[str, tuple[int, ...]], rows: Collection[str] = ()
    ) -> ToySession:
        """Prepare a graph."""
        return ToySession(Graph.read(graph) if isinstance(graph, Path) else graph, shapes)

    def layer_times(self, graph: Graph, shapes: Mapping[str, tuple[int, ...]], runs: int) -> list[LayerTime]:
        """Measure the graph as one operation."""
        session = ToySession(graph, shapes)
        began = time.perf_counter()
        for _ in range(runs):
            session.run()
        return [LayerTime("graph", "graph", "numpy", (time.perf_counter() - began) * 1e3 / runs)]

    def close(self) -> None:
        """Release nothing."""


def create(device: str, options: BackendOptions) -> Backend:
    """Open the engine."""
    return ToyBackend(device)


ENGINE = Engine(
    name="toy",
    description="Reference implementation of ONNX, in NumPy",
    create=create,
    devices={"toy": "CPU", "onnx": "CPU"},
    modules=("onnx",),
    install="pip install onnx",
    packages=(Package(name="jepa-edge-toy-engine"), Package(name="onnx", at_least=(1, 14))),
    reference_for=("toy",),
    preferred_targets={"plain": ("toy",)},
)
