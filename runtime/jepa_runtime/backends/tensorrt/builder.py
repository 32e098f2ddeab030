"""Builder of engines from ONNX graphs, for TensorRT 10.3 to 11 and TensorRT for RTX."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jepa_runtime.backends.base import Graph, Shape, check_inputs
from jepa_runtime.errors import BackendError

# Part of the key of engines: the settings below change their results or their speed.
OPTIONS = "strongly typed, no tf32, detailed"
_LOG = logging.getLogger(__name__)
_LISTENERS: dict[Any, Any] = {}

Progress = Callable[[str, int, int], bool]
"""Called on any thread with the phase, the finished steps and all steps; False stops the build."""


@dataclass(frozen=True)
class Built:
    """Represent a built engine.

    Attributes:
        engine: The serialized engine.
        layers: The number of layers that the parser created.
        timings: The timing cache, for the next build.
        build_s: The duration of the build.
    """

    engine: bytes
    layers: int
    timings: bytes
    build_s: float


def listener(trt: Any) -> Any:
    """Return the logger of ``trt``, one per process, as TensorRT requires.

    Warnings go to the log. The last errors, or else the last warning, are stored, because failing calls
    report no reason.
    """
    kind = trt.ILogger
    if kind not in _LISTENERS:
        _LISTENERS[kind] = _listener(trt)
    return _LISTENERS[kind]


def _listener(trt: Any) -> Any:
    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._messages: deque[str] = deque(maxlen=5)
            self._warned = ""

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(trt.ILogger.ERROR):
                self._messages.append(msg.strip())
            elif int(severity) == int(trt.ILogger.WARNING):
                self._warned = msg.strip()
                _LOG.info("%s: %s", trt.__name__, msg.strip())

        def why(self) -> str:
            """Return the errors since the last call, or the last warning."""
            messages = [self._messages.popleft() for _ in range(len(self._messages))]
            warned, self._warned = self._warned, ""
            return "; ".join(messages) or warned or "no reason reported"

    return Listener()


def started(kind: Callable[[Any], Any], listener: Any) -> Any:
    """Create a runtime or a builder of the library.

    Raises:
        BackendError: It cannot be created.
    """
    try:
        return kind(listener)
    # pybind11 raises it if the constructor returned nothing.
    except TypeError as error:
        raise BackendError(
            f"TensorRT does not work with this driver: {listener.why()}: install a version for its CUDA",
            code="backend.version_unsupported",
        ) from error


def build(
    trt: Any,
    listener: Any,
    graph: Graph,
    shapes: Mapping[str, Shape],
    *,
    progress: Progress,
    timings: bytes = b"",
    memory_bytes: int | None = None,
    capability: Any = None,
) -> Built:
    """Build the engine of an ONNX graph for fixed shapes.

    Args:
        trt: The library.
        listener: See :func:`listener`.
        graph: The graph.
        shapes: The shape of each input.
        progress: Called with the progress of the build.
        timings: The timing cache of an earlier build; that of another GPU or version is ignored.
        memory_bytes: The memory limit of the build (on a Jetson including host memory); half of it may be the
            workspace of a layer. None: the limit of the library.
        capability: For TensorRT for RTX only: the GPU to build for (a ``ComputeCapability``); None: this one.

    Raises:
        BackendError: The library rejects the graph, or ``progress`` stopped the build.
    """
    began = time.monotonic()
    builder = started(trt.Builder, listener)
    # Ignored by TensorRT 11, where networks are nothing else.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, listener)
    # A file that is not ONNX may be parsed as an empty network.
    if not parser.parse(graph.model) or not network.num_layers:
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise BackendError(
            f"{graph.name}: {trt.__name__} cannot read it: {errors or listener.why()}",
            code="backend.graph_invalid",
        )
    config = builder.create_builder_config()
    # Operations that the graph computes in fp32 need that precision.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.add_optimization_profile(_profile(builder, network, graph.name, shapes))
    if memory_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, memory_bytes)
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, memory_bytes // 2)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)
    cache = config.create_timing_cache(timings)
    if cache is not None:
        config.set_timing_cache(cache, ignore_mismatch=False)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    built = builder.build_serialized_network(network, config)
    if monitor.error is not None:
        raise monitor.error
    if built is None:
        reason = "the build was stopped" if monitor.stopped else listener.why()
        raise BackendError(
            f"{graph.name}: {trt.__name__} cannot build its engine: {reason}", code="backend.build_failed"
        )
    measured = config.get_timing_cache()
    return Built(
        bytes(built),
        network.num_layers,
        bytes(measured.serialize()) if measured is not None else b"",
        round(time.monotonic() - began, 2),
    )


def layers(trt: Any, engine: Any) -> str:
    """Return the layers of an engine, as JSON of the library."""
    information: str = engine.create_engine_inspector().get_engine_information(
        trt.LayerInformationFormat.JSON
    )
    return information


def _profile(builder: Any, network: Any, name: str, shapes: Mapping[str, Shape]) -> Any:
    ports = {port.name: port for port in map(network.get_input, range(network.num_inputs))}
    check_inputs(name, ports, shapes)
    profile = builder.create_optimization_profile()
    for tensor, shape in shapes.items():
        offered = tuple(ports[tensor].shape)
        if len(offered) != len(shape) or any(
            size not in (-1, requested) for size, requested in zip(offered, shape, strict=True)
        ):
            raise BackendError(
                f"{name}: input {tensor} has the shape {list(offered)}, requested was {list(shape)}",
                code="backend.shape_mismatch",
            )
        profile.set_shape(tensor, shape, shape, shape)
    return profile


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Stops the build if ``progress`` raises, and stores the error, which the library would discard."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.stopped = False
            self.error: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self._report(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._report(phase_name, step + 1, self.steps.get(phase_name, step + 1))
            return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, 1)
            self._report(phase_name, steps, steps)

        def _report(self, phase: str, done: int, steps: int) -> None:
            try:
                proceed = progress(phase, done, steps)
            except BaseException as error:
                self.error, proceed = self.error or error, False
            self.stopped = self.stopped or not proceed

    return Monitor()
