"""TensorRT and TensorRT for RTX on NVIDIA GPUs."""

from typing import TYPE_CHECKING

from jepa_runtime.backends.base import Backend, BackendOptions, Engine
from jepa_runtime.errors import BackendError
from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.backends.tensorrt import builder
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "": ["builder"],
        },
    )

__all__ = [
    "ENGINES",
    "builder",
]

# From this version on one ONNX variant serves all: networks are strongly typed, with precision in the graph.
MIN_TENSORRT = (10, 3)
_TRANSFERS = "uploads and downloads are part of encode and predict: one CUDA graph each"


def _create(device: str, options: BackendOptions) -> Backend:
    import tensorrt

    from jepa_runtime.backends.tensorrt.backend import TensorRTBackend
    from jepa_runtime.backends.tensorrt.cuda import Cuda

    if tuple(map(int, tensorrt.__version__.split(".")[:2])) < MIN_TENSORRT:
        required = "{}.{}".format(*MIN_TENSORRT)
        raise BackendError(
            f"TensorRT {tensorrt.__version__} is too old: {required} or later is required (JetPack 6.1 or "
            "later)",
            code="backend.version_unsupported",
        )
    return TensorRTBackend("tensorrt", tensorrt, Cuda, device, options)


def _create_rtx(device: str, options: BackendOptions) -> Backend:
    # This package contains the shared libraries that the other requires.
    import tensorrt_rtx_libs  # noqa: F401  # isort: skip
    import tensorrt_rtx_bindings

    from jepa_runtime.backends.tensorrt.backend import TensorRTBackend
    from jepa_runtime.backends.tensorrt.cuda import Cuda

    return TensorRTBackend("tensorrt_rtx", tensorrt_rtx_bindings, Cuda, device, options)


ENGINES = (
    Engine(
        name="tensorrt",
        description="TensorRT on an NVIDIA GPU (Jetson and others)",
        create=_create,
        devices={"tensorrt": "0"},
        default_device="0",
        modules=("tensorrt", "pycuda"),
        install="TensorRT from JetPack (sudo apt install python3-libnvinfer, and a venv with "
        "--system-site-packages), then pip install 'jepa-edge[jetson]'",
        requires_build=True,
        transfers=_TRANSFERS,
    ),
    Engine(
        name="tensorrt_rtx",
        description="TensorRT for RTX on an NVIDIA GPU",
        create=_create_rtx,
        devices={"tensorrt": "0"},
        default_device="0",
        modules=("tensorrt_rtx_libs", "tensorrt_rtx_bindings", "pycuda"),
        install="pip install 'jepa-edge[jetson,tensorrt-check]'",
        requires_build=True,
        transfers=_TRANSFERS,
    ),
)
"""TensorRT and TensorRT for RTX."""
