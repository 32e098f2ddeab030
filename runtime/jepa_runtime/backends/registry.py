"""From ``engine:device`` to a backend. An engine whose library is missing says what to install."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from jepa_runtime.backends.base import Backend, BackendOptions
from jepa_runtime.errors import BackendError

# One artefact serves from here on: networks strongly typed, precision written into the graph.
LEAST_TENSORRT = (10, 3)


@dataclass(frozen=True)
class _Engine:
    libraries: tuple[str, ...]
    install: str
    create: Callable[[str, BackendOptions], Backend]
    device: str = "CPU"
    builds: bool = False

    @property
    def installed(self) -> bool:
        return all(find_spec(library) is not None for library in self.libraries)


def _openvino(device: str, options: BackendOptions) -> Backend:
    if device.startswith("NPU"):
        from jepa_runtime.backends.openvino.npu import NpuBackend

        return NpuBackend(device, options)
    from jepa_runtime.backends.openvino.backend import OpenVINOBackend

    return OpenVINOBackend(device, options)


def _onnxruntime(device: str, options: BackendOptions) -> Backend:
    from jepa_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(device, options)


def _tensorrt(device: str, options: BackendOptions) -> Backend:
    import tensorrt

    from jepa_runtime.backends.tensorrt.backend import TensorRTBackend
    from jepa_runtime.backends.tensorrt.cuda import Cuda

    if tuple(map(int, tensorrt.__version__.split(".")[:2])) < LEAST_TENSORRT:
        least = "{}.{}".format(*LEAST_TENSORRT)
        raise BackendError(
            f"TensorRT {tensorrt.__version__} is too old: {least} or later is needed (JetPack 6.1 or later)"
        )
    return TensorRTBackend("tensorrt", tensorrt, Cuda, device, options)


def _tensorrt_rtx(device: str, options: BackendOptions) -> Backend:
    # Brings the shared libraries that the other needs.
    import tensorrt_rtx_libs  # noqa: F401  # isort: skip
    import tensorrt_rtx_bindings

    from jepa_runtime.backends.tensorrt.backend import TensorRTBackend
    from jepa_runtime.backends.tensorrt.cuda import Cuda

    return TensorRTBackend("tensorrt_rtx", tensorrt_rtx_bindings, Cuda, device, options)


_ENGINES = {
    "openvino": _Engine(("openvino",), "pip install jepa-edge", _openvino),
    "onnxruntime": _Engine(("onnxruntime",), "pip install 'jepa-edge[onnxruntime]'", _onnxruntime),
    "tensorrt": _Engine(
        ("tensorrt", "pycuda"),
        "TensorRT by JetPack (sudo apt install python3-libnvinfer, and a venv with --system-site-packages), "
        "then pip install 'jepa-edge[jetson]'",
        _tensorrt,
        device="0",
        builds=True,
    ),
    "tensorrt_rtx": _Engine(
        ("tensorrt_rtx_libs", "tensorrt_rtx_bindings", "pycuda"),
        "pip install 'jepa-edge[jetson,tensorrt-check]'",
        _tensorrt_rtx,
        device="0",
        builds=True,
    ),
}


def name_and_device(engine: str) -> tuple[str, str]:
    """What ``engine`` says (see :func:`create_backend`), whether there is such an engine or not."""
    name, _, device = engine.partition(":")
    return name, device or (_ENGINES[name].device if name in _ENGINES else "CPU")


def is_installed(engine: str) -> bool:
    """Whether the libraries of an engine are installed; its device may be missing all the same."""
    name, _ = name_and_device(engine)
    return name in _ENGINES and _ENGINES[name].installed


def takes_building(engine: str) -> bool:
    """Whether an engine runs only what ``jepa-runtime build-engine`` has built."""
    name, _ = name_and_device(engine)
    return name in _ENGINES and _ENGINES[name].builds


def alternatives(engine: str) -> list[str]:
    """The engines that ``engine`` lists (``openvino:NPU,openvino:CPU``), the preferred first."""
    return [part.strip() for part in engine.split(",")]


def create_backend(engine: str, options: BackendOptions | None = None) -> Backend:
    """The backend that ``engine`` names; no other one takes its place.

    Args:
        engine: ``name:DEVICE``, for instance ``openvino:CPU``; the device may be left out and is then the
            CPU, or the first GPU.
        options: how it is to run.

    Raises:
        BackendError: no such engine or device, or its library is not installed; the message lists what exists
            and what to install.
    """
    if len(alternatives(engine)) > 1:
        raise BackendError(f"{engine}: names several engines: name one")
    name, device = name_and_device(engine)
    if name not in _ENGINES:
        raise BackendError(f"engine {engine!r} is unknown; there are: {_overview()}")
    chosen = _ENGINES[name]
    try:
        return chosen.create(device, options or BackendOptions())
    except ImportError as error:
        raise BackendError(
            f"engine {name} cannot be used: {error}. Install it: {chosen.install}. Engines: {_overview()}"
        ) from error


def _overview() -> str:
    return ", ".join(
        f"{name} ({'installed' if engine.installed else engine.install})" for name, engine in _ENGINES.items()
    )
