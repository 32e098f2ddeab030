"""Backend for ONNX Runtime on a CPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from jepa_runtime.backends import cpu_int8
from jepa_runtime.backends.base import (
    Array,
    BackendOptions,
    Graph,
    LayerTime,
    Shape,
    check_inputs,
    first_line,
)
from jepa_runtime.errors import BackendError

_PROVIDERS = ["CPUExecutionProvider"]
_ERRORS_ONLY = 3
# Compute INT8 operations in fp32, on values rounded as for INT8.
_SIMULATED = ("session.disable_quant_qdq", "1")
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
}


class OnnxRuntimeSession:
    """A session whose inputs and outputs are bound once to NumPy arrays."""

    def __init__(self, name: str, session: Any, shapes: Mapping[str, Shape]) -> None:
        self._name = name
        self._session = session
        self.inputs: Mapping[str, Array] = {
            node.name: np.zeros(shapes[node.name], _dtype(name, node)) for node in session.get_inputs()
        }
        names = [node.name for node in session.get_outputs()]
        # If the graph does not fix the shapes of its outputs, only a run determines them.
        try:
            first = session.run(names, dict(self.inputs))
        except Exception as error:
            raise BackendError(
                f"{name}: does not accept the shapes {dict(shapes)}: {first_line(error)}",
                code="backend.shape_mismatch",
            ) from error
        self.outputs: Mapping[str, Array] = dict(zip(names, map(np.ascontiguousarray, first), strict=True))
        self._binding = session.io_binding()
        for tensor, array in self.inputs.items():
            self._binding.bind_input(tensor, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for tensor, array in self.outputs.items():
            self._binding.bind_output(tensor, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self) -> Mapping[str, Array]:
        try:
            self._session.run_with_iobinding(self._binding)
        # Its exceptions have no common base class.
        except Exception as error:
            raise BackendError(
                f"{self._name}: inference failed: {first_line(error)}", code="backend.inference_failed"
            ) from error
        return self.outputs

    def end_profiling(self) -> str:
        """Write the profile, and return the path of its file."""
        return str(self._session.end_profiling())

    def close(self) -> None:
        self._binding = self._session = None
        self.inputs = self.outputs = {}


class OnnxRuntimeBackend:
    """ONNX Runtime with its CPU provider.

    Raises:
        BackendError: The device is not the CPU.
    """

    engine = "onnxruntime"
    targets = ("onnx",)

    def __init__(self, device: str, options: BackendOptions) -> None:
        if device != "CPU":
            raise BackendError(
                f"onnxruntime:{device}: no such device; devices: CPU", code="backend.device_not_found"
            )
        self.device = device
        self.version: str = onnxruntime.__version__
        self._threads, self._between = options.threads, options.between

    def load(
        self, graph: Graph | Path, shapes: Mapping[str, Shape], rows: Collection[str] = ()
    ) -> OnnxRuntimeSession:
        graph = Graph.read(graph) if isinstance(graph, Path) else graph
        self._between()
        return self._open(graph, shapes, onnxruntime.SessionOptions())

    def layer_times(self, graph: Graph, shapes: Mapping[str, Shape], runs: int) -> list[LayerTime]:
        options = onnxruntime.SessionOptions()
        with tempfile.TemporaryDirectory() as folder:
            options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
            session = self._open(graph, shapes, options)
            for _ in range(runs):
                session.run()
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        spent: dict[tuple[str, str, str], list[float]] = {}
        for event in events:
            name, is_kernel, _ = event["name"].partition("_kernel_time")
            if event.get("cat") == "Node" and is_kernel:
                key = name, event["args"]["op_name"], event["args"]["provider"]
                spent.setdefault(key, []).append(event["dur"] / 1e3)
        # Opening a session runs the graph once before the profiled runs.
        return [LayerTime(*key, sum(times[-runs:]) / runs) for key, times in spent.items()]

    def _open(self, graph: Graph, shapes: Mapping[str, Shape], options: Any) -> OnnxRuntimeSession:
        options.log_severity_level = _ERRORS_ONLY
        options.inter_op_num_threads = 1
        if cpu_int8.saturates_here():
            options.add_session_config_entry(*_SIMULATED)
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        try:
            session = onnxruntime.InferenceSession(graph.model, options, providers=_PROVIDERS)
        except Exception as error:
            raise BackendError(
                f"{graph.name}: ONNX Runtime cannot load it: {first_line(error)}",
                code="backend.graph_invalid",
            ) from error
        _check_shapes(graph.name, session, shapes)
        return OnnxRuntimeSession(graph.name, session, shapes)

    def close(self) -> None:
        """Do nothing: sessions release their own resources."""


def _check_shapes(name: str, session: Any, shapes: Mapping[str, Shape]) -> None:
    nodes = {node.name: node for node in session.get_inputs()}
    check_inputs(name, nodes, shapes)
    for tensor, shape in shapes.items():
        offered = nodes[tensor].shape
        fits = len(offered) == len(shape) and all(
            have == want or not isinstance(have, int) for have, want in zip(offered, shape, strict=True)
        )
        if not fits:
            raise BackendError(
                f"{name}: input {tensor} has the shape {offered}, requested was {list(shape)}",
                code="backend.shape_mismatch",
            )


def _dtype(name: str, node: Any) -> type[np.generic]:
    if node.type not in _DTYPES:
        raise BackendError(
            f"{name}: tensor {node.name} has the unsupported type {node.type}", code="backend.graph_invalid"
        )
    return _DTYPES[node.type]
