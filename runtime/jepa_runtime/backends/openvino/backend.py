"""Backend for OpenVINO on CPUs (any x86-64 or ARM CPU) and Intel GPUs."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import Core, get_version
from openvino.passes import ConstantFolding, Manager

from jepa_runtime.backends import cpu_int8
from jepa_runtime.backends.base import (
    Array,
    BackendOptions,
    Graph,
    LayerTime,
    SessionPart,
    Shape,
    check_inputs,
    first_line,
)
from jepa_runtime.backends.openvino import model_cache, signal_stack
from jepa_runtime.errors import BackendError, UnsupportedPrecisionError

_LOG = logging.getLogger(__name__)

# Fewer rows do not occupy a thread. (With 2 to 8, OpenVINO 2026.4 crashes on INT8 rollouts without a loop.)
_MIN_ROWS = 16


class OpenVINOSession:
    """A compiled model with one infer request, whose tensors are the buffers.

    The addresses of the tensors are fixed for the lifetime of the request, so views are created once.
    """

    def __init__(self, name: str, model: Any, compiled: Any) -> None:
        self._name = name
        self._request = compiled.create_infer_request()
        # Views do not keep their tensors alive. Names are those of the model: compilation preserves their
        # order, but may add names of removed operations to a tensor.
        self._tensors = {
            port.get_any_name(): self._request.get_tensor(compiled_port)
            for port, compiled_port in zip(
                (*model.inputs, *model.outputs), (*compiled.inputs, *compiled.outputs), strict=True
            )
        }
        self.inputs: Mapping[str, Array] = self._views(model.inputs)
        self.outputs: Mapping[str, Array] = self._views(model.outputs)

    def run(self) -> Mapping[str, Array]:
        try:
            self._request.infer(share_outputs=True)
        except RuntimeError as error:
            raise BackendError(
                f"{self._name}: inference failed: {first_line(error)}", code="backend.inference_failed"
            ) from error
        return self.outputs

    def close(self) -> None:
        self.inputs = self.outputs = {}
        with signal_stack.preserved():
            self._tensors = {}
            self._request = None

    def _views(self, ports: Any) -> dict[str, Array]:
        return {port.get_any_name(): self._tensors[port.get_any_name()].data for port in ports}


class OpenVINOSplitSession:
    """A compiled model with one infer request per part of the rows; they run in parallel streams.

    On a graph of many small operations, two threads per operation spend more time on synchronization than
    they save: 64 rollouts of 8 steps of the ViT-S student's INT8 predictor took 16 ms with one thread, 18 ms
    with two threads, and 9 ms in two parts.
    """

    def __init__(self, name: str, model: Any, compiled: Any, rows: Collection[str], parts: int) -> None:
        self._name = name
        self._requests = [compiled.create_infer_request() for _ in range(parts)]
        self.parts = tuple(SessionPart({}, {}) for _ in range(parts))
        inputs = self._buffers(model.inputs, compiled.inputs, [part.inputs for part in self.parts])
        # Inputs that all rows share are those of the first part; each run copies them to the others.
        self._shared = inputs.keys() - rows
        self.inputs: Mapping[str, Array] = inputs | {
            tensor: self.parts[0].inputs[tensor] for tensor in self._shared
        }
        self.outputs: Mapping[str, Array] = self._buffers(
            model.outputs, compiled.outputs, [part.outputs for part in self.parts]
        )

    def run(self) -> Mapping[str, Array]:
        for part in self.parts[1:]:
            for tensor in self._shared:
                part.inputs[tensor][:] = self.inputs[tensor]
        self.run_parts(len(self.parts))
        return self.outputs

    def run_parts(self, count: int) -> None:
        try:
            for request in self._requests[:count]:
                request.start_async()
            for request in self._requests[:count]:
                request.wait()
        except RuntimeError as error:
            raise BackendError(
                f"{self._name}: inference failed: {first_line(error)}", code="backend.inference_failed"
            ) from error

    def close(self) -> None:
        self.inputs = self.outputs = {}
        self.parts = ()
        with signal_stack.preserved():
            self._requests = []

    def _buffers(
        self, ports: Any, compiled_ports: Any, parts: Sequence[dict[str, Array]]
    ) -> dict[str, Array]:
        """Create arrays for all requests, and store the view of each request in ``parts``."""
        arrays: dict[str, Array] = {}
        for port, compiled_port in zip(ports, compiled_ports, strict=True):
            tensor, (first, *rest) = port.get_any_name(), port.shape
            array: Array = np.zeros((first * len(parts), *rest), port.element_type.to_dtype())
            for index, (request, part) in enumerate(zip(self._requests, parts, strict=True)):
                part[tensor] = array[index * first : (index + 1) * first]
                request.set_tensor(compiled_port, openvino.Tensor(part[tensor], shared_memory=True))
            arrays[tensor] = array
        return arrays


class OpenVINOBackend:
    """OpenVINO on one device, with the latency hint and one stream, or one stream per part of the rows.

    Raises:
        BackendError: The device does not exist; the message lists the devices.
    """

    engine = "openvino"
    targets: tuple[str, ...] = ("openvino", "onnx")

    def __init__(self, device: str, options: BackendOptions) -> None:
        self._core: Any = Core()
        # Listing the devices loads all plugins, which costs memory. AUTO, MULTI and HETERO are not accepted:
        # they choose the device, and do not report it.
        if device != "CPU" and device not in (available := self._core.available_devices):
            hint = (
                "the driver is not installed, or this machine has no such device"
                if device.startswith(("NPU", "GPU"))
                else ""
            )
            raise BackendError(
                f"openvino:{device}: no such device{f' ({hint})' if hint else ''}; devices: "
                f"{', '.join(available)}",
                code="backend.device_not_found",
            )
        self.device = device
        self.version: str = get_version()
        self._properties = _properties(device, options)
        self._cache = options.cache_dir
        if self._cache is not None:
            model_cache.check_folder(self._cache)
        self._threads = (options.threads or 1) if device == "CPU" else 1
        self._between = options.between
        # Compute INT8 operations in fp32, on values rounded as for INT8, which gives the results of other
        # processors. A ViT-S took 0.9 of the time of INT8 products.
        self._simulates_int8 = device == "CPU" and cpu_int8.saturates_here()

    @signal_stack.preserved()
    def load(
        self, graph: Graph | Path, shapes: Mapping[str, Shape], rows: Collection[str] = ()
    ) -> OpenVINOSession | OpenVINOSplitSession:
        graph = Graph.read(graph) if isinstance(graph, Path) else graph
        if graph.precision == "bf16":
            self._check_bf16(graph.name)
        parts = self._parts(shapes[name][0] for name in rows)
        self._between()
        model = self._read(
            graph,
            {
                name: (size // parts if name in rows else size, *rest)
                for name, (size, *rest) in shapes.items()
            },
        )
        self._between()
        with _backend_errors(graph.name, f"compile it for {self.device}"):
            streams = {"NUM_STREAMS": parts} if parts > 1 else {}
            compiled = self._compile(graph, model, **streams)
            caches = self.device == "CPU" and self._cache is not None
            if caches and not compiled.get_property("LOADED_FROM_CACHE"):
                # A freshly compiled model also holds the weights as they were read; a model loaded from the
                # cache holds only those in use: a ViT-S in INT8 takes 24 MB less.
                compiled = None
                self._between()
                compiled = self._compile(graph, model, **streams)
                if self._cache is not None and not compiled.get_property("LOADED_FROM_CACHE"):
                    self._disable_cache("OpenVINO cannot write there")
            if parts == 1:
                return OpenVINOSession(graph.name, model, compiled)
            return OpenVINOSplitSession(graph.name, model, compiled, rows, parts)

    def _check_bf16(self, name: str) -> None:
        """Reject bf16 on processors without it, where OpenVINO would emulate it, slower than fp32."""
        capabilities = self._core.get_property(self.device, "OPTIMIZATION_CAPABILITIES")
        if self.device != "CPU" or "BF16" not in capabilities:
            raise UnsupportedPrecisionError(
                f"{name}: bf16 requires a CPU with AMX or AVX512-BF16, which {self.device} is not: use fp32"
            )

    def _parts(self, sizes: Iterable[int]) -> int:
        """Return the number of equal parts into which the rows are divided."""
        common = math.gcd(*sizes)
        limit = min(self._threads, common // _MIN_ROWS)
        return next((parts for parts in range(limit, 1, -1) if common % parts == 0), 1)

    @signal_stack.preserved()
    def layer_times(self, graph: Graph, shapes: Mapping[str, Shape], runs: int) -> list[LayerTime]:
        model = self._read(graph, shapes)
        with _backend_errors(graph.name, f"profile it on {self.device}"):
            request = self._compile(graph, model, PERF_COUNT=True).create_infer_request()
            for tensor in request.input_tensors:
                tensor.data[:] = 0
            request.infer(share_outputs=True)
            spent: dict[tuple[str, str, str], float] = {}
            for _ in range(runs):
                request.infer(share_outputs=True)
                for node in request.profiling_info:
                    if node.status == node.EXECUTED:
                        key = node.node_name, node.node_type, node.exec_type
                        spent[key] = spent.get(key, 0.0) + node.real_time / timedelta(milliseconds=1)
        return [LayerTime(*key, total / runs) for key, total in spent.items()]

    def _read(self, graph: Graph, shapes: Mapping[str, Shape]) -> Any:
        with _backend_errors(graph.name, "read it"):
            model = self._core.read_model(graph.model, graph.weights or b"")
            # An IR contains the names of its operations as text, including those in bodies of loops.
            quantizes = graph.dynamic_quantization_group_size or b'"FakeQuantize"' in graph.model
            if self.device == "CPU" and graph.weights is not None and not quantizes:
                _decompress_weights(model)
        _fix_shapes(graph.name, model, shapes)
        return model

    def _compile(self, graph: Graph, model: Any, **further: Any) -> Any:
        properties = self._properties | further
        # NPUs do not support this hint.
        if self.device == "CPU" or (graph.precision == "fp32" and self.device.startswith("GPU")):
            # On processors with bf16, OpenVINO computes operations that are not quantized in bf16 by default:
            # results would differ between the workstation and the robot.
            precision = openvino.Type.bf16 if graph.precision == "bf16" else openvino.Type.f32
            properties["INFERENCE_PRECISION_HINT"] = precision
        if self.device == "CPU":
            # The default is 32: for INT8 weights on processors with VNNI, OpenVINO quantizes activations at
            # run time, regardless of the hint above. Results would then depend on the processor and on the
            # number of candidates.
            properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = graph.dynamic_quantization_group_size
        if self._simulates_int8:
            properties["LP_TRANSFORMS_MODE"] = False
        if self._cache is not None:
            try:
                folder = model_cache.open_folder(self._cache, graph.sha256)
                properties["CACHE_DIR"] = str(folder)
            except OSError as error:
                self._disable_cache(str(error.strerror))
        compiled = self._core.compile_model(model, self.device, properties)
        if self._cache is not None:
            model_cache.record_hashes(folder)
        return compiled

    def _disable_cache(self, reason: str) -> None:
        _LOG.warning("%s: the cache of compiled models is disabled: %s", self._cache, reason)
        self._cache = None

    def close(self) -> None:
        with signal_stack.preserved():
            self._core = None


@contextmanager
def _backend_errors(name: str, what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise BackendError(
            f"{name}: OpenVINO cannot {what}: {first_line(error)}", code="backend.graph_invalid"
        ) from error


def _properties(device: str, options: BackendOptions) -> dict[str, Any]:
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        # With pinning, each run moves the calling thread to the first cores and back by two system calls, and
        # it competes with other processes there: on two cores with a load of 9, a frame of the demo's model
        # took 4.4 ms at the median, and 1.1 ms without pinning.
        properties |= {"NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
        if options.threads is not None:
            properties["INFERENCE_NUM_THREADS"] = options.threads
    return properties


def _decompress_weights(model: Any) -> None:
    """Replace INT8 weights by their fp32 values, in a graph whose activations are fp32.

    OpenVINO's CPU plugin would do so in each run: with the demo's predictor a run for one candidate took
    twice as long, and a run for 64 took 10 % longer. This costs the memory of fp32 weights.
    """
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)


def _fix_shapes(name: str, model: Any, shapes: Mapping[str, Shape]) -> None:
    ports = {port.get_any_name(): port for port in model.inputs}
    check_inputs(name, ports, shapes)
    for tensor, shape in shapes.items():
        offered = ports[tensor].get_partial_shape()
        if not offered.compatible(openvino.PartialShape(list(shape))):
            raise BackendError(
                f"{name}: input {tensor} has the shape {offered}, requested was {list(shape)}",
                code="backend.shape_mismatch",
            )
    try:
        model.reshape({tensor: list(shape) for tensor, shape in shapes.items()})
    except RuntimeError as error:
        raise BackendError(
            f"{name}: does not accept the shapes {dict(shapes)}: {first_line(error)}",
            code="backend.shape_mismatch",
        ) from error
    for port in model.outputs:
        if port.get_partial_shape().is_dynamic:
            raise BackendError(
                f"{name}: output {port.get_any_name()} has no fixed shape: {port.get_partial_shape()}",
                code="backend.shape_mismatch",
            )
