"""Backend for TensorRT 10.3 to 11 on an NVIDIA GPU, and for TensorRT for RTX, which has the same interface.

An engine takes minutes to build. It is not built when a model is opened, unless the caller requests it, as
``jepa-runtime build-engine`` does. All CUDA calls are behind :mod:`jepa_runtime.backends.tensorrt.gpu`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from jepa_runtime.backends.base import Array, BackendOptions, Graph, LayerTime, Session, Shape
from jepa_runtime.backends.tensorrt import builder
from jepa_runtime.backends.tensorrt.engine_store import EngineKey, EngineStore, engine_folders
from jepa_runtime.backends.tensorrt.gpu import Buffer, Gpu, Work
from jepa_runtime.backends.tensorrt.kernels import Launch, find_fatbin, launch
from jepa_runtime.errors import BackendError, FrameError

_LOG = logging.getLogger(__name__)
# The number of image sizes whose memory and CUDA graph are cached: some cameras and a goal.
_MAX_SIZES = 8


class TensorRTSession:
    """An engine with its execution context and buffers; one CUDA graph runs it with all copies.

    Args:
        name: The name of the graph in error messages.
        trt: The library.
        listener: Its logger, see :func:`jepa_runtime.backends.tensorrt.builder.listener`.
        gpu: The GPU.
        engine: The deserialized engine.
        shapes: The shape of each input.
        scales: Whether the kernel is loaded that resizes images to ``frame`` on the GPU.
        filled: Inputs that other sessions fill on the GPU.

    Attributes:
        device_ms: The time of the last run on the GPU's clock, including copies.
    """

    def __init__(
        self,
        name: str,
        trt: Any,
        listener: Any,
        gpu: Gpu,
        engine: Any,
        shapes: Mapping[str, Shape],
        *,
        scales: bool = False,
        filled: Mapping[str, Buffer] = MappingProxyType({}),
    ) -> None:
        self._made_of: tuple[Any, ...] = name, trt, listener, gpu, engine, shapes
        self._filled = dict(filled)
        self._name, self._listener, self._gpu = name, listener, gpu
        self._inputs: dict[str, Buffer] = {}
        self._outputs: dict[str, Buffer] = {}
        self._images: dict[Shape, tuple[Buffer, Work]] = {}
        self._context: Any = None
        self.device_ms = 0.0
        try:
            self._prepare(trt, engine, shapes)
            self.inputs: Mapping[str, Array] = {key: buffer.host for key, buffer in self._inputs.items()}
            self.outputs: Mapping[str, Array] = {key: buffer.host for key, buffer in self._outputs.items()}
            self._work: Work | None = self._recorded(self._enqueue)
        except BaseException:
            self.close()
            raise
        self._next: Work | None = self._work
        self._scales = scales and "frame" in self.inputs and self.inputs["frame"].dtype == np.uint8

    def run(self) -> Mapping[str, Array]:
        if self._next is None:
            raise BackendError(f"{self._name}: the session is closed", code="backend.closed")
        work, self._next = self._next, self._work
        try:
            self.device_ms = self._gpu.run(work)
        except BackendError as error:
            raise type(error)(f"{self._name}: inference failed: {error}", code=error.code) from error
        return self.outputs

    def scale(self, image: Array) -> bool:
        if not self._scales or self._next is None:
            return False
        # Entries are in order of their last use.
        found = self._images.pop(image.shape, None)
        if found is None:
            try:
                found = self._scaling(image.shape)
            except FrameError:
                return False
        while len(self._images) >= _MAX_SIZES:
            self._images.pop(next(iter(self._images)))
        self._images[image.shape] = found
        buffer, self._next = found
        np.copyto(buffer.host, image)
        return True

    def link(self, name: str, source: Session, output: str) -> TensorRTSession | None:
        if not isinstance(source, TensorRTSession) or source._gpu is not self._gpu:
            return None
        produced, consumed = source._outputs[output], self._inputs[name]
        if produced.host.nbytes != consumed.host.nbytes or produced.host.dtype != consumed.host.dtype:
            return None
        return TensorRTSession(*self._made_of, filled={name: produced})

    def profile(self, profiler: Any, runs: int) -> None:
        """Run with a profiler, which slows the engine down."""
        self._context.profiler = profiler
        for _ in range(runs):
            self._gpu.run(self._enqueue)

    def close(self) -> None:
        # Graphs are released before the memory that they use.
        self._work = self._next = None
        self._images.clear()
        self._context = None
        self.inputs = self.outputs = {}
        for buffers in (self._inputs, self._outputs, self._filled):
            buffers.clear()
        self._made_of = ()

    def _prepare(self, trt: Any, engine: Any, shapes: Mapping[str, Shape]) -> None:
        """Create the context and its buffers, without local variables, which would outlive an error."""
        self._context = engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                f"{self._name}: no memory for its activations: {self._listener.why()}",
                code="backend.out_of_memory",
            )
        for tensor, shape in shapes.items():
            if not self._context.set_input_shape(tensor, shape):
                raise BackendError(
                    f"{self._name}: input {tensor} does not accept {list(shape)}: {self._listener.why()}",
                    code="backend.shape_mismatch",
                )
        for tensor in map(engine.get_tensor_name, range(engine.num_io_tensors)):
            is_input = engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT
            buffers = self._filled if tensor in self._filled else self._inputs if is_input else self._outputs
            if tensor not in buffers:
                buffers[tensor] = self._buffer(trt, engine, tensor)
            if not self._context.set_tensor_address(tensor, buffers[tensor].address):
                raise BackendError(
                    f"{self._name}: cannot set the address of {tensor}: {self._listener.why()}",
                    code="backend.graph_invalid",
                )

    def _buffer(self, trt: Any, engine: Any, tensor: str) -> Buffer:
        shape, kind = tuple(self._context.get_tensor_shape(tensor)), engine.get_tensor_dtype(tensor)
        try:
            dtype = trt.nptype(kind)
        except TypeError as error:
            raise BackendError(
                f"{self._name}: {tensor} has the type {kind}, which NumPy does not support",
                code="backend.graph_invalid",
            ) from error
        if not all(size > 0 for size in shape):
            raise BackendError(
                f"{self._name}: {tensor} has no fixed shape: {list(shape)}", code="backend.shape_mismatch"
            )
        return self._gpu.buffer(shape, dtype)

    def _scaling(self, shape: Shape) -> tuple[Buffer, Work]:
        """Return memory for an image of this shape, and a recorded run that resizes that image."""
        buffer = self._gpu.buffer(shape, np.uint8)
        height, width = self.inputs["frame"].shape[1:3]
        kernel = launch(buffer.address, shape[:2], self._inputs["frame"].address, (height, width))
        return buffer, self._recorded(partial(self._enqueue, buffer, kernel))

    def _enqueue(self, image: Buffer | None = None, kernel: Launch | None = None) -> None:
        """Enqueue a run on the stream; ``kernel`` resizes an image to ``frame``."""
        for tensor, buffer in self._inputs.items():
            if image is None or tensor != "frame":
                self._gpu.upload(buffer)
        if image is not None and kernel is not None:
            self._gpu.upload(image)
            self._gpu.launch(kernel)
        if not self._context.execute_async_v3(self._gpu.stream):
            raise BackendError(self._listener.why(), code="backend.inference_failed")
        for buffer in self._outputs.values():
            self._gpu.download(buffer)

    def _recorded(self, work: Work) -> Work:
        # The first run allocates memory, which cannot be captured.
        self._gpu.run(work)
        try:
            return self._gpu.record(work)
        except BackendError as error:
            _LOG.warning(
                "%s: cannot capture a CUDA graph (%s): launching operations separately", self._name, error
            )
            return work


class TensorRTBackend:
    """TensorRT on one GPU.

    Args:
        engine: The name of this engine: tensorrt or tensorrt_rtx.
        trt: The library.
        open_gpu: Opens the GPU with a number.
        device: The number of the GPU.
        options: The options of the backend.

    Raises:
        BackendError: The GPU does not exist, or its driver does not work.
    """

    targets = ("tensorrt", "onnx")

    def __init__(
        self, engine: str, trt: Any, open_gpu: Callable[[int], Gpu], device: str, options: BackendOptions
    ) -> None:
        if not device.isdecimal():
            raise BackendError(
                f"{engine}:{device}: the device must be the number of a GPU, such as {engine}:0",
                code="backend.device_not_found",
            )
        self.engine, self.device = engine, device
        self._trt, self._options = trt, options
        self._store = EngineStore(engine_folders(options.cache_dir))
        self._listener = builder.listener(trt)
        self._gpu: Gpu | None = open_gpu(int(device))
        try:
            self._runtime = builder.started(trt.Runtime, self._listener)
            self.version = f"{trt.__version__} on {self._gpu.name}"
            self._scales = self._load_kernel(self._gpu)
        except BaseException:
            self.close()
            raise

    def load(
        self, graph: Graph | Path, shapes: Mapping[str, Shape], rows: Collection[str] = ()
    ) -> TensorRTSession:
        graph = Graph.read(graph) if isinstance(graph, Path) else graph
        self._options.between()
        engine = self._deserialized(graph, shapes)
        self._options.between()
        return TensorRTSession(
            graph.name, self._trt, self._listener, self._open(), engine, shapes, scales=self._scales
        )

    def layer_times(self, graph: Graph, shapes: Mapping[str, Shape], runs: int) -> list[LayerTime]:
        spent: dict[str, float] = {}

        class Profiler(self._trt.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self, trt: Any) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                spent[layer_name] = spent.get(layer_name, 0.0) + ms

        engine = self._deserialized(graph, shapes)
        session = TensorRTSession(graph.name, self._trt, self._listener, self._open(), engine, shapes)
        profiler = Profiler(self._trt)
        try:
            session.profile(profiler, runs)
        finally:
            session.close()
        return [LayerTime(name, "layer", self.engine, total / runs) for name, total in spent.items()]

    def close(self) -> None:
        if self._gpu is not None:
            self._runtime = None
            gpu, self._gpu = self._gpu, None
            gpu.close()

    def _load_kernel(self, gpu: Gpu) -> bool:
        try:
            gpu.load_kernel(find_fatbin())
        except BackendError as error:
            _LOG.warning("%s:%s: resizing images on the CPU: %s", self.engine, self.device, error)
            return False
        return True

    def _open(self) -> Gpu:
        if self._gpu is None:
            raise BackendError(
                f"{self.engine}:{self.device}: the backend is closed: open it again", code="backend.closed"
            )
        return self._gpu

    def _deserialized(self, graph: Graph, shapes: Mapping[str, Shape]) -> Any:
        key = self._key(graph, shapes)
        try:
            return self._found(key)
        except BackendError as error:
            if self._options.build is None:
                raise BackendError(
                    f"{graph.name}: {error}: build it, which takes minutes, with the same --precision, "
                    f"--num-samples and --cache-dir: jepa-runtime build-engine BUNDLE --engine {self.engine}",
                    code="backend.engine_not_built",
                ) from error
        with self._store.build_lock():
            # Another process may have built it in the meantime.
            try:
                return self._found(key)
            except BackendError as error:
                _LOG.warning("%s: %s: building its engine", graph.name, error)
            return self._build(graph, shapes, key, partial(self._options.build, graph.name))

    def _found(self, key: EngineKey) -> Any:
        engine = self._runtime.deserialize_cuda_engine(self._store.find(key))
        if engine is None:
            raise BackendError(
                f"{self._trt.__name__} rejects its engine: {self._listener.why()}",
                code="backend.engine_invalid",
            )
        return engine

    def _build(
        self, graph: Graph, shapes: Mapping[str, Shape], key: EngineKey, progress: builder.Progress
    ) -> Any:
        timing_cache = f"{self.engine}.timings"
        built = builder.build(
            self._trt,
            self._listener,
            graph,
            shapes,
            progress=progress,
            timings=self._store.read(timing_cache),
            # Without a limit the builder uses three quarters of a Jetson's memory, which is shared.
            memory_bytes=self._open().free_bytes,
        )
        engine = self._runtime.deserialize_cuda_engine(built.engine)
        if engine is None:
            raise BackendError(
                f"{graph.name}: the new engine cannot be loaded: {self._listener.why()}",
                code="backend.engine_invalid",
            )
        layers = builder.layers(self._trt, engine)
        self._store.store(key, built.engine, layers=layers, graph=graph.name, build_s=built.build_s)
        self._store.write(timing_cache, built.timings)
        return engine

    def _key(self, graph: Graph, shapes: Mapping[str, Shape]) -> EngineKey:
        gpu = self._open()
        return EngineKey(
            graph_sha256=graph.sha256,
            shapes=tuple(sorted((name, tuple(shape)) for name, shape in shapes.items())),
            library=self._trt.__name__,
            version=self._trt.__version__,
            gpu=gpu.name,
            compute_capability=".".join(map(str, gpu.compute_capability)),
            multiprocessors=gpu.multiprocessors,
            driver=gpu.driver,
            options=builder.OPTIONS,
        )
