"""ONNX to an engine, by TensorRT 10.3 to 11 or TensorRT for RTX, on the GPU that is to run it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jepa_runtime.backends.base import Graph, Shape, check_inputs
from jepa_runtime.errors import BackendError

# Part of the key of engines: what is set below changes what they compute, or how fast.
OPTIONS = "strongly typed, no tf32, detailed"
_LOG = logging.getLogger(__name__)
_LISTENERS: dict[Any, Any] = {}

Progress = Callable[[str, int, int], bool]
"""Is told a phase of the build, its steps done and all of them, on any thread; False ends the build."""


@dataclass(frozen=True)
class Built:
    """An engine, the layers that the parser made of the graph, what the builder measured (for the next
    build), and how long it took (s)."""

    engine: bytes
    layers: int
    timings: bytes
    build_s: float


def listener(trt: Any) -> Any:
    """The logger for everything of ``trt``: TensorRT keeps one for the whole process, so there is one, until
    its end. Warnings go to the log; the last errors, else the last warning, are kept, since calls that fail
    say only that they did.
    """
    kind = trt.ILogger
    if kind not in _LISTENERS:
        _LISTENERS[kind] = _listener(trt)
    return _LISTENERS[kind]


def _listener(trt: Any) -> Any:
    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._said: deque[str] = deque(maxlen=5)
            self._warned = ""

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(trt.ILogger.ERROR):
                self._said.append(msg.strip())
            elif int(severity) == int(trt.ILogger.WARNING):
                self._warned = msg.strip()
                _LOG.info("%s: %s", trt.__name__, msg.strip())

        def why(self) -> str:
            """What was said since the last time."""
            said = [self._said.popleft() for _ in range(len(self._said))]
            warned, self._warned = self._warned, ""
            return "; ".join(said) or warned or "it does not say why"

    return Listener()


def started(kind: Callable[[Any], Any], listener: Any) -> Any:
    """A runtime or a builder of the library.

    Raises:
        BackendError: it does not start.
    """
    try:
        return kind(listener)
    # Raised by pybind11 where the constructor returned nothing.
    except TypeError as error:
        raise BackendError(
            f"TensorRT does not start on this driver: {listener.why()}: take one that is made for its CUDA"
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
        trt: the library.
        listener: see :func:`listener`.
        shapes: of each input.
        progress: is told how far it is.
        timings: what an earlier build measured; of another GPU or version they are left out.
        memory_bytes: the most that the build may take (on a Jetson that includes host memory), of which half
            may be the workspace of a layer; None: the library's own limit.
        capability: TensorRT for RTX alone: the GPU to build for (a ``ComputeCapability``), None: the one
            here.

    Raises:
        BackendError: the library does not take the graph, or was stopped by ``progress``.
    """
    began = time.monotonic()
    builder = started(trt.Builder, listener)
    # Ignored by TensorRT 11, where networks are nothing else.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, listener)
    # What is no ONNX at all may count as an empty network.
    if not parser.parse(graph.model) or not network.num_layers:
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise BackendError(f"{graph.name}: {trt.__name__} cannot read it: {errors or listener.why()}")
    config = builder.create_builder_config()
    # What the graph has in fp32 is there for a reason.
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
        reason = "it was stopped" if monitor.stopped else listener.why()
        raise BackendError(f"{graph.name}: {trt.__name__} cannot build an engine of it: {reason}")
    measured = config.get_timing_cache()
    return Built(
        bytes(built),
        network.num_layers,
        bytes(measured.serialize()) if measured is not None else b"",
        round(time.monotonic() - began, 2),
    )


def layers(trt: Any, engine: Any) -> str:
    """What an engine consists of, as the library tells it: JSON."""
    told: str = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return told


def _profile(builder: Any, network: Any, name: str, shapes: Mapping[str, Shape]) -> Any:
    ports = {port.name: port for port in map(network.get_input, range(network.num_inputs))}
    check_inputs(name, ports, shapes)
    profile = builder.create_optimization_profile()
    for tensor, shape in shapes.items():
        offered = tuple(ports[tensor].shape)
        if len(offered) != len(shape) or any(
            size not in (-1, asked) for size, asked in zip(offered, shape, strict=True)
        ):
            raise BackendError(f"{name}: input {tensor} takes {list(offered)}, asked for was {list(shape)}")
        profile.set_shape(tensor, shape, shape, shape)
    return profile


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """What ``progress`` raises would be lost in the library: it ends the build, and is raised then."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.stopped = False
            self.error: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self._tell(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1, self.steps.get(phase_name, step + 1))
            return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, 1)
            self._tell(phase_name, steps, steps)

        def _tell(self, phase: str, done: int, steps: int) -> None:
            try:
                go_on = progress(phase, done, steps)
            except BaseException as error:
                self.error, go_on = self.error or error, False
            self.stopped = self.stopped or not go_on

    return Monitor()
