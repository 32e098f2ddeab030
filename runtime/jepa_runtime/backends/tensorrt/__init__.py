"""TensorRT and TensorRT for RTX on NVIDIA GPUs."""

from pathlib import Path
from typing import TYPE_CHECKING

from jepa_runtime.backends.base import Backend, BackendOptions, Engine, Package
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
_PYCUDA = Package(
    name="pycuda",
    title="PyCUDA",
    at_least=(2024, 1),
    machines=("jetson",),
    instructions=(
        "# the installation compiles PyCUDA and needs the CUDA toolkit: sudo apt-get install nvidia-jetpack",
    ),
    # Its setup finds the toolkit through nvcc.
    pip_environment="PATH=/usr/local/cuda/bin:$PATH",
)
_TENSORRT = Package(
    name="tensorrt",
    title="TensorRT",
    at_least=MIN_TENSORRT,
    below=(12, 0),
    machines=("jetson",),
    instructions=(
        "# TensorRT 10.3 is part of JetPack 6.1: upgrade earlier JetPack releases first",
        "sudo apt-get install python3-libnvinfer",
        "# these bindings are for the system's Python; create the environment with python3 -m venv "
        "--system-site-packages to use them, or build them from the NVIDIA/TensorRT sources for another "
        "Python",
    ),
    pip=False,
)
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


def _build_folder(cache_dir: Path | None) -> Path:
    from jepa_runtime.backends.tensorrt.engine_store import engine_folders

    return engine_folders(cache_dir)[0]


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
        packages=(_TENSORRT, _PYCUDA),
        build_folder=_build_folder,
        preferred_targets={"jetson": ("tensorrt",)},
        fallback_targets={"onnx": "the GPU will run its ONNX variant in fp32"},
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
        packages=(Package(name="tensorrt-rtx-cu13-libs", title="TensorRT for RTX"), _PYCUDA),
        build_folder=_build_folder,
        transfers=_TRANSFERS,
    ),
)
"""TensorRT and TensorRT for RTX."""
