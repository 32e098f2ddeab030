"""A simulated TensorRT: the interface that the backend uses, computed by ONNX Runtime.

Its engines are the ONNX file with the version and the shapes for which it was "built". It replaces TensorRT
without a GPU. test_tensorrt_api.py verifies that the names exist in the real library, and
test_tensorrt_builder.py that NVIDIA's builder accepts the graphs.
"""

from __future__ import annotations

import json
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.runtime.backends.simulated_gpu import BY_STREAM

_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


class _Callbacks:
    def __init__(self) -> None:
        pass


class ILogger(_Callbacks):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Engine:
    def __init__(self, content: bytes, shapes: dict[str, list[int]]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.shapes = shapes
        self._inputs = {port.name: port for port in self.session.get_inputs()}
        self._outputs = {port.name: port for port in self.session.get_outputs()}
        self.num_io_tensors = len(self._inputs) + len(self._outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self._inputs else "output"

    def get_tensor_dtype(self, name: str) -> type:
        return _TYPES[{**self._inputs, **self._outputs}[name].type]

    def create_execution_context(self) -> Context:
        return Context(self)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _: json.dumps({"Layers": ["simulated"]}))


class Context:
    profiler: Any = None

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return self._engine.shapes.get(name) == list(shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._engine.shapes:
            return tuple(self._engine.shapes[name])
        zeros = {key: self._zeros(key) for key in self._engine.shapes}
        return tuple(self._engine.session.run([name], zeros)[0].shape)

    def execute_async_v3(self, stream: int) -> bool:
        gpu = BY_STREAM[stream]
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        arrays = {name: gpu.at(self._addresses[name]) for name in names}
        # Memory has no shape: it may have been filled with another one.
        inputs = {name: arrays[name].reshape(shape) for name, shape in self._engine.shapes.items()}

        def compute() -> None:
            outputs = [name for name in names if name not in inputs]
            for name, result in zip(outputs, self._engine.session.run(outputs, inputs), strict=True):
                np.copyto(arrays[name], result)
            if self.profiler is not None:
                self.profiler.report_layer_time("simulated layer", 0.5)

        gpu.enqueue(compute)
        return True

    def _zeros(self, name: str) -> Any:
        return np.zeros(self._engine.shapes[name], self._engine.get_tensor_dtype(name))


class SimulatedTensorRT:
    """The module."""

    __name__ = "tensorrt"
    __spec__ = ModuleSpec("tensorrt", None)
    ILogger, IProfiler, IProgressMonitor = ILogger, _Callbacks, _Callbacks
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    BuilderFlag = SimpleNamespace(TF32="tf32")
    ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    MemoryPoolType = SimpleNamespace(TACTIC_DRAM="tactics", WORKSPACE="workspace")
    LayerInformationFormat = SimpleNamespace(JSON="json")

    def __init__(self, version: str = "10.3.0") -> None:
        self.__version__ = version
        self.builds = 0

    @staticmethod
    def nptype(kind: type) -> type:
        return kind

    def Builder(self, logger: Any) -> Any:
        return SimpleNamespace(
            create_network=lambda flags: SimpleNamespace(model=None),
            create_builder_config=_Config,
            create_optimization_profile=_Profile,
            build_serialized_network=lambda network, config: self._built(logger, network, config),
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        def parse(content: bytes) -> bool:
            try:
                network.model = onnx.load_model_from_string(content)
                onnx.checker.check_model(network.model)
            except Exception as error:
                errors.append(str(error).splitlines()[0])
                return False
            ports = [_port(port) for port in network.model.graph.input]
            network.num_inputs, network.get_input = len(ports), ports.__getitem__
            network.num_layers = len(network.model.graph.node)
            return True

        errors: list[str] = []
        parser = SimpleNamespace(parse=parse)
        parser.get_error = lambda index: SimpleNamespace(desc=lambda: errors[index])
        parser.num_errors = 1
        return parser

    def Runtime(self, logger: Any) -> Any:
        def deserialize(content: bytes) -> Engine | None:
            head, _, model = content.partition(b"\n")
            built = json.loads(head)
            if built["version"] != self.__version__:
                logger.log(ILogger.ERROR, f"built by {built['version']}, this is {self.__version__}")
                return None
            return Engine(model, built["shapes"])

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    def _built(self, logger: Any, network: Any, config: Any) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 2)
        for step in range(2):
            if not monitor.step_complete("Building", step):
                return None
        monitor.phase_finish("Building")
        self.builds += 1
        self.limits = config.limits
        head = json.dumps({"version": self.__version__, "shapes": config.shapes})
        return head.encode() + b"\n" + bytes(network.model.SerializeToString())


class _Config(SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(cache=None, limits={})

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.limits[pool] = size

    def clear_flag(self, flag: str) -> None:
        pass

    def add_optimization_profile(self, profile: _Profile) -> None:
        self.shapes = profile.shapes

    def create_timing_cache(self, content: bytes) -> bytes:
        return content + b"measured;"

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> None:
        self.cache = cache

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.cache)


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[int]] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = list(shapes[0])


def _port(port: Any) -> Any:
    sizes = port.type.tensor_type.shape.dim
    return SimpleNamespace(name=port.name, shape=[size.dim_value or -1 for size in sizes])
